"""World-model reinforcement learning for Stable-Baselines3. Importing it registers the toy tasks as well."""

import warnings

from sb3_dreamer.director import Director
from sb3_dreamer.dreamer import DREAMER_V3, Dreamer
from sb3_dreamer.mbpo import MBPO
from sb3_dreamer.pets import PETS
from sb3_dreamer.planet import PlaNet
from sb3_dreamer.version import __version__


def _register_toy_tasks() -> None:
    """Import our package ``envs``; a stranger's package of that name must not break the algorithms."""
    try:
        import envs

        ours = getattr(envs, "__sb3_dreamer_toy_tasks__", False)
        where = getattr(envs, "__file__", None) or "a namespace package"
    except Exception as error:
        ours, where = False, f"fails to import: {error!r}"
    if not ours:
        warnings.warn(
            f"The toy tasks (ContinuousPendulum-v0 ...) are not registered: another package called 'envs' ({where}) "
            "stands before sb3_dreamer's on the import path. The algorithms work all the same; to use the toy tasks, "
            "uninstall or rename the other package.",
        )


_register_toy_tasks()

__all__ = ["DREAMER_V3", "MBPO", "PETS", "Director", "Dreamer", "PlaNet", "__version__"]
