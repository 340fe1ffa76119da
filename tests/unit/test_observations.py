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
        ObservationKey("b", "vector", 3, (3,), "float32"),
        ObservationKey("a", "discrete", 4, (), "uint8", classes=(4,), start=(0,)),
    ]
    model = ObservationModel(keys, deter_size=3, stoch_size=2, units=8, layers=1, norm="rms", scaling="symlog")
    assert [key.name for key in model.keys] == ["a", "b"]  # sorted
    obs = {"a": th.eye(4)[:2], "b": th.randn(2, 3)}
    feat = th.randn(2, 5)
    losses = model.loss(feat, model.scale(obs))
    hidden = model.decoder(feat)
    expected = (model.outputs[1](hidden) - symlog(obs["b"])).square().sum(-1)
    assert th.allclose(losses["b"], expected)
    log_probs = th.log_softmax(model.outputs[0](hidden), -1)
    assert th.allclose(losses["a"], -th.stack([log_probs[0, 0], log_probs[1, 1]]))
    decoded = model.decode(feat)
    assert th.allclose(decoded["a"].sum(-1), th.ones(2))
    assert th.allclose(symlog(decoded["b"]), model.outputs[1](hidden), atol=1e-5)


def test_running_magnitude_is_the_root_mean_square() -> None:
    magnitude = RunningMagnitude()
    assert magnitude().item() == 1.0
    magnitude.update(th.zeros(3))
    assert magnitude().item() == 1.0  # nothing to scale by yet
    magnitude.update(th.tensor([3.0, -4.0]))
    assert magnitude().item() == pytest.approx((25 / 5) ** 0.5)


def test_a_rare_number_is_at_most_ten_units() -> None:
    magnitude = RunningMagnitude()
    for _ in range(100):
        magnitude.update(th.zeros(100))
    magnitude.update(th.tensor([-2.0]))
    magnitude.update(th.zeros(0))
    assert magnitude().item() == pytest.approx(0.2)  # the root mean square is 0.02
    magnitude.update(th.full((200,), 2.0))
    assert magnitude().item() == pytest.approx((201 * 4 / 10201) ** 0.5)
    magnitude.renew(th.tensor([0.0, 1.0]))
    assert magnitude().item() == pytest.approx(0.5**0.5)


def test_images_bits_and_ragged_choices() -> None:
    keys = [
        ObservationKey("far", "image", 3 * 8 * 8, (3, 8, 8), "uint8", scale=255.0),
        ObservationKey("near", "image", 64, (8, 8), "uint8", scale=255.0),
        ObservationKey("wide", "image", 16 * 24, (1, 16, 24), "uint8", scale=255.0),
        ObservationKey("bits", "binary", 3, (3,), "uint8"),
        ObservationKey("choice", "discrete", 5, (2,), "uint8", classes=(3, 2), start=(0, 0)),
    ]
    model = ObservationModel(keys, 4, 4, units=8, layers=1, norm="layer", scaling="running", depth=2, blocks=2)
    obs = {key.name: th.randint(0, 256, (2, 5, *key.image_shape), dtype=th.uint8) for key in keys[:3]}
    obs["bits"] = th.randint(0, 2, (2, 5, 3)).float()
    obs["choice"] = th.tensor([0.0, 1.0, 0.0, 1.0, 0.0]).expand(2, 5, 5)
    scaled = model.scale(obs)
    assert scaled["far"].max() <= 1 and th.equal(scaled["near"], obs["near"].float() / 255)
    embedding = model.encode(scaled)
    assert embedding.shape == (2, 5, model.embed_size)
    # each of the five windows' rows is seen on its own
    assert th.allclose(model.encode({name: value[:, 3] for name, value in scaled.items()}), embedding[:, 3], atol=1e-5)
    feat = th.randn(2, 5, 8)
    losses, decoded = model.loss(feat, scaled), model.decode(feat)
    assert all(loss.shape == (2, 5) for loss in losses.values()) and losses.keys() == decoded.keys()
    for key in keys[:3]:
        assert decoded[key.name].shape == obs[key.name].shape
        expected = (decoded[key.name] / 255 - scaled[key.name]).square().sum((-3, -2, -1))
        assert th.allclose(losses[key.name], expected, rtol=1e-4)
    probs = decoded["bits"]
    assert th.allclose(losses["bits"], -(probs.log() * obs["bits"] + (1 - probs).log() * (1 - obs["bits"])).sum(-1), atol=1e-4)
    choice = decoded["choice"]
    assert th.allclose(choice[..., :3].sum(-1), th.ones(2, 5)) and th.allclose(choice[..., 3:].sum(-1), th.ones(2, 5))
    assert th.allclose(losses["choice"], -(choice[..., 1].log() + choice[..., 3].log()), atol=1e-4)
