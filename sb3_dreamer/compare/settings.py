"""
Which algorithms can be compared, with which settings, and when a task counts as solved: the one place to change that.

The baselines use the tuned settings of rl-baselines3-zoo (``hyperparams/{sac,td3,ddpg,tqc,crossq,ppo,ppo_lstm,a2c,dqn,
qrdqn}.yml``, entries ``Pendulum-v1``, ``CartPole-v1`` and their no-velocity variants), but where a comment says so.
Ours (``director``, ``dreamer``, ``mbpo``, ``pets``, ``planet``) have no entry: they run with their defaults everywhere. On a
task without an entry a baseline uses SB3's. Any other algorithm, named ``"package.module:Class"``, runs with its own defaults.

Besides constructor arguments, a settings dict may hold what the zoo's files hold:

- ``n_envs``: number of training environments;
- ``normalize``: wrap them in ``VecNormalize`` (evaluation uses the same statistics, and the unnormalised reward);
- ``noise_std``: Gaussian action noise for exploration;
- ``policy``: the policy's name (chosen by the observation space otherwise);
- ``"lin_0.001"`` for ``learning_rate`` or ``clip_range``: falls linearly to zero over the run.
"""

import copy
import difflib
import importlib
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_dreamer.behaviour.algorithm import ImaginationAlgorithm
from sb3_dreamer.common.arguments import constructor_arguments
from sb3_dreamer.common.model_based_algorithm import ModelBasedAlgorithm
from sb3_dreamer.compare.errors import ComparisonError

_CONTINUOUS = (spaces.Box,)
_DISCRETE = (spaces.Discrete,)
_ANY = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


@dataclass(frozen=True)
class Algorithm:
    """An algorithm that can be compared."""

    path: str  # "module:Class"
    action_spaces: tuple[type[spaces.Space], ...]
    preset: str | None = None  # "module:NAME" of a dict of constructor arguments


ALGORITHMS: dict[str, Algorithm] = {
    "dreamer": Algorithm("sb3_dreamer:Dreamer", _ANY),
    "director": Algorithm("sb3_dreamer:Director", _ANY),
    "mbpo": Algorithm("sb3_dreamer:MBPO", _CONTINUOUS),
    "pets": Algorithm("sb3_dreamer:PETS", _ANY),
    "planet": Algorithm("sb3_dreamer:PlaNet", _ANY),
    "dreamer_v3": Algorithm("sb3_dreamer:Dreamer", _ANY, preset="sb3_dreamer.dreamer:DREAMER_V3"),
    "a2c": Algorithm("stable_baselines3:A2C", _ANY),
    "ddpg": Algorithm("stable_baselines3:DDPG", _CONTINUOUS),
    "dqn": Algorithm("stable_baselines3:DQN", _DISCRETE),
    "ppo": Algorithm("stable_baselines3:PPO", _ANY),
    "sac": Algorithm("stable_baselines3:SAC", _CONTINUOUS),
    "td3": Algorithm("stable_baselines3:TD3", _CONTINUOUS),
    "crossq": Algorithm("sb3_contrib:CrossQ", _CONTINUOUS),
    "qrdqn": Algorithm("sb3_contrib:QRDQN", _DISCRETE),
    "recurrent_ppo": Algorithm("sb3_contrib:RecurrentPPO", _ANY),
    "tqc": Algorithm("sb3_contrib:TQC", _CONTINUOUS),
}

# Final or intermediate evaluation return at which a task counts as solved.
THRESHOLDS: dict[str, float] = {
    "ContinuousPendulum-v0": -200.0,
    "ContinuousCartPole-v0": 195.0,
    "ContinuousPendulumNoVelocity-v0": -200.0,
    "ContinuousPendulumPixels-v0": -300.0,
    "ContinuousPendulumSparse-v0": 100.0,
    "SequenceMemory-v0": 46.5,
    "DelayedRecall-v0": 0.95,
    "FourRooms-v0": 0.8,
    "Pendulum-v1": -200.0,
    "CartPole-v1": 475.0,
}

# Tasks that share their settings, by the beginning of the environment's name; the first match counts.
FAMILIES: tuple[tuple[str, str], ...] = (
    ("ContinuousPendulum", "pendulum"),
    ("Pendulum-", "pendulum"),
    ("ContinuousCartPole", "cartpole"),
    ("CartPole-", "cartpole"),
    ("SequenceMemory", "cartpole"),
    ("DelayedRecall", "cartpole"),
)

# Zoo: lr 1e-3 and SB3's defaults (256x256 nets, batch 256). The smaller nets and batch learn these tasks as fast, and
# as well, in less than half of the CPU time.
_SAC = {"learning_rate": 1e-3, "batch_size": 128, "policy_kwargs": {"net_arch": [64, 64]}}

