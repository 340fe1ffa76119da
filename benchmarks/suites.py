"""
The tasks of ``learning.py``: who runs on them, for how long, and with which settings.

Dreamer runs with its defaults everywhere, but for two memories that are longer than these reach. The baselines have the
settings that RL Baselines3 Zoo tuned (from ``sb3_dreamer/compare/settings.py``, or here), SB3's where it has none, and lengths
in which most of them are known to get there; those of ``RecurrentPPO`` are what time allowed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks import DMC
from torch import nn


@dataclass(frozen=True)
class Training:
    """How one algorithm is trained on a task."""

    seeds: int  # 0, 1, ...
    total_timesteps: int
    eval_every: int
    hyperparams: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What is to be learnt, and by whom."""

    env_id: str
    threshold: float  # evaluation return at which it counts as solved
    algos: Mapping[str, Training]
    n_eval_episodes: int = 20
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()  # that its environment needs, by their import names


# The published settings with the learning rate and its warm-up scaled for a short run.
DREAMER_V3_SHORT = dict(learning_rate=6e-4, warmup_updates=100, buffer_size=10_000)

# The zoo's policy of its tasks without velocities.
LSTM: dict[str, Any] = dict(
    ortho_init=False,
    activation_fn=nn.ReLU,
    lstm_hidden_size=64,
    enable_critic_lstm=True,
    net_arch=dict(pi=[64], vf=[64]),
)
RECURRENT = dict(policy_kwargs=LSTM)
# Gradients go through time within a rollout only, which must hold an episode.
RECURRENT_LONG = dict(policy_kwargs=LSTM, n_steps=128)

# The zoo's, but for the replay's size, where it cannot fill up.
MOUNTAIN_CAR: dict[str, Any] = dict(
    learning_rate=3e-4,
    batch_size=512,
    ent_coef=0.1,
    train_freq=32,
    gradient_steps=32,
    gamma=0.9999,
    tau=0.01,
    learning_starts=0,
    use_sde=True,
    policy_kwargs=dict(log_std_init=-3.67, net_arch=[64, 64], use_expln=True),
)
DQN: dict[str, Any] = dict(
    learning_rate=6.3e-4,
    batch_size=128,
    buffer_size=50_000,
    learning_starts=0,
    target_update_interval=250,
    train_freq=4,
    gradient_steps=-1,
    exploration_fraction=0.12,
    exploration_final_eps=0.1,
    policy_kwargs=dict(net_arch=[256, 256]),
)
PPO_ACROBOT: dict[str, Any] = dict(normalize=True, n_envs=16, n_steps=256, gae_lambda=0.94, n_epochs=4, ent_coef=0.0)
PPO_LANDER: dict[str, Any] = dict(n_envs=16, n_steps=1024, gae_lambda=0.98, gamma=0.999, n_epochs=4, ent_coef=0.01)

