"""What is logged, how callbacks are called, and the figure of the model's errors."""

import csv
import json
import pathlib

import numpy as np
import pytest
import torch as th
from conftest import Clock, tiny_dreamer
from oracle import Oracle, make_batch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
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
    assert last["train/n_updates"] == 10 and last["train/learning_rate"] == 1e-3
    with open(tmp_path / "progress.csv") as file:
        assert "train/model_loss" in next(csv.reader(file))


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    tiny_dreamer(verbose=0).learn(450, log_interval=1)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


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


class Watcher(BaseCallback):
    """Notes what it sees at each step."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.seen: list[tuple[int, float, bool]] = []
        self.events: list[str] = []
        self.stop_at = stop_at

    def _on_training_start(self) -> None:
        assert self.locals["total_timesteps"] > 0
        self.events.append("start")

    def _on_training_end(self) -> None:
        self.events.append("end")

    def _on_step(self) -> bool:
        for name in ("infos", "rewards", "dones", "new_obs", "actions", "env"):
            assert name in self.locals, name
        self.seen.append((self.num_timesteps, float(self.locals["rewards"][0]), bool(self.locals["dones"][0])))
        return self.num_timesteps != self.stop_at


def test_callbacks_see_every_step_with_its_own_values() -> None:
    watcher = Watcher()
    tiny_dreamer(Clock(length=3)).learn(7, callback=watcher)
    assert [row[0] for row in watcher.seen] == [1, 2, 3, 4, 5, 6, 7]
    assert [row[1] for row in watcher.seen] == [1, 2, 3, 1, 2, 3, 1]
    assert [row[2] for row in watcher.seen] == [False, False, True, False, False, True, False]
    assert watcher.events == ["start", "end"]


@pytest.mark.parametrize("stop_at", [5, 70])
def test_false_stops_at_once_before_and_after_training_began(stop_at: int) -> None:
    watcher = Watcher(stop_at)
    model = tiny_dreamer(Clock(length=3)).learn(100, callback=watcher)
    assert model.num_timesteps == stop_at and watcher.events == ["start", "end"]
    updates = model._n_updates
    model.learn(10, reset_num_timesteps=False)
    assert model.num_timesteps == stop_at + 10 and (model._n_updates > updates or stop_at == 5)


def test_sb3_callbacks() -> None:
    watcher = Watcher()
    model = tiny_dreamer(Clock(length=10))
    model.learn(1000, callback=[StopTrainingOnMaxEpisodes(3), EveryNTimesteps(10, watcher)])
    assert model.num_timesteps == 30 and len(watcher.seen) >= 2


def test_tensorboard_and_progress_bar(tmp_path: pathlib.Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = tiny_dreamer(Clock(length=10), tensorboard_log=str(tmp_path))
    callback = OpenLoopErrorCallback(every=50, horizon=6, context=3, windows=16)
    model.learn(120, callback=callback, log_interval=1, tb_log_name="test", progress_bar=True)
    events = EventAccumulator(str(tmp_path / "test_1")).Reload()
    assert "train/model_loss" in events.Tags()["scalars"] and "open_loop/obs_6" in events.Tags()["scalars"]
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