# Zoo: learning_starts 10000 of 20000 steps and 400x300 nets; runs here are often shorter than that start.
_TD3 = {
    "learning_rate": 1e-3,
    "gamma": 0.98,
    "batch_size": 128,
    "learning_starts": 1000,
    "noise_std": 0.1,
    "policy_kwargs": {"net_arch": [64, 64]},
}

_PPO_PENDULUM = {
    "n_envs": 4,
    "n_steps": 1024,
    "gae_lambda": 0.95,
    "gamma": 0.9,
    "n_epochs": 10,
    "ent_coef": 0.0,
    "learning_rate": 1e-3,
    "clip_range": 0.2,
    "use_sde": True,
    "sde_sample_freq": 4,
}

_PPO_CARTPOLE = {
    "n_envs": 8,
    "n_steps": 32,
    "batch_size": 256,
    "gae_lambda": 0.8,
    "gamma": 0.98,
    "n_epochs": 20,
    "ent_coef": 0.0,
    "learning_rate": "lin_0.001",
    "clip_range": "lin_0.2",
}

_A2C_PENDULUM = {
    "n_envs": 8,
    "normalize": True,
    "ent_coef": 0.0,
    "max_grad_norm": 0.5,
    "n_steps": 8,
    "gae_lambda": 0.9,
    "vf_coef": 0.4,
    "gamma": 0.9,
    "use_rms_prop": True,
    "normalize_advantage": False,
    "learning_rate": "lin_0.0007",
    "use_sde": True,
    "policy_kwargs": {"log_std_init": -2, "ortho_init": False},
}

_DQN = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "gamma": 0.99,
    "target_update_interval": 10,  # in steps: the target stays where it is for the 128 updates of a round
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}

TUNED: dict[str, dict[str, dict[str, Any]]] = {
    # The zoo has no continuous cart-pole: SAC, TD3 and their relatives take the pendulum's settings there.
    "sac": {"pendulum": _SAC, "cartpole": _SAC},
    "tqc": {"pendulum": _SAC, "cartpole": _SAC},
    # CrossQ's point is wide nets without target copies; 128 is half of the zoo's, for time. Its own lr (1e-3) stays.
    "crossq": {
        "pendulum": {"policy_delay": 2, "policy_kwargs": {"net_arch": [128, 128]}},
        "cartpole": {"policy_delay": 2, "policy_kwargs": {"net_arch": [128, 128]}},
    },
    "td3": {"pendulum": _TD3, "cartpole": _TD3},
    "ddpg": {"pendulum": _TD3, "cartpole": _TD3},
    "ppo": {"pendulum": _PPO_PENDULUM, "cartpole": _PPO_CARTPOLE},
    "recurrent_ppo": {"pendulum": _PPO_PENDULUM, "cartpole": _PPO_CARTPOLE},
    "a2c": {"pendulum": _A2C_PENDULUM, "cartpole": {"n_envs": 8, "ent_coef": 0.0}},
    "dqn": {"cartpole": _DQN},
    "qrdqn": {"cartpole": {**_DQN, "policy_kwargs": {"net_arch": [256, 256], "n_quantiles": 10}}},
}

# Not constructor arguments: `build_model` in runner.py takes them out.
RUNNER_SETTINGS = ("n_envs", "normalize", "noise_std", "policy")
# Constructor arguments that belong to the comparison.
_RESERVED = ("self", "env", "seed", "device", "verbose", "_init_setup_model")


def algorithm_names() -> list[str]:
    """:return: the names that ``compare`` accepts as ``algos``"""
    return list(ALGORITHMS)


def family(env_name: str) -> str | None:
    """
    :param env_name: the environment's id, without a module
    :return: the name under which ``TUNED`` keeps this task's settings, None if it has none
    """
    return next((name for prefix, name in FAMILIES if env_name.startswith(prefix)), None)


def _look_up(path: str) -> Any:
    """:return: the object that a ``"module:NAME"`` names"""
    module, _, name = path.partition(":")
    return operator.attrgetter(name)(importlib.import_module(module))


def load_algorithm(name: str) -> type[BaseAlgorithm]:
    """
    :param name: one of :func:`algorithm_names`, or ``"package.module:Class"`` of any other
    :return: its class
    """
    if ":" in name:
        return _load_class(name)
    if name not in ALGORITHMS:
        close = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ComparisonError(
            f"Unknown algorithm {name!r}.{hint} There are: {', '.join(ALGORITHMS)}; any other is 'package.module:Class'."
        )
    try:
        return _look_up(ALGORITHMS[name].path)
    except ModuleNotFoundError as error:
        if error.name != "sb3_contrib":
            raise
        raise ImportError(f"{name} comes from SB3-contrib, which is not installed: pip install sb3-contrib") from error


