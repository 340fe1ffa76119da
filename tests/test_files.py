"""Files that are damaged, foreign, hostile, or half written when a process is killed."""

import base64
import io
import json
import multiprocessing
import os
import pathlib
import pickle
import signal
import time
import zipfile
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch as th
from conftest import Clock, assert_equal_weights, tiny_dreamer, weights_of
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule

from sb3_dreamer import DREAMER_V3, Dreamer
from sb3_dreamer.common.model_file import ENTRY
from sb3_dreamer.common.optimizers import LaProp
from sb3_dreamer.world_models import ModelSize

OBS = np.array([[0.3, 0.9, -1.0], [1.0, 0.0, 2.0]], dtype=np.float32)


@pytest.fixture(scope="module")
def trained() -> Dreamer:
    return tiny_dreamer().learn(60)


def rewrite(source: pathlib.Path, target: pathlib.Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Copy a zip file with its parts changed, or left out where the change is None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def edit_header(**changes: Any) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        return json.dumps({**json.loads(content), **changes}).encode() if name == ENTRY else content

    return change


# ---- damaged and foreign files


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.99])
@pytest.mark.parametrize("trusted", [True, False])
def test_truncated_models(trained: Dreamer, tmp_path: pathlib.Path, share: float, trusted: bool) -> None:
    trained.save(tmp_path / "model")
    content = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "part.zip").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"part\.zip cannot be loaded: it is not a model's zip file, or only a part"):
        Dreamer.load(tmp_path / "part.zip", trusted=trusted)


def test_flipped_bytes(trained: Dreamer, tmp_path: pathlib.Path) -> None:
    trained.save(tmp_path / "model")
    trained.save_replay_buffer(tmp_path / "replay")
    for name in ("model.zip", "replay.pkl"):
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.zip cannot be loaded: it is damaged"):
        Dreamer.load(tmp_path / "model.zip")
    replay = trained.replay_buffer
    with pytest.raises(ValueError, match=r"replay\.pkl cannot be loaded: it is damaged"):
        trained.load_replay_buffer(tmp_path / "replay.pkl")
    assert trained.replay_buffer is replay


def test_any_flipped_byte_is_noticed_or_harmless(trained: Dreamer, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    trained.save(tmp_path / "model")
    trained.save_replay_buffer(tmp_path / "replay")
    replay, refused = trained.replay_buffer, 0
    for name, tries in (("model.zip", 60), ("replay.pkl", 200)):
        content = (tmp_path / name).read_bytes()
        for _ in range(tries):
            # most often near the end, where the zip file's directory is
            at = int(rng.integers(len(content))) if rng.random() < 0.3 else len(content) - 1 - int(rng.integers(1000))
            changed = bytearray(content)
            changed[at] ^= int(rng.integers(1, 256))
            (tmp_path / name).write_bytes(changed)
            try:
                if name == "model.zip":
                    Dreamer.load(tmp_path / name, trusted=False, device="cpu")
                else:
                    trained.load_replay_buffer(tmp_path / name)
            except ValueError as error:  # and no other
                assert name in str(error)
                refused += 1
    assert refused > 150
    trained.replay_buffer = replay


HOSTILE: list[dict[str, Any]] = [
    {"batch_size": "16"},
    {"buffer_size": float("inf")},
    {"n_envs": 0},
    {"num_timesteps": "many"},
    {"policy_class": 3},
    {"policy_kwargs": {"$kind": "dict", "items": {"nonsense": 1}}},
    {"learning_rate": {"$kind": "linear", "values": [1.0]}},
    {"predict": {"$kind": "constant", "value": 1.0}},
    {"observation_space": {"$kind": "Text"}},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda changes: next(iter(changes)))
def test_nonsense_in_plain_data_is_refused(trained: Dreamer, tmp_path: pathlib.Path, changes: dict[str, Any]) -> None:
    trained.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read(ENTRY))["data"]
    rewrite(tmp_path / "model.zip", tmp_path / "changed.zip", edit_header(data={**data, **changes}))
    with pytest.raises(ValueError, match=r"changed\.zip cannot be loaded"):
        Dreamer.load(tmp_path / "changed", trusted=False)
    rewrite(tmp_path / "model.zip", tmp_path / "fewer.zip", edit_header(data={k: v for k, v in data.items() if k != "gamma"}))
    with pytest.raises(ValueError, match=r"\['gamma'\] are missing"):
        Dreamer.load(tmp_path / "fewer", trusted=False)
    for header in ([], {"data": 3}):
        rewrite(
            tmp_path / "model.zip", tmp_path / "odd.zip", lambda n, c, h=header: json.dumps(h).encode() if n == ENTRY else c
        )
        with pytest.raises(ValueError, match="cannot be loaded"):
            Dreamer.load(tmp_path / "odd", trusted=False)


