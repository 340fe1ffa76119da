"""Convolutional encoder and decoder: every size, and how the stages are counted."""

import pytest
import torch as th

from sb3_dreamer.common.convolutions import ConvDecoder, ConvEncoder, ConvStage, plan_stages

SIZES = [(64, 64), (16, 16), (40, 48), (84, 84), (256, 256), (16, 256), (17, 33), (7, 7), (1, 5), (8, 8), (3, 100)]


@pytest.mark.parametrize(
    ("size", "plan"),
    [((64, 64), (4, 4, 4)), ((40, 48), (3, 5, 6)), ((84, 84), (4, 6, 6)), ((256, 256), (6, 4, 4)), ((7, 7), (0, 7, 7))],
)
def test_stages(size: tuple[int, int], plan: tuple[int, int, int]) -> None:
    assert plan_stages(*size) == plan


@pytest.mark.parametrize("strided", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_every_size_comes_out_as_it_went_in(size: tuple[int, int], strided: bool) -> None:
    images = th.rand(2, 1, 3, *size)
    encoder = ConvEncoder((3, *size), depth=2, norm="rms", strided=strided)
    embedding = encoder(images)
    assert embedding.shape == (2, 1, encoder.out_features)
    decoder = ConvDecoder(8, 6, (3, *size), depth=2, units=4, blocks=2, norm="layer", strided=strided)
    decoded = decoder(th.randn(2, 1, 14))
    assert decoded.shape == images.shape and decoded.min() >= 0 and decoded.max() <= 1
    decoded.sum().backward()
    assert all(p.grad is not None and th.isfinite(p.grad).all() for p in decoder.parameters())


@pytest.mark.parametrize("strided", [True, False])
@pytest.mark.parametrize("change", ["halve", "double", "keep"])
def test_initial_weights_keep_the_variance(change: str, strided: bool) -> None:
    th.manual_seed(0)
    stage = ConvStage(16, 16, change, strided, None)
    inside = stage(th.randn(8, 16, 16, 16))[:, :, 2:-2, 2:-2]
    # doubling by repetition correlates neighbours, pooling keeps maxima: the order of magnitude is what counts
    assert 0.5 < inside.std().item() < 2.1


def test_every_pixel_reaches_the_embedding() -> None:
    encoder = ConvEncoder((1, 17, 20), depth=2, norm="rms", strided=True)
    images = th.rand(1, 1, 17, 20, requires_grad=True)
    encoder(images).square().sum().backward()
    assert images.grad is not None and (images.grad != 0).all()
