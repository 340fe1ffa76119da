"""What is logged, and the figure of the model's errors."""

import csv
import json
import pathlib

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import Clock, tiny_dreamer
from oracle import Oracle, make_batch
from stable_baselines3.common.callbacks import LogEveryNTimesteps
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_dreamer.common.callbacks import OpenLoopErrorCallback, draw_windows, open_loop_error, plot_open_loop_error


def test_keys_and_values(tmp_path: pathlib.Path) -> None:
    model = tiny_dreamer(Clock(length=10))
    model.set_logger(configure(str(tmp_path), ["csv", "json"]))
    model.learn(120, log_interval=2)
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [row["time/total_timesteps"] for row in rows] == [20, 40, 60, 80, 100, 120]
    last = rows[-1]
    assert last["rollout/ep_rew_mean"] == 55 and last["rollout/ep_len_mean"] == 10 and last["time/episodes"] == 12
    for name in (
        *("model_loss", "reconstruction/obs_loss", "reward_loss", "continue_loss", "kl_dynamics_loss"),
        *("kl_representation_loss", "actor_loss", "critic_loss", "actor_entropy", "return_scale", "imagined_return"),
        *("n_updates", "learning_rate", "replay_ratio", "world_model_grad_norm"),
    ):
        assert np.isfinite(last[f"train/{name}"]), name
    assert last["train/n_updates"] == 10 and last["train/learning_rate"] == 3e-3
    with open(tmp_path / "progress.csv") as file:
        assert "train/model_loss" in next(csv.reader(file))


