"""RL Baselines3 Zoo: shipped settings, the command line from training to watching, hyperparameter search."""

from __future__ import annotations

import argparse
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import optuna
import pytest
import yaml
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.gym_patches import PatchedTimeLimit
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

import envs
from sb3_dreamer import Dreamer
from sb3_dreamer.zoo import ALGORITHMS, register
from sb3_dreamer.zoo.__main__ import main

register()
# the zoo replaces Gymnasium's TimeLimit in the whole process; the other tests are to see the original
(TIME_LIMIT,) = PatchedTimeLimit.__bases__
for module in (gym.wrappers, gym.wrappers.common, gym.envs.registration):
    module.TimeLimit = TIME_LIMIT  # type: ignore[attr-defined]

SHIPPED: dict[str, dict[str, Any]] = yaml.safe_load(ALGORITHMS["dreamer"].hyperparams.read_text())
CLASSIC_CONTROL = {"CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"}
TINY = ["-params", "learning_starts:40", "batch_size:4", "batch_length:8", "train_ratio:4", "pretrain_updates:1"]
TINY += ["imagination_starts:8", "policy_kwargs:dict(size='debug')"]

Zoo = Callable[..., str]


@pytest.fixture
def zoo(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Zoo:
    """The command line, with logs in a fresh folder; gives what it prints."""
    monkeypatch.setattr(sys, "argv", sys.argv)  # main() writes it
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


def manager_of(algo: str, env_id: str, folder: pathlib.Path, **kwargs: Any) -> ExperimentManager:
    return ExperimentManager(argparse.Namespace(), algo, env_id, str(folder), eval_freq=-1, verbose=0, **kwargs)


# ---- what is shipped


def test_every_task_has_an_entry() -> None:
    assert set(envs.TASK_IDS) | CLASSIC_CONTROL | {"default"} <= set(SHIPPED)


@pytest.mark.parametrize("env_id", SHIPPED)
def test_entries_are_valid(env_id: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_by_the_zoo = {"n_timesteps", "env_wrapper"}
    arguments = set(inspect.signature(Dreamer.__init__).parameters) - {"self", "env", "seed", "device", "verbose"}
    entry = SHIPPED[env_id]
    assert entry.keys() <= arguments | taken_by_the_zoo
    assert entry["n_timesteps"] > (entry.get("learning_starts") or 200)
    if env_id == "default":  # for every task that has no entry
        monkeypatch.setitem(gym.registry, "NotListed-v0", gym.spec("CartPole-v1"))
        env_id = "NotListed-v0"
    model, settings = manager_of("dreamer", env_id, tmp_path, device="cpu").setup_experiment()
    assert isinstance(model, Dreamer) and dict(settings) == entry
    model.env.close()


# ---- registration


def test_registering_again_changes_nothing() -> None:
    before = ExperimentManager.__init__
    register()
    assert ExperimentManager.__init__ is before
    assert ALGOS["dreamer"] is Dreamer and "sac" in ALGOS
    assert {"dreamer", "sac"} <= set(HYPERPARAMS_SAMPLER) & set(HYPERPARAMS_CONVERTER)


def test_whose_settings_are_taken(tmp_path: pathlib.Path) -> None:
    def config(algo: str, **kwargs: Any) -> str:
        return manager_of(algo, "Pendulum-v1", tmp_path, **kwargs).config

    assert config("dreamer") == str(ALGORITHMS["dreamer"].hyperparams)
    assert config("dreamer", config="mine.yml") == "mine.yml"
    assert config("sac").endswith("sac.yml") and "rl_zoo3" in config("sac")


def test_without_rl_zoo3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(ImportError, match=r'pip install "sb3-dreamer\[zoo\]"'):
        register()
    assert main(["train", "--env", "Pendulum-v1"]) == 2
    assert 'pip install "sb3-dreamer[zoo]"' in capsys.readouterr().err


# ---- the command line


def test_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    for arguments, expected in ((["--help"], "-optimize"), (["train", "--help"], "--save-replay-buffer"), ([], "enjoy")):
        with pytest.raises(SystemExit):
            main(arguments)
        printed = capsys.readouterr()
        assert expected in printed.out + printed.err


def test_train_watch_and_go_on(zoo: Zoo, tmp_path: pathlib.Path) -> None:
    env = ["--algo", "dreamer", "--env", "ContinuousPendulum-v0"]
    often = ["--eval-freq", 100, "--eval-episodes", 1, "--save-freq", 100]
    printed = zoo("train", *env, "-n", 210, *often, "--save-replay-buffer", "-P", "--num-threads", 1, *TINY)
    assert str(ALGORITHMS["dreamer"].hyperparams) in printed
    folder = tmp_path / "logs/dreamer/ContinuousPendulum-v0_1"
    files = {path.name for path in folder.iterdir()}
    assert {"ContinuousPendulum-v0.zip", "best_model.zip", "rl_model_200_steps.zip", "replay_buffer.pkl"} <= files

    for choice in ([], ["--load-best"], ["--load-checkpoint", 200], ["--load-last-checkpoint"]):
        printed = zoo("enjoy", *env, "-f", "logs", "--no-render", "-n", 200, *choice)
        assert "1 Episodes" in printed
    agent = folder / "ContinuousPendulum-v0.zip"
    first = Dreamer.load(agent)
    assert first.replay_buffer._reward.nbytes == 0  # no memory for a replay where nothing is learnt

    printed = zoo("train", *env, "-n", 100, "--eval-freq", -1, "-i", agent, *TINY, "train_ratio:8")
    assert "Loading replay buffer" in printed
    second = Dreamer.load(tmp_path / "logs/dreamer/ContinuousPendulum-v0_2/ContinuousPendulum-v0.zip")
    assert second._n_updates == first._n_updates + (100 - 40 + 1) * 8 // 32


def test_tasks_are_known_in_worker_processes(zoo: Zoo, tmp_path: pathlib.Path) -> None:
    workers = ["--vec-env", "subproc", "--eval-freq", -1]
    zoo("train", "--env", "SequenceMemory-v0", "-n", 60, *workers, *TINY, "n_envs:2")
    assert (tmp_path / "logs/dreamer/SequenceMemory-v0_1/SequenceMemory-v0.zip").exists()


def test_settings_of_ones_own(zoo: Zoo, tmp_path: pathlib.Path) -> None:
    mine = {"n_timesteps": 50, "policy": "MlpPolicy", "learning_starts": 45, "learning_rate": "lin_0.002"}
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({"CartPole-v1": mine}))
    small = ["-params", "policy_kwargs:dict(size='debug')", "pretrain_updates:1"]
    zoo("train", "--env", "CartPole-v1", "-conf", tmp_path / "mine.yml", "--eval-freq", -1, *small)
    model = Dreamer.load(tmp_path / "logs/dreamer/CartPole-v1_1/CartPole-v1.zip")
    assert model.learning_starts == 45 and model.lr_schedule(0.5) == 0.001 and model.num_timesteps == 50


# ---- searching hyperparameters


def test_optimize_and_train_with_a_trial(zoo: Zoo, tmp_path: pathlib.Path) -> None:
    env = ["--env", "CartPole-v1", "--storage", tmp_path / "search.log", "--study-name", "search"]
    few = ["-n", 42, "-params", "learning_starts:40", "pretrain_updates:1"]
    search = ["-optimize", "--n-trials", 2, "--n-jobs", 2, "--eval-episodes", 1, "--no-optim-plots"]
    printed = zoo("train", *env, *search, *few)
    assert "Number of finished trials:  2" in printed
    zoo("train", *env, "--trial-id", 1, "--eval-freq", -1, *few)
    params = (
        optuna.load_study(
            study_name="search",
            storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "search.log"))),
        )
        .trials[1]
        .params
    )
    model = Dreamer.load(tmp_path / "logs/dreamer/CartPole-v1_2/CartPole-v1.zip")
    assert model.batch_length == 2 ** params["batch_length_pow"] and model.policy_kwargs["size"] == params["size"]


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_what_is_sampled_makes_a_model(env_id: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(4):
        trial = study.ask()
        hyperparams = HYPERPARAMS_SAMPLER["dreamer"](trial, 0, 2, {})
        assert hyperparams == HYPERPARAMS_CONVERTER["dreamer"](trial.params)
        model = Dreamer("MlpPolicy", env_id, device="cpu", **hyperparams)
        assert model.gamma == 1 - trial.params["one_minus_gamma"]