TOY: dict[str, Task] = {
    "ContinuousPendulum-v0": Task(
        "ContinuousPendulum-v0",
        -200,
        {
            "dreamer": Training(5, 10_000, 100),
            "pets": Training(5, 1000, 500),
            "planet": Training(5, 3000, 250),
            "mbpo": Training(5, 1500, 125),
            "sac": Training(5, 5000, 125),
            "tqc": Training(5, 4000, 250),
            "crossq": Training(3, 5000, 125),
            "ppo": Training(5, 50_000, 2500),
            "recurrent_ppo": Training(5, 10_000, 2500),
            "dreamer_v3": Training(1, 2500, 125, DREAMER_V3_SHORT),
        },
    ),
    "ContinuousCartPole-v0": Task(
        "ContinuousCartPole-v0",
        195,
        {
            "dreamer": Training(5, 10_000, 125),
            "pets": Training(5, 1000, 500),
            "planet": Training(5, 2000, 250),
            "mbpo": Training(5, 1000, 125),
            "sac": Training(5, 5000, 250),
            "tqc": Training(5, 4000, 250),
            "crossq": Training(3, 5000, 125),
            "ppo": Training(5, 20_000, 1000),
            "recurrent_ppo": Training(5, 10_000, 2500),
        },
    ),
    "ContinuousPendulumNoVelocity-v0": Task(
        "ContinuousPendulumNoVelocity-v0",
        -200,
        {
            "dreamer": Training(5, 5000, 125),
            "pets": Training(5, 1000, 500),
            "planet": Training(5, 5000, 500),
            "mbpo": Training(5, 1000, 250),
            "sac": Training(5, 4000, 250),
            "tqc": Training(5, 4000, 250),
            "ppo": Training(5, 20_000, 2500),
            "recurrent_ppo": Training(5, 10_000, 1250, {**RECURRENT, "normalize": True}),
        },
    ),
    "SequenceMemory-v0": Task(
        "SequenceMemory-v0",
        46.5,
        {
            "dreamer": Training(5, 5000, 125),
            "pets": Training(5, 1000, 500),
            "planet": Training(5, 2000, 250),
            "dqn": Training(5, 10_000, 500),
            "ppo": Training(5, 20_000, 1000),
            "recurrent_ppo": Training(5, 10_000, 1250),
        },
    ),
    "DelayedRecall-v0": Task(
        "DelayedRecall-v0",
        0.95,
        {
            "dreamer": Training(5, 5000, 250),
            "pets": Training(5, 1000, 500),
            "planet": Training(5, 3000, 250),
            "dqn": Training(5, 10_000, 500),
            "ppo": Training(5, 20_000, 1000),
            "recurrent_ppo": Training(5, 10_000, 1250, RECURRENT),
        },
        n_eval_episodes=60,
    ),
}

# Whether learning suffers from short numbers, at the default width and at 256.
PRECISION: dict[str, Task] = {
    "ContinuousPendulum-v0-bf16": Task(
        "ContinuousPendulum-v0",
        -200,
        {"dreamer": Training(5, 1500, 125, dict(policy_kwargs=dict(precision="bf16")))},
    ),
    "ContinuousPendulum-v0-medium": Task(
        "ContinuousPendulum-v0",
        -200,
        {"dreamer": Training(3, 1000, 125, dict(policy_kwargs=dict(size="medium")))},
    ),
    "ContinuousPendulum-v0-medium-bf16": Task(
        "ContinuousPendulum-v0",
        -200,
        {"dreamer": Training(3, 1000, 125, dict(policy_kwargs=dict(size="medium", precision="bf16")))},
    ),
}

CLASSIC: dict[str, Task] = {
    "Pendulum-v1": Task(
        "Pendulum-v1",
        -200,
        {"dreamer": Training(3, 5000, 250), "sac": Training(3, 6000, 250), "tqc": Training(3, 6000, 250)},
    ),
    "CartPole-v1": Task(
        "CartPole-v1",
        475,
        {"dreamer": Training(3, 5000, 250), "dqn": Training(3, 50_000, 2500), "ppo": Training(3, 50_000, 2500)},
    ),
    "Acrobot-v1": Task(
        "Acrobot-v1",
        -100,
        {
            "dreamer": Training(3, 5000, 250),
            "dqn": Training(3, 50_000, 2500, DQN),
            "ppo": Training(3, 50_000, 2500, PPO_ACROBOT),
        },
    ),
    "MountainCarContinuous-v0": Task(
        "MountainCarContinuous-v0",
        90,
        {
            "dreamer": Training(3, 5000, 250),
            "sac": Training(3, 30_000, 1000, MOUNTAIN_CAR),
            "tqc": Training(3, 30_000, 1000, MOUNTAIN_CAR),
        },
    ),
    "LunarLander-v3": Task(
        "LunarLander-v3",
        200,
        {
            "dreamer": Training(3, 20_000, 1000),
            "dqn": Training(3, 100_000, 5000, DQN),
            "ppo": Training(3, 1_000_000, 50_000, PPO_LANDER),
        },
        packages=("Box2D",),
    ),
}

