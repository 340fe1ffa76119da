from sb3_dreamer.dreamer.dreamer import Dreamer
from sb3_dreamer.dreamer.policies import CnnPolicy, DreamerPolicy, MlpPolicy, MultiInputPolicy
from sb3_dreamer.dreamer.presets import DREAMER_V3

__all__ = ["DREAMER_V3", "CnnPolicy", "Dreamer", "DreamerPolicy", "MlpPolicy", "MultiInputPolicy"]
