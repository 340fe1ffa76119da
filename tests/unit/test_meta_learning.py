"""The meta-learning benchmark: its oracle against a known optimum, its tasks, and its tables by hand."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from sb3_dreamer.compare.evaluation import EVAL_SEED
from sb3_dreamer.compare.records import write_csv

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def neighbours() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))  # scripts import their neighbours
        yield


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_the_oracle_finds_the_known_optimum_of_the_pendulum() -> None:
    env, starts = gym.make("envs:ContinuousPendulum-v0"), []
    for i in range(20):
        cos, sin, velocity = env.reset(seed=EVAL_SEED + i)[0]
        starts.append((np.arctan2(sin, cos), velocity))
    found = module("pendulum_optimum").optimal_returns(1.0, 1.0, np.array(starts), grid=(91, 91, 11))
    # 451 x 451 nodes and 41 torques, in another program: -112.77; coarse grids lose about one
    assert -114.5 < found.mean() < -112.7 and found.shape == (20,)


def test_the_oracle_knows_mass_and_length() -> None:
    best, hanging = module("pendulum_optimum").optimal_returns, np.array([[np.pi - 1e-3, 0.0]])
    light, usual, heavy = (
        best(mass, length, hanging, grid=(61, 61, 9))[0] for mass, length in ((0.5, 0.5), (1.0, 1.0), (2.0, 1.5))
    )
    assert light > usual + 100 > heavy + 200  # in one go, after a swing, after several


def test_an_upright_pendulum_costs_nothing() -> None:
    found = module("pendulum_optimum").optimal_returns(1.0, 1.0, np.zeros((1, 2)), grid=(60, 61, 9))
    assert found == pytest.approx([0.0], abs=1e-6)


def test_tasks_are_held_out_and_fixed() -> None:
    tasks = module("meta_tasks").held_out_tasks(20, seed=1)
    assert [task.where for task in tasks] == ["inside"] * 20 + ["outside"] * 20
    assert all(0.5 <= t.mass <= 2 and 0.5 <= t.length <= 1.5 for t in tasks[:20])
    assert all(2 <= t.mass <= 3 and 1.5 <= t.length <= 2 for t in tasks[20:])
    assert {t.mass for t in tasks}.isdisjoint(t.mass for t in module("meta_tasks").held_out_tasks(20, seed=2))
    env = module("meta_tasks").told_env(**tasks[3].fixed)
    obs, _ = env.reset(seed=0)
    np.testing.assert_allclose(obs[3:], [tasks[3].mass, tasks[3].length], rtol=1e-6)
    assert env.observation_space.contains(obs) and env.observation_space.contains(env.step(np.zeros(1))[0])


class Hanging:
    """Does nothing, and writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def predict(self, obs: Any, state: Any, start: np.ndarray, deterministic: bool) -> tuple[np.ndarray, int]:
        assert deterministic and (state is None) == (not self.seen)
        self.seen.append((obs, start))
        return np.zeros((len(start), 1), dtype=np.float32), len(self.seen)


@pytest.mark.parametrize("whole", [False, True])
def test_all_agents_are_judged_from_the_same_starts(whole: bool) -> None:
    control, tasks = module("meta_control"), module("meta_tasks")
    held_out = tasks.held_out_tasks(1, seed=0)
    agent = Hanging()
    found = control.returns_of_trials(agent, held_out, tasks.trial_env, whole=whole, steps=5)
    assert found.shape == (2, control.TRIALS, 2) and (found < 0).all()
    obs, start = zip(*agent.seen, strict=True)
    np.testing.assert_array_equal([s.all() for s in start], [i == 0 or (i == 5 and not whole) for i in range(10)])
    assert all(s.all() or not s.any() for s in start)
    np.testing.assert_array_equal(obs[5]["trial"], [[0, 1]] * 6)  # the second episode of the same trial
    for episode, first in enumerate((obs[0]["obs"], obs[5]["obs"])):
        expected = [control._start(task, trial, episode) for task in held_out for trial in range(control.TRIALS)]
        np.testing.assert_allclose(np.stack([np.arctan2(first[:, 1], first[:, 0]), first[:, 2]], 1), expected, rtol=1e-5)


def test_shares_and_intervals_by_hand() -> None:
    meta = module("meta_learning")
    bottom, top = [np.array([0.0, 10.0])] * 2, [np.array([10.0, 20.0])] * 2
    half = [np.array([5.0, 15.0]), np.array([5.0, 15.0])]
    assert meta.interval(meta.share, half, bottom, top) == pytest.approx((0.5, 0.5, 0.5))  # the same tasks are drawn for all
    mean, low, high = meta.interval(lambda values: float(values.mean()), half)
    assert mean == 10 and 5 <= low < mean < high <= 15


