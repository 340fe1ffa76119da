"""
Settings in one readable place: the published ones, and where our defaults for small tasks differ.

Published: DreamerV3 (Hafner et al. 2025), github.com/danijar/dreamerv3 ``configs.yaml``, presets ``dmc_proprio`` and
``size1m``. The defaults of :class:`~sb3_dreamer.dreamer.Dreamer` were chosen by measurement on small tasks.
"""

from __future__ import annotations

from typing import Any

from sb3_dreamer.common.optimizers import LaProp

PUBLISHED_WORLD_MODEL: dict[str, Any] = dict(
    normalize_obs="symlog",
    norm="rms",
    update_bias=-1.0,
    unimix=0.01,
    free_nats=1.0,
    min_std=0.1,
    reward_head="twohot",
    reconstruction_scale=1.0,
    reward_scale=1.0,
    continue_scale=1.0,
    kl_dynamics_scale=1.0,
    kl_representation_scale=0.1,
    image_scale=1.0,
    strided=False,
)
"""The arguments of :attr:`RSSM.small_task_kwargs` as DreamerV3 has them."""

DREAMER_V3: dict[str, Any] = dict(
    learning_rate=4e-5,
    actor_learning_rate=None,
    critic_learning_rate=None,
    warmup_updates=1000,
    max_grad_norm=None,
    buffer_size=5_000_000,
    learning_starts=1088,  # 1024 places where a window of 64 rows and its context fit
    random_warmup=False,
    pretrain_updates=0,
    online_replay=True,
    prioritized_replay=0.0,
    batch_size=16,
    batch_length=64,
    train_ratio=1024,
    train_ratio_decay=1.0,
    train_ratio_steps=0,
    gamma=1 - 1 / 333,
    return_lambda=0.95,
    imagination_horizon=15,
    imagination_starts=None,
    actor_gradient="reinforce",
    ent_coef=3e-4,
    action_mean_penalty=0.0,
    slow_critic_scale=1.0,
    slow_critic_rate=0.02,
    replay_value_scale=0.3,
    evaluation_rate=None,
    policy_kwargs=dict(
        size="1m",
        latent="categorical",
        actor_kwargs=dict(min_std=0.1, max_std=1.0, unimix=0.01),
        world_model_kwargs=PUBLISHED_WORLD_MODEL,
        precision="fp32",  # published: bfloat16, which not every processor has
        compile=False,
        optimizer_class=LaProp,
        optimizer_kwargs=dict(betas=(0.9, 0.999), eps=1e-20, agc=0.3),
    ),
)
"""The published algorithm: ``Dreamer("MlpPolicy", env, **DREAMER_V3)``."""
