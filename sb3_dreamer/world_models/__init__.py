"""World models: usable alone, and the part of an agent that knows neither algorithms nor replays."""

from sb3_dreamer.common.world_model import Policy, WorldModel
from sb3_dreamer.world_models.collect import collect, from_minari, from_replay_buffer
from sb3_dreamer.world_models.context_rssm import ContextRSSM
from sb3_dreamer.world_models.dataset import EpisodeDataset
from sb3_dreamer.world_models.dream import DreamEnv, DreamVecEnv
from sb3_dreamer.world_models.ensemble import DropoutWorldModel, EnsembleWorldModel, LaplaceWorldModel
from sb3_dreamer.world_models.evaluation import ModelEvaluation, evaluate_model
from sb3_dreamer.world_models.fitting import FitHistory, fit
from sb3_dreamer.world_models.mlp import MLPWorldModel
from sb3_dreamer.world_models.probabilistic import ProbabilisticWorldModel
from sb3_dreamer.world_models.rssm import RSSM
from sb3_dreamer.world_models.sizes import SIZES, ModelSize
from sb3_dreamer.world_models.standalone import StandaloneWorldModel
from sb3_dreamer.world_models.trajectories import ImaginedTrajectory
from sb3_dreamer.world_models.vae import VAEWorldModel

SEQUENCE_MODELS: tuple[type[WorldModel], ...] = (RSSM, ContextRSSM, VAEWorldModel, MLPWorldModel)
"""Those that agents learn from replayed sequences."""

__all__ = [
    "RSSM",
    "SEQUENCE_MODELS",
    "SIZES",
    "ContextRSSM",
    "DreamEnv",
    "DreamVecEnv",
    "DropoutWorldModel",
    "EnsembleWorldModel",
    "EpisodeDataset",
    "FitHistory",
    "ImaginedTrajectory",
    "LaplaceWorldModel",
    "MLPWorldModel",
    "ModelEvaluation",
    "ModelSize",
    "Policy",
    "ProbabilisticWorldModel",
    "StandaloneWorldModel",
    "VAEWorldModel",
    "WorldModel",
    "collect",
    "evaluate_model",
    "fit",
    "from_minari",
    "from_replay_buffer",
]
