"""SB3's callbacks: called at every step with its values, obeyed at once, and able to evaluate, save and stop."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Clock, assert_equal_weights, note_training, weights_of
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

Make = Callable[..., Any]


class Telling(Clock):
    """Counts all its steps, and tells the number and the action in the info."""

    def __init__(self, length: int = 3) -> None:
        super().__init__(length)
        self.steps = self.resets = 0

    def reset(self, **kwargs: Any) -> Any:
        self.resets += 1
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.steps += 1
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, {**info, "step": self.steps, "action": float(action[0])}


class Watcher(BaseCallback):
    """Notes what it sees at each step."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at
        self.seen: list[dict[str, Any]] = []
        self.events: list[str] = []

    def _on_training_start(self) -> None:
        assert self.locals["total_timesteps"] > 0 and self.logger is self.model.logger
        self.events.append("training_start")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout_start")

    def _on_rollout_end(self) -> None:
        self.events.append("rollout_end")

    def _on_training_end(self) -> None:
        self.events.append("training_end")

    def _on_step(self) -> bool:
        assert self.locals["env"] is self.training_env and self.model.num_timesteps == self.num_timesteps
        self.events.append("step")
        values = {name: np.array(self.locals[name]) for name in ("rewards", "dones", "new_obs", "actions")}
        self.seen.append({**values, "infos": self.locals["infos"], "n": self.num_timesteps, "updates": self.model._n_updates})
        return self.num_timesteps != self.stop_at


def test_every_step_is_seen_with_its_own_values_during_warmup_and_after(make: Make) -> None:
    """Also by callbacks inside others."""
    outer, inner, listed = Watcher(), Watcher(), Watcher()
    callback = CallbackList([outer, EveryNTimesteps(1, inner), CallbackList([listed])])
    env = DummyVecEnv([lambda: Telling(3), lambda: Telling(5)])
    model = make(env).learn(100, callback=callback)
    assert model._n_updates > 3  # well beyond the first 40 random steps
    for watcher in (outer, inner, listed):
        assert [seen["n"] for seen in watcher.seen] == list(range(2, 101, 2))
        for number, seen in enumerate(watcher.seen, start=1):
            clock = [(number - 1) % length + 1 for length in (3, 5)]
            assert seen["rewards"].tolist() == clock
            assert seen["dones"].tolist() == [clock[0] == 3, clock[1] == 5]
            assert seen["new_obs"][:, 1].tolist() == [number % 3, number % 5]
            assert [info["step"] for info in seen["infos"]] == [number, number]
            assert np.allclose(seen["actions"][:, 0], [info["action"] for info in seen["infos"]])
    assert outer.events == ["training_start", *["rollout_start", "step", "rollout_end"] * 50, "training_end"]


@pytest.mark.parametrize("stop_at", [5, 40, 72])
def test_false_stops_at_once(make: Make, stop_at: int) -> None:
    """In the warm-up, where the first update is due, and where a later one is: no step and no update more."""
    watcher, env = Watcher(stop_at), Telling()
    model = make(env)
    noted = note_training(model)
    model.learn(100, callback=watcher)
    assert model.num_timesteps == env.steps == len(watcher.seen) == stop_at
    assert model._n_updates == watcher.seen[-1]["updates"] and len(noted) == {5: 0, 40: 0, 72: 4}[stop_at]
    assert watcher.events[-3:] == ["step", "rollout_end", "training_end"]
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == env.steps == stop_at + 20
    assert noted == {5: [], 40: [40, 48, 56], 72: [40, 48, 56, 64, 72, 80, 88]}[stop_at]  # what was due comes first


def test_an_error_in_a_callback_loses_no_step(make: Make) -> None:
    def fail(local: dict[str, Any], _: dict[str, Any]) -> bool:
        raise ZeroDivisionError

    model = make(Telling(4))
    with pytest.raises(ZeroDivisionError):
        model.learn(10, callback=EveryNTimesteps(6, ConvertCallback(fail)))
    assert model.num_timesteps == 6
    model.learn(7, reset_num_timesteps=False)
    clocks = model.replay_buffer._obs["obs"][0, :16, 1].tolist()
    assert model.num_timesteps == 13 and clocks == [0, 1, 2, 3, 4] * 3 + [0]


