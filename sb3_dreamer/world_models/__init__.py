"""World models: usable alone, and the part of an agent that knows neither algorithms, nor replays, nor SB3."""

from sb3_dreamer.common.world_model import Policy, WorldModel
from sb3_dreamer.world_models.rssm import RSSM
from sb3_dreamer.world_models.sizes import SIZES, ModelSize

__all__ = ["RSSM", "SIZES", "ModelSize", "Policy", "WorldModel"]