def test_silence_is_silent(capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    model = tiny_dreamer(verbose=0).learn(450, log_interval=1)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = type(model).load(tmp_path / "model", env=gym.make("envs:ContinuousPendulum-v0"), device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay")
    loaded.learn(10, reset_num_timesteps=False)
    loaded.predict(np.zeros(3, dtype=np.float32))
    assert capfd.readouterr() == ("", "")


def test_long_names_of_keys_can_be_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Cameras(Clock):
        observation_space = gym.spaces.Dict(
            {f"camera_in_front_{side}": gym.spaces.Box(-1, 1, (1,)) for side in ("left", "right")}
        )

        def _obs(self) -> dict[str, np.ndarray]:  # type: ignore[override]
            return {name: np.zeros(1, dtype=np.float32) for name in self.observation_space}

    tiny_dreamer(Cameras(), policy="MultiInputPolicy", verbose=1).learn(60)
    assert "model_loss" in capfd.readouterr().out


def test_log_interval_none_and_periodic_logging(tmp_path: pathlib.Path) -> None:
    model = tiny_dreamer(Clock(length=5))
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(100, log_interval=None, callback=LogEveryNTimesteps(50))
    rows = (tmp_path / "progress.json").read_text().splitlines()
    assert len(rows) == 2


def test_metrics_are_means_since_the_last_log(tmp_path: pathlib.Path) -> None:
    model = tiny_dreamer()
    model.set_logger(configure(str(tmp_path), ["json"]))
    model._setup_learn(10, None)
    for value in (1.0, 2.0, 6.0):
        model._metrics.add({"some_loss": th.tensor(value)})
    model.dump_logs()
    model._metrics.add({"some_loss": th.tensor(10.0)})
    model.dump_logs()
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [row["train/some_loss"] for row in rows] == [3.0, 10.0]


def test_tensorboard(tmp_path: pathlib.Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = tiny_dreamer(Clock(length=10), tensorboard_log=str(tmp_path))
    callback = OpenLoopErrorCallback(every=50, horizon=6, context=3, windows=16)
    model.learn(120, callback=callback, log_interval=1, tb_log_name="test")
    events = EventAccumulator(str(tmp_path / "test_1")).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/model_loss", "train/learning_rate", "rollout/ep_rew_mean", "time/fps", "open_loop/obs_6"} <= scalars
    assert not {"time/total_timesteps", "time/episodes", "train/n_updates"} & scalars  # the axis says so, as in SB3
    assert [event.step for event in events.Scalars("rollout/ep_rew_mean")] == list(range(10, 121, 10))
    assert "open_loop/error" in events.Tags()["images"]
    assert callback.errors["obs"].shape == (6,) and callback.errors["reward"].shape == (6,)


def test_open_loop_error_of_a_perfect_and_of_a_useless_model() -> None:
    """Against a stand-in model whose predictions are known."""
    truth = th.randn(6, 9, 2, generator=th.Generator().manual_seed(0))
    first = th.zeros(6, 9)
    first[0, 5] = 1  # the first window's last rows belong to another episode
    batch = make_batch({"obs": truth}, first)
    for offset in (0.0, 0.5):
        predicted = truth + offset * truth.flatten(0, 1).std(0)
        predicted[0, 5:] = np.nan  # must not count
        errors = open_loop_error(Oracle(batch, {"obs": predicted}, 3), batch, 3)  # type: ignore[arg-type]
        assert errors["obs"].shape == (6,)
        assert np.allclose(errors["obs"], offset, atol=1e-4) and np.allclose(errors["reward"], 0)
        with pytest.raises(ValueError, match="context"):
            open_loop_error(Oracle(batch, {"obs": predicted}, 9), batch, 9)  # type: ignore[arg-type]
    figure = plot_open_loop_error(errors)
    assert len(figure.axes[0].lines) == 3  # observation, reward and the line of a model that knows the mean


def test_open_loop_error_of_images_choices_and_constants() -> None:
    """A model that knows the mean or the frequencies alone has an error of about 1, and nothing constant blows up."""
    generator = th.Generator().manual_seed(0)
    image = th.randint(0, 256, (8, 40, 3, 5, 4), generator=generator, dtype=th.uint8)
    choices = th.eye(50)[th.randint(0, 3, (8, 40), generator=generator)]  # 47 of the 50 are never made
    bits = th.cat([(th.rand(8, 40, 2, generator=generator) < 0.1).float(), th.ones(8, 40, 3)], -1)
    vector = th.cat([th.randn(8, 40, 1, generator=generator), th.full((8, 40, 1), 5.0)], -1)
    dark = th.zeros(8, 40, 1, 2, 2, dtype=th.uint8)
    obs = {"image": image, "choices": choices, "bits": bits, "vector": vector, "dark": dark}
    batch = make_batch(obs)
    ignorant = {name: value.float().mean((0, 1), keepdim=True).expand(value.shape) for name, value in obs.items()}
    ignorant["image"] = th.full(image.shape, image.float().mean().item())
    ignorant["vector"] = ignorant["vector"] + th.tensor([0.0, 0.1])  # of a constant: in its own units
    errors = open_loop_error(Oracle(batch, ignorant, 2), batch, 2)  # type: ignore[arg-type]
    for name in ("image", "choices", "bits"):
        assert errors[name].shape == (38,) and abs(np.sqrt((errors[name] ** 2).mean()) - 1) < 0.05, name
    assert np.isclose((errors["vector"] ** 2).mean(), (1 + 0.1**2) / 2, atol=0.05) and (errors["dark"] == 0).all()
    perfect = open_loop_error(Oracle(batch, {name: value.float() for name, value in obs.items()}, 2), batch, 2)  # type: ignore[arg-type]
    assert all((error == 0).all() for error in perfect.values())


def test_windows_are_drawn_as_the_policy_sees_them() -> None:
    """A replay under VecNormalize keeps what the environment gave."""
    env = VecNormalize(DummyVecEnv([lambda: Clock(length=10)]))
    model = tiny_dreamer(env, learning_starts=1000).learn(60)
    seen = draw_windows(model, 50, 8).obs["obs"].numpy()
    clocks = env.unnormalize_obs(seen)[..., 1]
    assert np.abs(seen).max() < 5 and np.allclose(clocks, clocks.round(), atol=1e-2) and clocks.max() > 9.9


@pytest.mark.parametrize("bad", [dict(every=0), dict(horizon=0), dict(context=0), dict(windows=-1)])
def test_callback_arguments(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        OpenLoopErrorCallback(**bad)