def test_truncated_replays(trained: Dreamer, tmp_path: pathlib.Path) -> None:
    trained.save_replay_buffer(tmp_path / "replay")
    content = (tmp_path / "replay.pkl").read_bytes()
    replay, size = trained.replay_buffer, trained.replay_buffer.size()  # type: ignore[union-attr]
    for share in (0.0, 0.5, 0.95):
        (tmp_path / "part.pkl").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=r"part\.pkl cannot be loaded"):
            trained.load_replay_buffer(tmp_path / "part.pkl")
    assert trained.replay_buffer is replay and replay is not None and replay.size() == size


def test_missing_files() -> None:
    with pytest.raises(FileNotFoundError):
        Dreamer.load("there/is/no/such/model")


def test_models_of_another_algorithm_version_or_space(trained: Dreamer, tmp_path: pathlib.Path) -> None:
    PPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, device="cpu").save(tmp_path / "ppo")
    with pytest.raises(ValueError, match=r"ppo.* cannot be loaded: it was saved by an algorithm of Stable-Baselines3"):
        Dreamer.load(tmp_path / "ppo")
    trained.save(tmp_path / "model")
    rewrite(tmp_path / "model.zip", tmp_path / "later.zip", edit_header(format=99, version="9.0"))
    with pytest.raises(ValueError, match=r"later\.zip cannot be loaded: it was saved by sb3_dreamer 9\.0 in format 99"):
        Dreamer.load(tmp_path / "later")
    rewrite(tmp_path / "model.zip", tmp_path / "planet.zip", edit_header(algorithm="PlaNet"))
    with pytest.raises(ValueError, match=r"planet.* it holds a PlaNet, not a Dreamer"):
        Dreamer.load(tmp_path / "planet")
    for trusted in (True, False):
        with pytest.raises(ValueError, match=r"model.* cannot be loaded: Observation spaces do not match"):
            Dreamer.load(tmp_path / "model", env=make_vec_env("CartPole-v1", 1), trusted=trusted)


def test_parameters_that_do_not_fit_change_nothing(trained: Dreamer, tmp_path: pathlib.Path) -> None:
    tiny_dreamer(policy_kwargs=dict(size="toy")).save(tmp_path / "larger")
    before = weights_of(trained)
    with pytest.raises(RuntimeError):
        trained.set_parameters(tmp_path / "larger")  # type: ignore[arg-type]
    assert_equal_weights(before, weights_of(trained))
    half = trained.get_parameters()
    half["policy"] = {name: value + 1 for name, value in half["policy"].items()}
    half["policy.optimizer"] = {"state": {}, "param_groups": []}
    with pytest.raises(ValueError):
        trained.set_parameters(half)
    assert_equal_weights(before, weights_of(trained))


# ---- files from strangers


class Malicious:
    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def poison(kind: str, marker: pathlib.Path) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if kind == "data" and name == "data":
            data = json.loads(content)
            serialized = base64.b64encode(cloudpickle.dumps(Malicious(marker))).decode()
            return json.dumps({**data, "policy_class": {":type:": "x", ":serialized:": serialized}}).encode()
        if kind == "weights" and name == "policy.pth":
            file = io.BytesIO()
            th.save({"weight": Malicious(marker)}, file)
            return file.getvalue()
        return content

    return change


def test_untrusted_files_run_nothing(trained: Dreamer, tmp_path: pathlib.Path) -> None:
    trained.save(tmp_path / "model")
    marker = tmp_path / "executed"
    rewrite(tmp_path / "model.zip", tmp_path / "data.zip", poison("data", marker))
    loaded = Dreamer.load(tmp_path / "data.zip", trusted=False, device="cpu")
    assert not marker.exists()
    assert_equal_weights(weights_of(trained), weights_of(loaded))
    rewrite(tmp_path / "model.zip", tmp_path / "weights.zip", poison("weights", marker))
    with pytest.raises(ValueError, match=r"weights\.zip cannot be loaded"):
        Dreamer.load(tmp_path / "weights.zip", trusted=False)
    assert not marker.exists()
    header = {"data": {**json.loads(zipfile.ZipFile(tmp_path / "model.zip").read(ENTRY))["data"]}}
    header["data"]["policy_class"] = {"$kind": "class", "name": "os.system"}
    rewrite(tmp_path / "model.zip", tmp_path / "names.zip", edit_header(**header))
    with pytest.raises(ValueError, match=r"names\.zip cannot be loaded: it names the class 'os.system'"):
        Dreamer.load(tmp_path / "names.zip", trusted=False)
    # that it was dangerous: trusting the file runs it
    with pytest.raises(Exception):  # noqa: B017
        Dreamer.load(tmp_path / "data.zip")
    assert marker.exists()


