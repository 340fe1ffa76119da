"""Updates on a device that is not the processor: "meta" has no numbers, but refuses to be mixed with others as a GPU does."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import FROM_WINDOWS, tiny_director, tiny_dreamer
from gymnasium import spaces

from sb3_dreamer import DREAMER_V3
from sb3_dreamer.common import model_based_algorithm
from sb3_dreamer.common.types import LatentState, SequenceBatch

BOX = spaces.Box(-1.0, 1.0, (2,))
MIXED = spaces.Dict(
    vector=spaces.Box(-1.0, 1.0, (3,)), choices=spaces.MultiDiscrete([2, 3]), camera=spaces.Box(0, 255, (16, 16, 3), np.uint8)
)


class Noise(gym.Env):
    """Observations that mean nothing."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


V3 = {name: value for name, value in DREAMER_V3.items() if name not in ("batch_size", "batch_length", "policy_kwargs")}
CASES: dict[str, tuple[Any, spaces.Space, spaces.Space, dict[str, Any]]] = {
    "numbers": (tiny_dreamer, BOX, BOX, {}),
    "choices": (tiny_dreamer, MIXED, spaces.MultiDiscrete([2, 3]), dict(policy="MultiInputPolicy")),
    "published": (tiny_dreamer, BOX, spaces.Discrete(3), {**V3, "buffer_size": 2000}),
    "plan2explore": (tiny_dreamer, BOX, spaces.Discrete(3), dict(exploration="reconstruction")),
    "director": (tiny_director, BOX, BOX, {}),
    "director with an explorer": (tiny_director, BOX, BOX, dict(explorer_share=0.5)),
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_happens_on_one_device(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, observation_space, action_space, kwargs = CASES[case]
    model = make(Noise(observation_space, action_space), **kwargs)
    model.learn(60)
    batch, _ = model.sample_replay(2, 4)

    policy = model.policy.to("meta")
    model._create_aliases()
    for group in policy.optimizer.param_groups:
        group["params"] = list(policy.trained_modules()[group["name"]].parameters())
    moved = {name: getattr(batch, name).to("meta") for name in ("prev_action", "reward", "is_first", "is_last", "is_terminal")}
    initial = LatentState(batch.initial.deter.to("meta"), batch.initial.stoch.to("meta"))
    batch = SequenceBatch(obs={name: part.to("meta") for name, part in batch.obs.items()}, initial=initial, **moved)

    asked = []

    def judge(*values: th.Tensor, meanwhile: Any) -> bool:
        asked.append({value.device.type for value in values})
        th.stack([value.detach() for value in values])
        return False  # nothing that has no number can be finite

    monkeypatch.setattr(model, "_is_sound", judge)
    director = make is tiny_director
    for learns_alone in (False, True):
        metrics: dict[str, th.Tensor] = {}
        policy.optimizer.zero_grad(set_to_none=True)
        posterior, losses, _ = policy.world_model.loss(batch)
        loss = policy.world_model.total_loss(losses)
        if director:
            loss = loss + policy.autoencoder.loss(batch, posterior)
        elif policy.explorer is not None:
            loss = loss + policy.explorer.curiosity.loss(batch, posterior)
        given = (posterior, metrics) if director else (batch, posterior, metrics)
        behaviour = () if learns_alone else model._behaviour_losses(*given)
        assert not model._find_gradients(loss, behaviour, metrics, lambda: None)
        assert {value.device.type for value in metrics.values()} == {"meta"}
    assert asked == [{"meta"}, {"meta"}]
    policy.update_slow_critic(0.1)
    updates = int(policy.averaged_updates)
    policy.update_average(0.1)
    assert int(policy.averaged_updates) == updates + 1  # known without asking the device


@pytest.mark.parametrize("kwargs", [{}, dict(online_replay=True)], ids=["uniform", "online"])
@pytest.mark.parametrize("make", FROM_WINDOWS, indirect=True)
def test_the_next_batch_is_drawn_while_a_device_works(
    make: Any, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(ahead: bool, fail: bool = False) -> tuple[list[str], list[np.ndarray]]:
        monkeypatch.setattr(model_based_algorithm, "works_beside", lambda device: ahead)
        model = make(**kwargs).learn(48)
        events: list[str] = []
        rows: list[np.ndarray] = []
        draw, write, loss = model.sample_replay, model.replay_buffer.write_latents, model.world_model.loss
        step = model.policy.optimizer.step

        def drawing(*args: Any) -> Any:
            batch, index = draw(*args)
            events.append("draw")
            rows.append(index.row)
            return batch, index

        def losing(batch: SequenceBatch) -> Any:
            events.append("loss")
            return loss(batch)

        class Judged(th.Tensor):
            """Asked, it is waited for."""

            def __bool__(self) -> bool:
                events.append("wait")
                return not (fail and events.count("wait") == 1)

        def writing(index: Any, states: LatentState) -> None:
            events.append(f"write {next(i for i, drawn in enumerate(rows) if drawn is index.row)}")
            write(index, states)

        model.sample_replay, model.world_model.loss = drawing, losing
        model.replay_buffer.write_latents = writing
        model.policy.optimizer.step = lambda: (events.append("step"), step())
        isfinite = th.isfinite
        monkeypatch.setattr(th, "isfinite", lambda values: isfinite(values).as_subclass(Judged))
        model.train(3)
        model.train(1)
        monkeypatch.undo()
        return events, rows

    def after(i: int) -> list[str]:
        return ["wait", f"write {i}", "step"]

    usual, rows = train(False)
    assert usual == [event for i in range(4) for event in ("draw", "loss", *after(i))]
    last = ["draw", "loss", *after(3)]  # none is drawn before what comes between two calls
    ahead, rows_ahead = train(True)
    assert ahead == ["draw", *(event for i in range(2) for event in ("loss", "draw", *after(i))), "loss", *after(2), *last]
    assert all(np.array_equal(one, other) for one, other in zip(rows, rows_ahead, strict=True))
    skipped, _ = train(True, fail=True)
    assert skipped[:4] == ["draw", "loss", "draw", "wait"] and skipped[4:] == ahead[6:]  # its batch goes on


def test_a_batch_that_was_drawn_ahead_is_gone_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_based_algorithm, "works_beside", lambda device: True)
    model = tiny_dreamer().learn(48)
    monkeypatch.setattr(model.policy.optimizer, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.train(3)
    drawn: list[int] = []
    draw = model.sample_replay
    model.sample_replay = lambda *args: (drawn.append(1), draw(*args))[1]  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        model.train(1)
    assert drawn == [1]
