from sb3_dreamer.director.director import Director
from sb3_dreamer.director.policies import CnnPolicy, DirectorPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["CnnPolicy", "Director", "DirectorPolicy", "MlpPolicy", "MultiInputPolicy"]