def test_any_of_several_callbacks_can_stop(make: Make) -> None:
    watcher = Watcher()
    model = make(Telling()).learn(100, callback=[Watcher(8), watcher])
    assert model.num_timesteps == 8 and len(watcher.seen) == 8


def test_a_function_is_a_callback(make: Make) -> None:
    numbers: list[int] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        numbers.append(local["infos"][0]["step"])
        return len(numbers) < 6

    assert make(Telling()).learn(100, callback=note).num_timesteps == 6 and numbers == [1, 2, 3, 4, 5, 6]


def test_stopping_after_episodes(make: Make) -> None:
    assert make(Telling(10)).learn(1000, callback=StopTrainingOnMaxEpisodes(3)).num_timesteps == 30
    two = DummyVecEnv([lambda: Telling(10), lambda: Telling(5)])  # six episodes in all
    assert make(two).learn(1000, callback=StopTrainingOnMaxEpisodes(3)).num_timesteps == 40


class Rising(Clock):
    """Every episode is worth as much more than the one before as ``rise`` says."""

    def __init__(self, rise: float) -> None:
        super().__init__(length=5)
        self.rise = rise

    def step(self, action: Any) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, self.rise * self.episode, terminated, truncated, info


class Keeping(BaseCallback):
    """Keeps the weights whenever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[int, Any]] = []

    def _on_step(self) -> bool:
        self.kept.append((self.num_timesteps, weights_of(self.model)))
        return True


@pytest.mark.parametrize("rise", [1.0, -1.0])
def test_evaluation_saves_the_best_model(make: Make, rise: float, tmp_path: pathlib.Path) -> None:
    best, every = Keeping(), Keeping()
    model = make(Telling())
    model.set_logger(configure(str(tmp_path), ["json"]))
    evaluation = EvalCallback(
        Monitor(Rising(rise)),
        callback_on_new_best=best,
        callback_after_eval=every,
        n_eval_episodes=2,
        eval_freq=20,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path / "best"),
        verbose=0,
    )
    model.learn(60, callback=evaluation, log_interval=None)
    # episode e of the evaluation is worth 5 * rise * e; every evaluation resets once more than it plays
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [20, 40, 60] and (results["ep_lengths"] == 5).all()
    assert results["results"].tolist() == [[5 * rise * e for e in pair] for pair in ([0, 1], [3, 4], [6, 7])]
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [row["eval/mean_reward"] for row in rows] == [2.5 * rise, 17.5 * rise, 32.5 * rise]
    assert [n for n, _ in every.kept] == [20, 40, 60]
    assert [n for n, _ in best.kept] == ([20, 40, 60] if rise > 0 else [20])
    saved = type(model).load(tmp_path / "best" / "best_model.zip", device="cpu")
    assert saved.num_timesteps == best.kept[-1][0]
    assert_equal_weights(weights_of(saved), best.kept[-1][1])


def test_evaluation_alone(make: Make, tmp_path: pathlib.Path) -> None:
    evaluation = EvalCallback(Monitor(Rising(1.0)), eval_freq=30, best_model_save_path=str(tmp_path), verbose=0)
    make(Telling()).learn(60, callback=evaluation)
    assert evaluation.best_mean_reward == evaluation.last_mean_reward > 0 and (tmp_path / "best_model.zip").exists()


def test_evaluation_under_vecnormalize_uses_the_training_statistics(make: Make) -> None:
    env = VecNormalize(DummyVecEnv([lambda: Monitor(Telling())]))
    other = VecNormalize(DummyVecEnv([lambda: Monitor(Telling())]), training=False, norm_reward=False)
    evaluation = EvalCallback(other, n_eval_episodes=1, eval_freq=30, verbose=0)
    make(env).learn(60, callback=evaluation)
    assert np.array_equal(other.obs_rms.mean, env.obs_rms.mean) and other.obs_rms.count == env.obs_rms.count
    assert evaluation.last_mean_reward == 6


@pytest.mark.parametrize("make", ["dreamer"], indirect=True)
def test_stopping_on_results_of_evaluations(make: Make) -> None:
    def learn(rise: float, **kwargs: Any) -> int:
        evaluation = EvalCallback(Monitor(Rising(rise)), **kwargs, n_eval_episodes=1, eval_freq=10, verbose=0)
        return make(Telling()).learn(90, callback=evaluation).num_timesteps

    # episodes 0, 2, 4 ... are evaluated
    assert learn(1.0, callback_on_new_best=StopTrainingOnRewardThreshold(reward_threshold=20)) == 30
    assert learn(1.0, callback_on_new_best=StopTrainingOnRewardThreshold(reward_threshold=1e6)) == 90
    stopping = dict(max_no_improvement_evals=2, min_evals=1)
    assert learn(-1.0, callback_after_eval=StopTrainingOnNoModelImprovement(**stopping)) == 40
    assert learn(1.0, callback_after_eval=StopTrainingOnNoModelImprovement(**stopping)) == 90


def test_checkpoints_of_model_replay_and_statistics_go_on_together(make: Make, tmp_path: pathlib.Path) -> None:
    checkpoints = CheckpointCallback(25, str(tmp_path), "a", save_replay_buffer=True, save_vecnormalize=True)
    env = VecNormalize(DummyVecEnv([lambda: Telling(5), lambda: Telling(7)]))
    keeping = Keeping()
    make(env).learn(100, callback=[checkpoints, EveryNTimesteps(50, keeping)])
    expected = [f"a_{kind}{n}_steps.{end}" for kind, end in (("", "zip"), ("replay_buffer_", "pkl"), ("vecnormalize_", "pkl"))
                for n in (50, 100)]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)
    again = VecNormalize.load(str(tmp_path / "a_vecnormalize_50_steps.pkl"), DummyVecEnv([Telling, Telling]))
    model = make(None, _init_setup_model=False).load(tmp_path / "a_50_steps", env=again, device="cpu")
    model.load_replay_buffer(tmp_path / "a_replay_buffer_50_steps")
    assert again.obs_rms.count == pytest.approx(52 + 1e-4)  # 25 steps and the reset of both
    assert model.num_timesteps == 50 and model.replay_buffer.size() == 25 + 5 + 25 + 3
    assert_equal_weights(weights_of(model), keeping.kept[0][1])
    updates = model._n_updates
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 70 and model._n_updates > updates


def test_progress_bar(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBarCallback()
    make(DummyVecEnv([Telling, Telling])).learn(50, callback=bar)
    assert bar.pbar.n == bar.pbar.total == 50
    captured = capfd.readouterr()
    assert "50/50" in captured.out + captured.err
    model = make(Telling()).learn(10)
    assert capfd.readouterr() == ("", "")
    model.learn(20, progress_bar=True, reset_num_timesteps=False)
    captured = capfd.readouterr()
    assert "20/20" in captured.out + captured.err


def test_monitors_statistics_are_the_environments(make: Make, tmp_path: pathlib.Path) -> None:
    env = DummyVecEnv(
        [
            lambda: Monitor(Telling(4), str(tmp_path / "0"), info_keywords=("step",)),
            lambda: Monitor(Telling(7), str(tmp_path / "1"), info_keywords=("step",)),
        ]
    )
    model = make(env)
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(56, log_interval=1)
    written = load_results(str(tmp_path))
    assert sorted(written["l"]) == [4] * 7 + [7] * 4 and model._episode_num == 11
    assert sorted(info["r"] for info in model.ep_info_buffer) == sorted(written["r"]) == [10] * 7 + [28] * 4
    last = json.loads((tmp_path / "progress.json").read_text().splitlines()[-1])
    assert last["rollout/ep_rew_mean"] == pytest.approx(written["r"].mean(), abs=1e-5)
    assert last["rollout/ep_len_mean"] == pytest.approx(written["l"].mean(), abs=1e-5)
    assert last["time/episodes"] == 11 and last["time/total_timesteps"] == 56
    assert "rollout/success_rate" not in last


def test_success_rate(make: Make, tmp_path: pathlib.Path) -> None:
    class Succeeding(Clock):
        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, _ = super().step(action)
            return obs, reward, terminated, truncated, {"is_success": terminated and self.episode % 4 == 0}

    model = make(Succeeding())
    model.set_logger(configure(str(tmp_path), ["json"]))
    model.learn(40, log_interval=8)  # 8 episodes of 5 steps
    last = json.loads((tmp_path / "progress.json").read_text().splitlines()[-1])
    assert last["rollout/success_rate"] == 0.25
