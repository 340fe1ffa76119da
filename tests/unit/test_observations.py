import numpy as np
import pytest
import torch as th

from sb3_dreamer.common.math import symlog
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.world_models.observations import ObservationModel, RunningMagnitude, VectorScaling


def test_running_statistics_equal_numpy_in_any_portions() -> None:
    data = np.random.default_rng(0).normal(3.0, [0.01, 50.0], size=(100, 2))
    scaling = VectorScaling("running", 2)
    for part in np.split(data, [1, 2, 30, 31, 80]):
        scaling.update(th.as_tensor(part))
    scaled = scaling(th.as_tensor(data, dtype=th.float32)).numpy()
    assert np.allclose(scaled, (data - data.mean(0)) / data.std(0), atol=0.02)
    assert np.allclose(scaling.inverse(th.as_tensor(scaled)).numpy(), data, atol=1e-3)


def test_constant_observations_stay_finite() -> None:
    scaling = VectorScaling("running", 1)
    scaling.update(th.full((5, 1), 2.0))
    assert scaling(th.full((1, 1), 2.0)).item() == 0.0
    assert scaling(th.full((1, 1), 99.0)).item() == 10.0  # clipped


def test_before_any_observation_nothing_is_scaled() -> None:
    assert VectorScaling("running", 1)(th.tensor([[3.0]])).item() == pytest.approx(3.0, rel=1e-6)


def test_symlog_and_none() -> None:
    x = th.tensor([[-30.0, 2.0]])
    scaling = VectorScaling("symlog", 2)
    scaling.update(x)  # has nothing to learn
    assert th.allclose(scaling(x), symlog(x)) and th.allclose(scaling.inverse(scaling(x)), x, rtol=1e-5)
    assert th.equal(VectorScaling("none", 2)(x), x)
    with pytest.raises(ValueError, match="normalize_obs"):
        VectorScaling("minmax", 2)  # type: ignore[arg-type]


def test_losses_sum_over_dimensions_without_a_half() -> None:
    keys = [
        ObservationKey("b", "vector", 3, (3,), np.float32),
        ObservationKey("a", "discrete", 4, (), np.int64),
    ]
    model = ObservationModel(keys, feat_size=5, units=8, layers=1, norm="rms", scaling="symlog")
    assert [key.name for key in model.keys] == ["a", "b"]  # sorted
    obs = {"a": th.eye(4)[:2], "b": th.randn(2, 3)}
    feat = th.randn(2, 5)
    losses = model.loss(feat, model.scale(obs))
    hidden = model.decoder(feat)
    expected = (model.outputs["b"](hidden) - symlog(obs["b"])).square().sum(-1)
    assert th.allclose(losses["b"], expected)
    log_probs = th.log_softmax(model.outputs["a"](hidden), -1)
    assert th.allclose(losses["a"], -th.stack([log_probs[0, 0], log_probs[1, 1]]))
    decoded = model.decode(feat)
    assert th.allclose(decoded["a"].sum(-1), th.ones(2))
    assert th.allclose(symlog(decoded["b"]), model.outputs["b"](hidden), atol=1e-5)


def test_running_magnitude_is_the_root_mean_square() -> None:
    magnitude = RunningMagnitude()
    assert magnitude().item() == 1.0
    magnitude.update(th.zeros(3))
    assert magnitude().item() == 1.0  # nothing to scale by yet
    magnitude.update(th.tensor([3.0, -4.0]))
    assert magnitude().item() == pytest.approx((25 / 5) ** 0.5)
