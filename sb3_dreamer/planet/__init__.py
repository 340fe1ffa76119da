from sb3_dreamer.planet.planet import PlaNet
from sb3_dreamer.planet.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PlaNetPolicy

__all__ = ["CnnPolicy", "MlpPolicy", "MultiInputPolicy", "PlaNet", "PlaNetPolicy"]
