"""Planners over any world model's dreams."""

from sb3_dreamer.planning.planners import Plan, Planner, Score
from sb3_dreamer.planning.scoring import imagined_score
from sb3_dreamer.planning.sequences import ActionSequences, CategoricalSequences, NormalSequences, coloured_noise

__all__ = [
    "ActionSequences",
    "CategoricalSequences",
    "NormalSequences",
    "Plan",
    "Planner",
    "Score",
    "coloured_noise",
    "imagined_score",
]