def test_tables_join_the_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = module("meta_learning")
    for group, method, shift in (("memoryless", "memoryless", 0.0), ("context", "context", 80.0), ("told", "told", 100.0)):
        for seed in (0, 1):
            rows = [[seed, method, "inside", task, -500.0, -400.0 + shift + task] for task in range(3)]
            columns = ["seed", "method", "tasks", "task", "first_return", "second_return"]
            write_csv(tmp_path / "control" / f"{group}-seed{seed}.csv", columns, rows)
    meta.main(["--table-only", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    (tmp_path / "control" / "told-seed0.csv").rename(tmp_path / "control" / "told-seed2.csv")
    lines = (tmp_path / "control" / "told-seed2.csv").read_text().replace("\n0,", "\n2,")
    (tmp_path / "control" / "told-seed2.csv").write_text(lines)
    meta.main(["--table-only", "--out", str(tmp_path)])
    partial = capsys.readouterr().out  # one seed is left that all three have
    assert "| inside | context | 0.8 (0.8 to 0.8) |" in partial and "| inside | told | 1 | -500" in partial
    assert "| inside | context | 2 | -500 (-500 to -500) | -319" in shown
    assert "| inside | context | 0.8 (0.8 to 0.8) |" in shown and "prediction" not in shown
    assert (tmp_path / "meta_learning.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_drawn_are_means_with_their_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = module("meta_learning")
    columns = ["seed", "method", "tasks", "task", "second_return"]
    for seed in (0, 1):
        rows = [[seed, "told", where, task, -100.0 * (1 + task)] for where in ("inside", "outside") for task in range(3)]
        write_csv(tmp_path / "control" / f"told-seed{seed}.csv", columns, rows)
    drawn = []
    monkeypatch.setattr(meta.Figure, "savefig", lambda figure, path, **kwargs: (drawn.append(figure), path.touch()))
    meta.draw(tmp_path)
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["control: inside", "control: outside"]
    for panel in panels:
        (point, _, (bar,)) = panel.containers[0]
        assert point.get_xdata() == [-200.0] and panel.get_yticklabels()[0].get_text() == "told"
        low, high = bar.get_segments()[0][:, 0]
        assert -300 <= low < -200 < high <= -100
    meta.draw(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_starts_learnt_for_tuning_differ_from_where_they_began() -> None:
    prediction = module("meta_prediction")
    study = prediction.Study(seed=0, scale=0.005)
    model = study.make(prediction.MLPWorldModel, study.plain)
    before = [p.detach().clone() for p in model.parameters()]
    for learn in (prediction.reptile, prediction.fomaml):
        found = learn(prediction.copy.deepcopy(model), study.plain, 1)
        moved = [not bool((a == b).all()) for a, b in zip(before, found.parameters(), strict=True)]
        assert any(moved) and all(bool(p.isfinite().all()) for p in found.parameters())
    lines = study.judge({"average": lambda episode: model})
    assert [line["tasks"] for line in lines] == ["inside", "outside"] and lines[0]["second_episode"] > 0


def test_who_is_told_nothing_meets_the_same_tasks() -> None:
    tasks = module("meta_tasks")
    makes = (tasks.trial_env, tasks.plain_env, tasks.told_env)
    trials, plain, told = (make(**tasks.INSIDE) for make in makes)
    met = []
    for episode in range(5):
        seed = 3 if episode == 0 else None
        obs = [env.reset(seed=seed)[0] for env in (trials, plain, told)]
        np.testing.assert_array_equal(obs[0]["obs"], obs[1])
        np.testing.assert_array_equal(obs[1], obs[2][:3])
        met.append(tuple(np.round(obs[2][3:], 5)))
    assert met[0] == met[1] != met[2] == met[3] != met[4]


def test_a_trial_may_be_one_episode() -> None:
    control, buttons = module("meta_control"), module("meta_buttons")
    env = control.WholeTrial(buttons.trial_env(show_action=True))
    for _ in range(2):
        obs, _ = env.reset()
        pays, bits, ends = env.unwrapped.constants[0], [obs["trial"].tolist()], []
        while not any(ends):
            obs, *_, terminated, truncated, _ = env.step(0)
            bits.append(obs["trial"].tolist())
            ends.append(terminated or truncated)
        assert len(ends) == 12 and env.unwrapped.constants[0] == pays
        assert [i for i, bit in enumerate(bits) if bit[1]] == [0, 6] and bits[0] == [1, 1] and bits[6] == [0, 1]


def test_who_is_told_knows_which_button_pays() -> None:
    env = module("meta_buttons").told_env()
    obs, _ = env.reset(seed=3)
    assert env.observation_space.contains(obs) and obs[:5].tolist() == [0.0] * 5 and obs[5:].sum() == 1
    assert [env.step(int(obs[5:].argmax()))[1] for _ in range(6)] == [1.0] * 6


def test_a_study_of_buttons_runs(tmp_path: Path) -> None:
    meta = module("meta_learning")
    given = ["--parts", "buttons", "--groups", "memoryless", "--seeds", "0", "--scale", "0.04", "--out", str(tmp_path)]
    meta.main(given)
    (line,) = meta.recorded(tmp_path, "buttons")
    assert (line["method"], line["tasks"], line["task"]) == ("memoryless", "buttons", "0")
    assert 0 <= float(line["first_return"]) <= 6 and (tmp_path / "meta_learning.png").exists()


def test_methods_are_put_side_by_side_on_the_same_seeds(tmp_path: Path) -> None:
    (tmp_path / "buttons").mkdir()
    for group, seeds in (("context", (0, 1)), ("told", (1, 2))):
        for seed in seeds:
            text = f"seed,method,tasks,task,first_return,second_return\n{seed},{group},buttons,0,1.0,{seed}.0\n"
            (tmp_path / "buttons" / f"{group}-seed{seed}.csv").write_text(text)
    lines = module("meta_learning").recorded(tmp_path, "buttons")
    assert [(line["method"], line["seed"]) for line in lines] == [("context", "1"), ("told", "1")]


def test_small_trials_do_not_pass_for_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module("meta_learning").main(["--scale", "0.01"])
    assert "choose another --out" in capsys.readouterr().err
