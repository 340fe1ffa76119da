"""A model's acting step in one ONNX file acts as the model."""

import inspect
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import onnx
import pytest
import torch as th
import torch.nn as nn
from conftest import tiny_dreamer
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_dreamer import Dreamer, __version__, onnx_policy
from sb3_dreamer.dreamer.policies import CnnPolicy, DreamerPolicy, MlpPolicy, MultiInputPolicy
from sb3_dreamer.export import ExportError, OnnxPolicy, export_onnx, verify_onnx
from sb3_dreamer.world_models import MLPWorldModel, VAEWorldModel

NUMBERS = spaces.Box(-np.inf, np.inf, (3,))
TORQUES = spaces.Box(-2, 2, (2,))
IMAGE = spaces.Box(0, 255, (3, 20, 17), np.uint8)
EVERYTHING = spaces.Dict(
    {
        "numbers.of": spaces.Box(-1, 1, (2,)),
        "choice": spaces.Discrete(3, start=1),
        "bits": spaces.MultiBinary(2),
        "image": spaces.Box(0, 255, (3, 12, 10), np.uint8),
        "another": spaces.Box(0, 255, (1, 12, 10), np.uint8),
    }
)


def make_policy(
    obs_space: spaces.Space = NUMBERS,
    action_space: spaces.Space = TORQUES,
    cls: type[DreamerPolicy] = MlpPolicy,
    noise: float = 0.3,
    **kwargs: Any,
) -> DreamerPolicy:
    """Untrained, with weights far from their initialisation, and statistics of observations."""
    th.manual_seed(0)
    policy = cls(obs_space, action_space, lambda _: 1e-3, **{"size": "debug", **kwargs})
    with th.no_grad():
        for weight in policy.parameters():
            weight.add_(noise * th.randn_like(weight))
    obs_space.seed(0)
    obs = policy.observation_codec.to_arrays(sample(obs_space, 20))
    policy.update_statistics(obs, np.zeros(20, dtype=np.float32))
    return policy


def sample(space: spaces.Space, n: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: sample(part, n) for name, part in space.spaces.items()}
    return np.stack([np.asarray(space.sample()) for _ in range(n)])


def assert_acts_alike(policy: DreamerPolicy, exported: OnnxPolicy, steps: int = 21, n: int = 3) -> None:
    """Each carries its own state, through episodes that start at different times."""
    policy.observation_space.seed(1)
    starts = np.random.default_rng(1).random((steps, n)) < 0.15
    state = other = None
    actions = []
    for start in starts:
        obs = sample(policy.observation_space, n)
        action, state = policy.predict(obs, state, start, deterministic=True)
        got, other = exported.predict(obs, other, start)
        assert got.dtype == action.dtype and got.shape == action.shape
        assert all(policy.action_space.contains(np.asarray(one)) for one in got)
        bound = 1.0 if policy.action_codec.discrete else max(1.0, float(np.abs(policy.action_space.high).max()))
        # half precision rounds neighbours apart
        tolerance = bound * (2e-3 if action.dtype == np.float16 else 1e-4)
        assert np.abs(got.astype(np.float64) - action).max() <= tolerance
        for ours, theirs in zip(other, state, strict=True):
            assert ours.dtype == np.float32 and np.allclose(ours, theirs, rtol=0, atol=1e-4)
        actions.append(action)
    assert len(np.unique(np.stack(actions).reshape(steps * n, -1), axis=0)) > 1


def export(policy: Any, tmp_path: pathlib.Path, **kwargs: Any) -> OnnxPolicy:
    export_onnx(policy, tmp_path / "file", **kwargs)
    return OnnxPolicy(tmp_path / "file.onnx")


OBSERVATIONS: dict[str, spaces.Space] = {
    "scalar": spaces.Box(-1, 1, ()),
    "matrix_of_doubles": spaces.Box(-1, 1, (2, 2), np.float64),
    "halves": spaces.Box(-1, 1, (2,), np.float16),
    "long": spaces.Box(-5, 5, (2,), np.int64),
    "words": spaces.Box(0, 60_000, (2,), np.uint16),
    "unsigned": spaces.Box(0, 60_000, (2,), np.uint32),
    "discrete": spaces.Discrete(4, start=-1),
    "multi_discrete": spaces.MultiDiscrete([2, 4], dtype=np.int32, start=[1, -1]),
    "multi_binary": spaces.MultiBinary((2, 2)),
    "image_as_numbers": spaces.Box(0, 255, (3, 8, 8), np.uint8),
}