# Thresholds are DreamerV3's published mean returns of training around 50,000 frames; a step here is two frames.
DMC_THRESHOLDS = {"cartpole_swingup": 322, "finger_spin": 498, "cheetah_run": 228, "walker_walk": 289}
CONTROL: dict[str, Task] = {
    name: Task(
        f"tasks:DMC/{name}",
        DMC_THRESHOLDS[name],
        {"dreamer": Training(3, 50_000, 2500), "sac": Training(3, 50_000, 2500)},
        n_eval_episodes=5,
        packages=("shimmy", "dm_control"),
    )
    for name in DMC
}


def _recall(delay: int, total_timesteps: int, recurrent: Mapping[str, Any], **dreamer: Any) -> Task:
    return Task(
        "DelayedRecall-v0",
        0.95,
        {"dreamer": Training(3, total_timesteps, 500, dreamer), "recurrent_ppo": Training(2, 100_000, 5000, recurrent)},
        n_eval_episodes=60,
        env_kwargs={"delay": delay},
    )


def _long_memory(rows: int, update_bias: tuple[float, float]) -> dict[str, Any]:
    """
    What a memory over so many rows asks for: windows that hold it, units that keep what they know for so long, and a replay
    of the few rows in which it matters.
    """
    model = dict(update_bias=update_bias)
    return dict(batch_length=rows, prioritized_replay=0.5, policy_kwargs=dict(world_model_kwargs=model))


MEMORY: dict[str, Task] = {
    "DelayedRecall-10": _recall(10, 10_000, RECURRENT),
    "DelayedRecall-30": _recall(30, 15_000, RECURRENT_LONG, **_long_memory(48, (1.0, -5.0))),
    "DelayedRecall-60": _recall(60, 30_000, RECURRENT_LONG, **_long_memory(96, (1.0, -6.0))),
    "MiniGrid-MemoryS7-v0": Task(
        "tasks:Memory/MiniGridS7", 0.9, {"dreamer": Training(2, 30_000, 1000)}, packages=("minigrid",)
    ),
    "popgym-RepeatPreviousEasy-v0": Task(
        "tasks:Memory/RepeatPreviousEasy",
        0.9,
        {"dreamer": Training(2, 30_000, 1000), "recurrent_ppo": Training(2, 100_000, 5000)},
        packages=("popgym",),
    ),
}

PIXELS: dict[str, Task] = {
    "ContinuousPendulumPixels-v0": Task(
        "ContinuousPendulumPixels-v0",
        -300,
        {"dreamer": Training(3, 3500, 250), "sac": Training(1, 5000, 500)},  # both choose the CnnPolicy for pictures
    ),
}

# The entropy, the fits every 250 steps and the single imagined steps with which MBPO's authors begin there; half of their
# updates and a quarter of their dreams, for time.
MBPO_HOPPER: dict[str, Any] = dict(
    gradient_steps=10,
    learning_rate=5e-4,
    model_train_freq=250,
    model_max_updates=4000,
    rollouts_per_step=100,
    rollout_length=1,
    retain_fits=4,
    target_entropy=-1.0,
    policy_kwargs=dict(net_arch=[128, 128]),
)

# Robots that may fall: where imagined terminations must be right. SAC's settings are SB3's, as the zoo's are.
MUJOCO: dict[str, Task] = {
    "InvertedPendulum-v5": Task(
        "InvertedPendulum-v5",
        1000,
        {"dreamer": Training(3, 5000, 500), "mbpo": Training(3, 5000, 500), "sac": Training(3, 5000, 500)},
        n_eval_episodes=10,
        packages=("mujoco",),
    ),
    "Hopper-v5": Task(
        "Hopper-v5",
        1000,
        {
            "dreamer": Training(3, 30_000, 2500),
            "mbpo": Training(3, 30_000, 2500, MBPO_HOPPER),
            "sac": Training(3, 30_000, 2500),
        },
        n_eval_episodes=10,
        packages=("mujoco",),
    ),
}

SUITES: dict[str, dict[str, Task]] = {
    "toy": TOY,
    "precision": PRECISION,
    "classic": CLASSIC,
    "dmc": CONTROL,
    "memory": MEMORY,
    "pixels": PIXELS,
    "mujoco": MUJOCO,
}
