"""Model sizes by name: the published ones of DreamerV3, and small ones for tasks with a few numbers as observation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSize:
    """Widths and depths of all networks of an agent."""

    deter: int
    """D, deterministic state of the recurrent core."""
    hidden: int
    """Width of the recurrent core's input embeddings, prior and posterior."""
    units: int
    """Width of encoder, decoder, heads, actor and critic."""
    groups: int
    """S groups of categorical latents; the number of latents of a Gaussian model."""
    classes: int
    """K classes a group (categorical latents only)."""
    blocks: int
    """Blocks of the GRU."""
    depth: int
    """Channels of the first convolution are a multiple of it (images only)."""
    layers: int = 3
    """Hidden layers of encoder, decoder, actor and critic."""
    head_layers: int = 1
    """Hidden layers of the reward and continue heads."""
    bins: int = 255
    """Bins of the two-hot reward and value distributions."""


SIZES: dict[str, ModelSize] = {
    # ours, for toy and classic-control tasks on a CPU
    "toy": ModelSize(deter=64, hidden=64, units=64, groups=8, classes=8, blocks=1, depth=4, layers=2, bins=127),
    "small": ModelSize(deter=128, hidden=128, units=128, groups=16, classes=8, blocks=1, depth=8, layers=2),
    "medium": ModelSize(deter=256, hidden=256, units=256, groups=16, classes=16, blocks=8, depth=16, layers=3),
    # published (github.com/danijar/dreamerv3, configs.yaml)
    "debug": ModelSize(deter=8, hidden=3, units=8, groups=2, classes=4, blocks=4, depth=2, layers=1, bins=5),
    "1m": ModelSize(deter=512, hidden=64, units=64, groups=32, classes=4, blocks=8, depth=4),
    "12m": ModelSize(deter=2048, hidden=256, units=256, groups=32, classes=16, blocks=8, depth=16),
    "25m": ModelSize(deter=3072, hidden=384, units=384, groups=32, classes=24, blocks=8, depth=24),
    "50m": ModelSize(deter=4096, hidden=512, units=512, groups=32, classes=32, blocks=8, depth=32),
    "100m": ModelSize(deter=6144, hidden=768, units=768, groups=32, classes=48, blocks=8, depth=48),
    "200m": ModelSize(deter=8192, hidden=1024, units=1024, groups=32, classes=64, blocks=8, depth=64),
    "400m": ModelSize(deter=12288, hidden=1536, units=1536, groups=32, classes=96, blocks=8, depth=96),
}


def get_size(size: str | ModelSize) -> ModelSize:
    """
    :param size: a name of :data:`SIZES`, or a size of one's own
    :return: the size
    """
    if isinstance(size, ModelSize):
        return size
    if size not in SIZES:
        raise ValueError(f"Unknown size={size!r}: use one of {', '.join(SIZES)}, or a ModelSize.")
    return SIZES[size]