ACTIONS: dict[str, spaces.Space] = {
    "doubles": spaces.Box(np.array([[-1.0, 2.0, 0.0]]), np.array([[3.0, 2.0, 500.0]]), dtype=np.float64),
    "halves": spaces.Box(-1, 1, (2,), np.float16),
    "integers": spaces.Box(-3, 4, (2,), np.int32),
    "words": spaces.Box(0, 1000, (2,), np.uint16),
    "scalar_byte": spaces.Box(0, 255, (), np.uint8),
    "discrete": spaces.Discrete(4, start=-1),
    "multi_discrete": spaces.MultiDiscrete([2, 3, 4], start=[1, -1, 0]),
    "matrix_of_choices": spaces.MultiDiscrete([[2, 3], [4, 1]], dtype=np.int32),
    "multi_binary": spaces.MultiBinary((2, 2)),
}

NETWORKS: dict[str, dict[str, Any]] = {
    "categorical_rms_symlog_blocks": dict(
        latent="categorical", size="medium", noise=0.02, world_model_kwargs=dict(norm="rms", normalize_obs="symlog")
    ),
    "gaussian_layer_none_one_block": dict(size="toy", noise=0.05, world_model_kwargs=dict(normalize_obs="none")),
    "images_strided": dict(obs_space=IMAGE, cls=CnnPolicy, latent="categorical"),
    "images_published": dict(obs_space=IMAGE, cls=CnnPolicy, world_model_kwargs=dict(strided=False, norm="rms")),
    "images_tiny": dict(obs_space=spaces.Box(0, 255, (5, 6), np.uint8), cls=CnnPolicy),
    "images_of_floats": dict(obs_space=spaces.Box(0, 1, (3, 16, 16)), cls=CnnPolicy, normalize_images=False),
    "vae": dict(world_model_class=VAEWorldModel),
    "vae_images": dict(world_model_class=VAEWorldModel, obs_space=IMAGE, cls=CnnPolicy),
    "mlp": dict(world_model_class=MLPWorldModel, size="toy"),
    "mlp_choices": dict(world_model_class=MLPWorldModel, obs_space=spaces.MultiDiscrete([2, 4], start=[1, -1])),
    "dictionary": dict(obs_space=EVERYTHING, cls=MultiInputPolicy, action_space=ACTIONS["multi_discrete"]),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observation_spaces(name: str, tmp_path: pathlib.Path) -> None:
    policy = make_policy(OBSERVATIONS[name])
    assert_acts_alike(policy, export(policy, tmp_path, verify=False))


@pytest.mark.parametrize("name", ACTIONS)
def test_action_spaces(name: str, tmp_path: pathlib.Path) -> None:
    policy = make_policy(action_space=ACTIONS[name])
    assert_acts_alike(policy, export(policy, tmp_path, verify=False))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: pathlib.Path) -> None:
    policy = make_policy(**NETWORKS[name])
    assert_acts_alike(policy, export(policy, tmp_path))


@pytest.mark.parametrize("opset", [13, 20])
def test_opset_versions(opset: int, tmp_path: pathlib.Path) -> None:
    policy = make_policy(latent="categorical", world_model_kwargs=dict(norm="rms"))
    assert_acts_alike(policy, export(policy, tmp_path, opset_version=opset), steps=5)
    assert onnx.load(tmp_path / "file.onnx").opset_import[0].version == opset


# ---- a trained model


@pytest.fixture(scope="module")
def model() -> Dreamer:
    return tiny_dreamer(evaluation_rate=0.01, train_ratio=32, policy_kwargs=dict(size="debug", latent="categorical")).learn(
        100
    )


