"""What ``-optimize`` searches: ranges around the settings that work on small tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


def sample_dreamer_params(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    Draw hyperparameters for Dreamer.

    The drawn ``policy_kwargs`` replace those of the task's settings as a whole, as for the zoo's other algorithms.

    :param trial: the trial
    :param n_actions: size of a Box action space, else 0
    :param n_envs: number of environments
    :param additional_args: what the zoo knows besides
    :return: constructor arguments
    """
    params: dict[str, Any] = {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 3e-3, log=True),
        "actor_learning_rate": trial.suggest_float("actor_learning_rate", 1e-4, 2e-3, log=True),
        "critic_learning_rate": trial.suggest_float("critic_learning_rate", 3e-4, 3e-3, log=True),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.003, 0.03, log=True),
        "return_lambda": trial.suggest_categorical("return_lambda", [0.9, 0.95, 0.98]),
        # 64 to 1,024 replayed rows a step, in batches of 8 to 64 windows of 8 to 32 rows
        "train_ratio_pow": trial.suggest_int("train_ratio_pow", 6, 10),
        "batch_size_pow": trial.suggest_int("batch_size_pow", 3, 6),
        "batch_length_pow": trial.suggest_int("batch_length_pow", 3, 5),
        "imagination_horizon": trial.suggest_int("imagination_horizon", 5, 20),
        "imagination_starts_pow": trial.suggest_int("imagination_starts_pow", 5, 8),
        "actor_gradient": trial.suggest_categorical("actor_gradient", ["dynamics", "reinforce"]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-3, 1e-1, log=True),
        "size": trial.suggest_categorical("size", ["toy", "small"]),
        "latent": trial.suggest_categorical("latent", ["gaussian", "categorical"]),
        "free_nats": trial.suggest_categorical("free_nats", [0.1, 1.0]),
        "reconstruction_scale": trial.suggest_float("reconstruction_scale", 1.0, 30.0, log=True),
    }
    hyperparams = convert_dreamer_params(params)
    for name in ("gamma", "train_ratio", "batch_size", "batch_length", "imagination_starts"):
        trial.set_user_attr(name, hyperparams[name])  # the true values, to be displayed
    return hyperparams


def convert_dreamer_params(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """
    :param sampled_params: a trial's parameters
    :return: the constructor arguments that they stand for
    """
    hyperparams = dict(sampled_params)
    hyperparams["gamma"] = 1 - hyperparams.pop("one_minus_gamma")
    for name in ("train_ratio", "batch_size", "batch_length", "imagination_starts"):
        hyperparams[name] = 2 ** hyperparams.pop(f"{name}_pow")
    world_model_kwargs = {name: hyperparams.pop(name) for name in ("free_nats", "reconstruction_scale")}
    policy_kwargs = {name: hyperparams.pop(name) for name in ("size", "latent")}
    return {**hyperparams, "policy_kwargs": {**policy_kwargs, "world_model_kwargs": world_model_kwargs}}