def _import(path: str, failure: str) -> Any:
    """
    :param path: ``"module:NAME"``, given by a user
    :param failure: what to say of it if it cannot be loaded
    :return: the object
    """
    try:
        return _look_up(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ComparisonError(
            f"{failure}: {error}. It is named 'package.module:Class', and each run, a process of its own, must be able to "
            "import it."
        ) from error


def _load_class(path: str) -> type[BaseAlgorithm]:
    found = _import(path, f"Cannot load the algorithm {path!r}")
    if not (isinstance(found, type) and issubclass(found, BaseAlgorithm)):
        raise ComparisonError(f"{path!r} is {found!r}, not a subclass of Stable-Baselines3's BaseAlgorithm.")
    return found


def _class_by_name(key: str, value: Any) -> Any:
    """
    :param key: of ``policy_kwargs``
    :param value: its value
    :return: the class, where the value is the name of one and the key asks for one; else the same
    """
    if not (isinstance(value, str) and (key.endswith("_class") or key == "activation_fn")):
        return value
    path = value if ":" in value else ":".join(value.rpartition(".")[::2])
    return _import(path, f"policy_kwargs: cannot load {key}={value!r}")


def default_settings(name: str) -> dict[str, Any]:
    """
    What an algorithm does where it is told nothing: recorded with every run, as defaults change between versions.

    :param name: the algorithm
    :return: default arguments of its class, and what those become that are left open; for those with a world model, of policy
        and model as well
    """

    def defaults(kind: type) -> dict[str, Any]:
        arguments, _ = constructor_arguments(kind)
        return {p.name: p.default for p in arguments.values() if p.default is not p.empty and p.name not in _RESERVED}

    if name not in ALGORITHMS and ":" not in name:
        return {}
    algorithm = load_algorithm(name)
    settings = defaults(algorithm)
    if issubclass(algorithm, ImaginationAlgorithm):
        settings["usual"] = copy.deepcopy(algorithm.usual)
    if issubclass(algorithm, ModelBasedAlgorithm):
        settings["policy_kwargs"] = policy = defaults(algorithm.policy_aliases["MlpPolicy"])
        model = policy["world_model_class"]
        policy["world_model_kwargs"] = {**defaults(model), **model.small_task_kwargs}
    return settings


def check_action_space(name: str, action_space: spaces.Space, env_name: str) -> None:
    """
    Refuse an algorithm that cannot act in this environment. Of algorithms other than ours that is not known.

    :param name: the algorithm
    :param action_space: the environment's
    :param env_name: the environment, for the message
    """
    if name not in ALGORITHMS or isinstance(action_space, ALGORITHMS[name].action_spaces):
        return
    able = [other for other, entry in ALGORITHMS.items() if isinstance(action_space, entry.action_spaces)]
    needed = " or ".join(space.__name__ for space in ALGORITHMS[name].action_spaces)
    raise ComparisonError(
        f"{name} needs a {needed} action space, but {env_name} has {action_space}."
        + (f" Algorithms for it: {', '.join(able)}." if able else " No algorithm here supports it.")
    )


def hyperparameters(
    name: str, env_name: str, total_timesteps: int, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    All settings of one algorithm on one task.

    :param name: the algorithm
    :param env_name: the environment's id, without a module
    :param total_timesteps: length of the run, in environment steps
    :param overrides: settings that win over the tuned ones (``policy_kwargs`` is merged, everything else replaced);
        classes in ``policy_kwargs`` may be named, as on a command line: ``"torch.optim.RMSprop"``
    :return: constructor arguments and ``RUNNER_SETTINGS``
    """
    overrides = dict(overrides or {})
    settings: dict[str, Any] = dict(TUNED.get(name, {}).get(family(env_name) or "", {}))
    preset = ALGORITHMS[name].preset if name in ALGORITHMS else None
    if preset is not None:
        settings.update(_look_up(preset))
    algorithm = load_algorithm(name)
    arguments, others = constructor_arguments(algorithm)
    # A buffer that cannot fill up behaves the same at any size; SB3's default reserves a million transitions. Those of
    # algorithms with a world model take memory as they need it.
    if issubclass(algorithm, OffPolicyAlgorithm) and not issubclass(algorithm, ModelBasedAlgorithm):
        default = arguments["buffer_size"].default if "buffer_size" in arguments else 1_000_000
        settings["buffer_size"] = min(settings.get("buffer_size", default), total_timesteps)

    allowed = [key for key in (*arguments, *RUNNER_SETTINGS) if key not in _RESERVED]
    for key in overrides:
        if key in _RESERVED:
            raise ComparisonError(f"{name}: {key!r} is set by the comparison, it cannot be a hyperparameter.")
        if key not in allowed and not others:
            raise ComparisonError(f"{name} has no hyperparameter {key!r}. It has: {', '.join(sorted(set(allowed)))}.")
    if isinstance(overrides.get("policy_kwargs"), dict):
        given = {key: _class_by_name(key, value) for key, value in overrides["policy_kwargs"].items()}
        overrides["policy_kwargs"] = {**(settings.get("policy_kwargs") or {}), **given}
    return {**settings, **overrides}
