from sb3_dreamer.pets.pets import PETS
from sb3_dreamer.pets.policies import MlpPolicy, MultiInputPolicy, PETSPolicy

__all__ = ["PETS", "MlpPolicy", "MultiInputPolicy", "PETSPolicy"]