def test_replays_never_unpickle(trained: Dreamer, tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "executed"
    (tmp_path / "pickle.pkl").write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(ValueError, match="damaged or not a replay"):
        trained.load_replay_buffer(tmp_path / "pickle.pkl")
    np.savez(tmp_path / "objects.npz", header=np.array([Malicious(marker)], dtype=object))
    with pytest.raises(ValueError, match="cannot be loaded"):
        trained.load_replay_buffer(tmp_path / "objects.npz")
    assert not marker.exists()


PLAIN: dict[str, dict[str, Any]] = {
    "default": {},
    "published": {**DREAMER_V3, "buffer_size": 2000, "policy_kwargs": {**DREAMER_V3["policy_kwargs"], "size": "debug"}},
    "schedule": dict(learning_rate=LinearSchedule(1e-3, 1e-4, 0.5)),
    "classes": dict(
        policy_kwargs=dict(
            size=ModelSize(16, 8, 8, 4, 4, 1, 2, layers=1, bins=5),
            optimizer_class=LaProp,
            optimizer_kwargs=dict(betas=(0.9, 0.99)),
            features_extractor_class=FlattenExtractor,
        )
    ),
}


@pytest.mark.parametrize("case", PLAIN)
def test_untrusted_loading_gives_the_same_model(case: str, tmp_path: pathlib.Path) -> None:
    model = tiny_dreamer(**PLAIN[case])
    model.save(tmp_path / "model")
    loaded = Dreamer.load(tmp_path / "model", trusted=False, device="cpu")
    assert_equal_weights(weights_of(model), weights_of(loaded))
    assert np.array_equal(loaded.predict(OBS, deterministic=True)[0], model.predict(OBS, deterministic=True)[0])
    assert loaded.policy_kwargs == model.policy_kwargs and loaded.observation_space == model.observation_space
    assert loaded.lr_schedule(0.75) == model.lr_schedule(0.75)
    again = Dreamer.load(tmp_path / "model", trusted=False, env=make_vec_env("envs:ContinuousPendulum-v0", 2), gamma=0.9)
    assert again.gamma == 0.9 and again.n_envs == 2
    if case != "published":
        again.learn(60)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-1.0, -np.inf]), np.array([2.0, np.inf]), dtype=np.float64),
        spaces.Dict(
            a=spaces.Discrete(3, start=2), b=spaces.MultiDiscrete([[2, 3]], start=[[1, 0]]), c=spaces.MultiBinary((2, 1))
        ),
        spaces.Dict(image=spaces.Box(0, 255, (3, 16, 20), dtype=np.uint8), bits=spaces.MultiBinary(3)),
    ],
)
def test_untrusted_loading_knows_every_space(space: spaces.Space, tmp_path: pathlib.Path) -> None:
    class Random(Clock):
        observation_space = space
        action_space = spaces.MultiDiscrete([2, 3])

        def _obs(self) -> Any:
            return space.sample()

    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model = tiny_dreamer(Random(), policy=policy)
    model.save(tmp_path / "model")
    loaded = Dreamer.load(tmp_path / "model", trusted=False)
    assert loaded.observation_space == space and loaded.action_space == model.action_space
    assert_equal_weights(weights_of(model), weights_of(loaded))


def test_what_only_a_pickle_holds_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    tiny_dreamer(learning_rate=lambda progress: 1e-3 * progress).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"only a pickle holds its learning_rate \(a builtins.function\).*trusted=True"):
        Dreamer.load(tmp_path / "model", trusted=False)
    assert Dreamer.load(tmp_path / "model", trusted=False, learning_rate=5e-4).lr_schedule(1) == 5e-4
    with pytest.raises(ValueError, match="force_reset=False needs"):
        Dreamer.load(tmp_path / "model", trusted=False, force_reset=False)


# ---- killed at any moment


def save_for_ever(folder: str, started: Any) -> None:
    th.set_num_threads(1)
    model = tiny_dreamer().learn(45)
    started.set()
    while True:
        model.num_timesteps += 1
        model.save(folder + "/model")
        model.save_replay_buffer(folder + "/replay")


def test_a_killed_process_leaves_the_previous_checkpoint(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    model = tiny_dreamer().learn(45)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    context = multiprocessing.get_context("fork")
    interrupted = 0
    for _ in range(20):
        started = context.Event()
        child = context.Process(target=save_for_ever, args=(str(tmp_path), started))
        child.start()
        assert started.wait(60)
        time.sleep(rng.uniform(0, 0.15))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        interrupted += any(tmp_path.glob(".*.tmp"))
        loaded = Dreamer.load(tmp_path / "model", device="cpu")
        loaded.load_replay_buffer(tmp_path / "replay")
        assert loaded.num_timesteps >= 45 and loaded.replay_buffer is not None and loaded.replay_buffer.size() == 45
    assert interrupted > 5  # killed while a file was being written
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.zip", "replay.pkl"]  # nothing of them is left
