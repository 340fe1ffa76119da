"""Updates with matrix products in bfloat16: close to float32 ones, and float32 where that matters."""

from typing import Any

import pytest
import torch as th
from conftest import tiny_dreamer

from sb3_dreamer import DREAMER_V3, Dreamer

CASES: dict[str, dict[str, Any]] = {
    "gaussian": dict(),
    "categorical": dict(latent="categorical", world_model_kwargs=dict(norm="rms", reward_head="twohot")),
    "blocks": dict(size="medium"),
    "discrete": dict(env="envs:SequenceMemory-v0"),
    "picture": dict(env="envs:ContinuousPendulumPixels-v0", policy="CnnPolicy"),
}


def filled(**kwargs: Any) -> Dreamer:
    env, policy = kwargs.pop("env", "envs:ContinuousPendulum-v0"), kwargs.pop("policy", "MlpPolicy")
    return tiny_dreamer(env, policy=policy, policy_kwargs=kwargs).learn(60)


def losses(model: Dreamer, precision: str) -> dict[str, th.Tensor]:
    model.policy.precision = precision
    model.replay_buffer.seed(0)
    batch, _ = model.replay_buffer.sample(4, 8)
    with model.policy.autocast():
        th.manual_seed(0)
        posterior, found, _ = model.world_model.loss(batch)
        metrics: dict[str, th.Tensor] = {}
        actor, critic, returns = model._imagined_losses(posterior.detach().map(lambda x: x.flatten(0, 1)), metrics)
        replay = model._replay_value_loss(batch, posterior, None)
    return {**found, "actor": actor, "critic": critic, "returns": returns, "replay": replay, "feat": posterior.feat}


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_float32(case: str) -> None:
    model = filled(**CASES[case])
    exact, rounded = losses(model, "fp32"), losses(model, "bf16")
    assert all(value.dtype == th.float32 for value in rounded.values())
    differences = 0.0
    for name, value in exact.items():
        if name == "feat":  # a sample of a category may fall the other way
            continue
        value = value.detach()
        scale = value.abs().mean() + 0.05
        difference = float((rounded[name].detach().mean() - value.mean()).abs() / scale)
        assert difference < 0.1, (name, float(value.mean()), float(rounded[name].mean()))
        differences += difference
    assert differences > 0  # it does something


def test_weights_optimizer_and_predictions_stay_in_float32() -> None:
    model = filled(precision="bf16")
    assert all(p.dtype == th.float32 for p in model.policy.parameters())
    assert all(p.grad is None or p.grad.dtype == th.float32 for p in model.policy.parameters())
    states = [value for state in model.policy.optimizer.state.values() for value in state.values()]
    assert all(value.dtype == th.float32 for value in states if isinstance(value, th.Tensor))
    obs = model.observation_space.sample()
    action, _ = model.predict(obs, deterministic=True)
    model.policy.precision = "fp32"
    assert (model.predict(obs, deterministic=True)[0] == action).all()


def test_the_choice_is_checked_and_saved(tmp_path: Any) -> None:
    model = tiny_dreamer(policy_kwargs=dict(size="debug", precision="bf16"))
    model.save(tmp_path / "model")
    assert Dreamer.load(tmp_path / "model").policy.precision == "bf16"
    with pytest.raises(ValueError, match="precision must be 'fp32' or 'bf16', got 'fp16'"):
        tiny_dreamer(policy_kwargs=dict(precision="fp16"))
    assert DREAMER_V3["policy_kwargs"]["precision"] == "fp32"