@pytest.fixture(scope="module")
def path(model: Dreamer, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(model, path)
    return path


def test_episodes_in_an_environment(model: Dreamer, path: pathlib.Path) -> None:
    returns = [
        evaluate_policy(agent, make_vec_env("envs:ContinuousPendulum-v0", 3, seed=0), 3, return_episode_rewards=True)[0]
        for agent in (model, OnnxPolicy(path))
    ]
    assert np.allclose(*returns, rtol=1e-3)


def test_the_averaged_weights_are_written_and_the_model_left_as_it_was(model: Dreamer, tmp_path: pathlib.Path) -> None:
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.policy.set_training_mode(True)
    exported = export(model, tmp_path, verify=False)
    assert model.policy.training
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    assert_acts_alike(model.policy, exported)
    model.policy.averaged_updates.zero_()  # now predict uses the networks in training
    with pytest.raises(ExportError):
        verify_onnx(model, tmp_path / "file.onnx")
    model.policy.load_state_dict(before)


def test_the_file_tells_what_it_is(model: Dreamer, path: pathlib.Path) -> None:
    exported = OnnxPolicy(path)
    assert exported.metadata["algorithm"] == "Dreamer" and exported.metadata["sb3_dreamer_version"] == __version__
    assert exported.metadata["observation_space"] == str(model.observation_space)
    assert exported.metadata["action_space"] == str(model.action_space)
    file = onnx.load(path)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*file.graph.input, *file.graph.output)
    }
    state = {"deter": ["batch", 8], "stoch": ["batch", 8], "prev_action": ["batch", 1]}
    assert shapes == {
        "observation": ["batch", 3],
        **state,
        "episode_start": ["batch"],
        "action": ["batch", 1],
        "next_deter": ["batch", 8],
        "next_stoch": ["batch", 8],
        "next_action": ["batch", 1],
    }
    assert [part.shape for part in exported.initial_state(2)] == [(2, 8), (2, 8), (2, 1)]


def test_single_observations_and_images_with_channels_last(tmp_path: pathlib.Path) -> None:
    policy = make_policy(EVERYTHING, spaces.Discrete(3, start=2), MultiInputPolicy)
    exported = export(policy, tmp_path, verify=False)
    obs = EVERYTHING.sample()
    action, state = policy.predict(obs, deterministic=True)
    last = {**obs, "image": np.moveaxis(obs["image"], 0, -1)}
    for given in (obs, last):
        got, other = exported.predict(given)
        assert got == action and got.shape == () and EVERYTHING.contains(obs)
        assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(state, other, strict=True))


def test_documented_code_runs_without_torch_and_this_package(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code = inspect.cleandoc(re.search(r"::\n\n(.*?)\n\n\S", onnx_policy.__doc__ or "", flags=re.S)[1])  # type: ignore[index]
    shutil.copy(path, tmp_path / "dreamer.onnx")
    shutil.copy(onnx_policy.__file__, tmp_path)
    script = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "sb3_dreamer", "gymnasium", "stable_baselines3")))  # none of them can be imported
import numpy as np
from onnx_policy import OnnxPolicy
policy, memory, steps = OnnxPolicy("dreamer.onnx"), None, 0
obs, done = np.zeros(3, np.float32), False
def act(action):
    global memory, steps
    expected, memory = policy.predict(obs, memory)
    assert np.array_equal(action, expected), (action, expected)
    steps += 1
    return obs + action.item(), steps == 5
{code}
assert steps == 5
print("acted")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == "acted", done.stderr


# ---- refusals


