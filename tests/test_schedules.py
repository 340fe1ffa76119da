"""Learning rates that change with the progress."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Clock, tiny_dreamer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

Make = Callable[..., Any]


def square(progress: float) -> float:
    return 1e-3 * progress**2


SCHEDULES: dict[str, Any] = {
    "number": 2e-3,
    "function": square,
    "lambda": lambda progress: 3e-4 * (1 + progress),
    "linear": LinearSchedule(1e-3, 1e-4, 0.6),
    "constant": ConstantSchedule(3e-4),
}


def note_rates(model: Any) -> list[tuple[int, dict[str, float]]]:
    """:return: steps taken and the optimizer's rates at every update"""
    noted: list[tuple[int, dict[str, float]]] = []
    train = model.train

    def noting(gradient_steps: int) -> None:
        train(gradient_steps)
        groups = model.policy.optimizer.param_groups
        noted.append((model.num_timesteps, {group.get("name", "world_model"): group["lr"] for group in groups}))

    model.train = noting
    return noted


FOLLOWED = [("dreamer", name) for name in SCHEDULES] + [("planet", "function"), ("pets", "function")]


@pytest.mark.parametrize(("make", "name"), FOLLOWED, indirect=["make"])
def test_the_optimizer_and_the_log_follow_the_schedule(make: Make, name: str, tmp_path: pathlib.Path) -> None:
    given = SCHEDULES[name]
    schedule = given if callable(given) else lambda _: given
    model = make(Clock(length=8), learning_rate=given)
    model.set_logger(configure(str(tmp_path), ["json"]))
    noted = note_rates(model)
    model.learn(100, log_interval=1)
    model.learn(60, log_interval=1, reset_num_timesteps=False)
    expected = [(n, schedule(1 - n / (100 if n <= 100 else 160))) for n in range(40, 161, 8)]
    assert [n for n, _ in noted] == [n for n, _ in expected]
    for (n, rates), (_, rate) in zip(noted, expected, strict=True):
        assert rates["world_model"] == pytest.approx(rate, rel=1e-9), n
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    logged = {row["time/total_timesteps"]: row["train/learning_rate"] for row in rows if "train/learning_rate" in row}
    assert logged == {n + 8: pytest.approx(rate, rel=1e-6) for n, rate in expected if n < 160}  # at the next episode's end


@pytest.mark.parametrize("make", ["dreamer", "planet"], indirect=True)
def test_steps_beyond_the_end_make_no_negative_rates(make: Make) -> None:
    """Three environments take 102 steps where 100 were asked for; SB3 would say that -2 % remain."""
    model = make(make_vec_env(lambda: Clock(length=8), 3), learning_rate=lambda remaining: 1e-3 * remaining, train_ratio=32)
    noted = note_rates(model)
    model.learn(100)
    assert noted[-1][0] == 102 and noted[-1][1]["world_model"] == 0.0


def test_what_is_owed_from_before_is_paid_at_the_rate_of_a_beginning() -> None:
    model = tiny_dreamer(Clock(length=8), learning_rate=lambda remaining: 1e-3 * remaining, train_ratio=8)
    model.learn(80)
    model._update_debt = 1.0  # as a callback leaves it that ends training at its last step
    noted = note_rates(model)
    model.learn(20)
    assert noted[0][0] == 0 and noted[0][1]["world_model"] == pytest.approx(1e-3)


def test_actor_and_critic_have_schedules_of_their_own() -> None:
    rates_of_actor = LinearSchedule(2e-3, 0.0, 1.0)
    model = tiny_dreamer(Clock(), learning_rate=square, actor_learning_rate=rates_of_actor, critic_learning_rate=None)
    noted = note_rates(model)
    model.learn(80)
    for n, rates in noted:
        progress = 1 - n / 80
        assert rates == {
            "world_model": pytest.approx(square(progress)),
            "actor": pytest.approx(2e-3 * progress),
            "critic": pytest.approx(square(progress)),
        }


def test_warmup_updates_scale_the_schedule() -> None:
    model = tiny_dreamer(Clock(), learning_rate=square, warmup_updates=4)
    noted = note_rates(model)
    model.learn(100)
    shares = [rates["world_model"] / square(1 - n / 100) for n, rates in noted]
    assert np.allclose(shares, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_saved(make: Make, name: str, tmp_path: pathlib.Path) -> None:
    model = make(Clock(), learning_rate=SCHEDULES[name])
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=Clock(), device="cpu")
    assert [loaded.lr_schedule(p) for p in (1, 0.3, 0)] == [model.lr_schedule(p) for p in (1, 0.3, 0)]


def test_replaced_schedules_as_the_zoo_does_it(make: Make, tmp_path: pathlib.Path) -> None:
    make(Clock(), learning_rate=SCHEDULES["linear"]).save(tmp_path / "model")
    replaced = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    loaded = make(None, _init_setup_model=False).load(tmp_path / "model", custom_objects=replaced, device="cpu")
    assert loaded.lr_schedule(0.5) == 0
    loaded = loaded.load(tmp_path / "model", env=Clock(), learning_rate=ConstantSchedule(4e-4), device="cpu")
    noted = note_rates(loaded)
    loaded.learn(50)
    assert [rates["world_model"] for _, rates in noted] == [4e-4, 4e-4]