def test_a_tampered_file_does_not_pass(model: Dreamer, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    verify_onnx(model, path)
    for name, change in (("core.hidden_bias", 0.1), ("posterior_net.out.bias", 5.0), ("actor.mean.bias", 0.001)):
        file = onnx.load(path)
        weight = next(weight for weight in file.graph.initializer if weight.name.endswith(name))
        value = onnx.numpy_helper.to_array(weight).copy()
        value[0] += change
        weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
        onnx.save(file, tmp_path / "tampered.onnx")
        with pytest.raises(ExportError, match=r"does not act as the model: step \d+, \d rows: .*next_action [\d.e-]+"):
            verify_onnx(model, tmp_path / "tampered.onnx")


def test_tampered_actions_do_not_pass(tmp_path: pathlib.Path) -> None:
    policy = make_policy(action_space=spaces.Box(-3, 4, (2,), np.int32))
    export(policy, tmp_path)
    other = make_policy(action_space=spaces.Box(-3, 5, (2,), np.int32))
    with pytest.raises(ExportError, match="largest difference action 1"):
        verify_onnx(other, tmp_path / "file.onnx")
    shifted = make_policy(action_space=spaces.Box(-3, 4, (2,), np.int64))
    with pytest.raises(ExportError, match=r"action is int32 \(1, 2\), not int64"):
        verify_onnx(shifted, tmp_path / "file.onnx")
    with pytest.raises(ExportError, match="fails with ValueError: observation must have the shape"):
        verify_onnx(make_policy(spaces.Box(-1, 1, (4,))), tmp_path / "file.onnx")


class Extractor(BaseFeaturesExtractor):
    """With layers that behave differently in training, and a choice of what to do."""

    def __init__(self, space: gym.Space, trick: str) -> None:
        super().__init__(space, 6)
        self.trick = trick
        self.net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.RMSNorm(6), nn.Tanh())

    def forward(self, obs: th.Tensor) -> th.Tensor:
        if self.trick == "unknown operation":
            obs = th.special.bessel_j0(obs)
        elif self.trick == "branch" and obs.sum() > 1e-3:
            obs = -obs
        elif self.trick == "fixed size":
            obs = obs + th.zeros(int(obs.shape[0]), 3).numpy().sum() + th.ones(len(obs.tolist()), 3)
        return self.net(obs)


def test_features_extractors_of_ones_own(tmp_path: pathlib.Path) -> None:
    def extractor_policy(trick: str) -> DreamerPolicy:
        kwargs = dict(features_extractor_class=Extractor, features_extractor_kwargs=dict(trick=trick))
        return make_policy(spaces.Box(-1, 1, (3,)), **kwargs)

    policy = extractor_policy("none")
    assert_acts_alike(policy, export(policy, tmp_path), steps=5)
    before = (tmp_path / "file.onnx").read_bytes()
    with pytest.raises(ExportError, match=r"cannot be translated to ONNX \(.*bessel_j0.*features extractor"):
        export(extractor_policy("unknown operation"), tmp_path)
    with pytest.raises(ExportError, match="does not act as the model"):
        export(extractor_policy("branch"), tmp_path)
    with pytest.raises(ExportError, match="does not act as the model"):
        export(extractor_policy("fixed size"), tmp_path)
    assert (tmp_path / "file.onnx").read_bytes() == before  # what failed left nothing behind
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.onnx"]


def test_undecided_choices_pass(tmp_path: pathlib.Path) -> None:
    """Where two choices are equally likely, rounding decides: here everywhere."""
    policy = make_policy(action_space=spaces.Discrete(2))
    with th.no_grad():
        policy.actor.mean.weight[1] = policy.actor.mean.weight[0] * (1 + 1e-7)
        policy.actor.mean.bias[1] = policy.actor.mean.bias[0]
    export(policy, tmp_path)


def test_errors(path: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not PPO"):
        export_onnx(PPO("MlpPolicy", "Pendulum-v1", device="cpu"), tmp_path / "ppo.onnx")
    exported, obs = OnnxPolicy(path), np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="deterministically"):
        exported.predict(obs, deterministic=False)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        exported.predict(obs[:, :2])
    with pytest.raises(ValueError, match="arrays of 2 rows"):
        exported.predict(obs, exported.initial_state(3))
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    stranger = onnx.helper.make_model(
        onnx.helper.make_graph([node], "stranger", values[:1], values[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(stranger, tmp_path / "stranger.onnx")
    with pytest.raises(ValueError, match="was not written by"):
        OnnxPolicy(tmp_path / "stranger.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for call in (lambda: OnnxPolicy(path), lambda: export_onnx(make_policy(), tmp_path / "x.onnx")):
        with pytest.raises(ImportError, match=r"sb3-dreamer\[export\]"):
            call()
