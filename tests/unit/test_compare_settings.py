"""Names, settings and grids of a comparison, and what is said about wrong ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gymnasium as gym
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.noise import NormalActionNoise

from sb3_dreamer import DREAMER_V3, Dreamer
from sb3_dreamer.compare import ComparisonError, algorithm_names, settings
from sb3_dreamer.compare.__main__ import build_parser
from sb3_dreamer.compare.environments import check_env, env_name
from sb3_dreamer.compare.records import (
    Episode,
    Row,
    RunSpec,
    begin_attempt,
    discard,
    finish,
    read_finished,
    read_rows,
    read_runs,
    result_folders,
    write_atomically,
)
from sb3_dreamer.compare.runner import build_model, policy_name
from sb3_dreamer.world_models import RSSM, ContextRSSM


def spec(out: Path = Path("out"), **changes: object) -> RunSpec:
    base = RunSpec("Pendulum-v1", {}, "sac", 0, 100, 30, 20, {"batch_size": 8}, "cpu", out)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_algorithms_by_name() -> None:
    assert settings.load_algorithm("sac") is SAC
    assert settings.load_algorithm("dreamer") is Dreamer
    assert settings.load_algorithm("dreamer_v3") is Dreamer


def test_unknown_algorithm_lists_all() -> None:
    with pytest.raises(ComparisonError) as error:
        settings.load_algorithm("dreamr")
    assert "Did you mean 'dreamer'?" in str(error.value)
    for name in algorithm_names():
        assert name in str(error.value)


def test_missing_sb3_contrib_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.ALGORITHMS, "tqc", settings.Algorithm("sb3_contrib:TQC", (spaces.Box,)))
    monkeypatch.setitem(__import__("sys").modules, "sb3_contrib", None)
    with pytest.raises(ImportError, match="pip install sb3-contrib"):
        settings.load_algorithm("tqc")


def test_action_space_that_does_not_fit() -> None:
    settings.check_action_space("sac", spaces.Box(-1, 1, (1,)), "Task-v0")
    with pytest.raises(ComparisonError, match=r"sac needs a Box action space.*Algorithms for it: dreamer.*dqn"):
        settings.check_action_space("sac", spaces.Discrete(3), "Task-v0")
    with pytest.raises(ComparisonError, match="dqn needs a Discrete"):
        settings.check_action_space("dqn", spaces.Box(-1, 1, (1,)), "Task-v0")


def test_settings_of_the_algorithms() -> None:
    assert settings.hyperparameters("dreamer", "ContinuousPendulum-v0", 5000) == {}
    assert settings.hyperparameters("dreamer_v3", "ContinuousPendulum-v0", 5000) == DREAMER_V3
    pendulum = settings.hyperparameters("ppo", "Pendulum-v1", 5000)
    assert pendulum["gamma"] == 0.9 and pendulum["use_sde"]
    assert settings.hyperparameters("ppo", "ContinuousPendulumNoVelocity-v0", 5000) == pendulum
    assert settings.hyperparameters("ppo", "CartPole-v1", 5000)["n_steps"] == 32
    assert settings.hyperparameters("ppo", "Elsewhere-v0", 5000) == {}


def test_replay_buffer_is_no_larger_than_the_run() -> None:
    assert settings.hyperparameters("sac", "Elsewhere-v0", 5000) == {"buffer_size": 5000}
    assert settings.hyperparameters("dqn", "CartPole-v1", 10**6)["buffer_size"] == 100_000


def test_overrides_win_and_policy_kwargs_merge() -> None:
    changes = {"batch_size": 32, "policy_kwargs": {"log_std_init": -2}}
    result = settings.hyperparameters("sac", "Pendulum-v1", 5000, changes)
    assert result["batch_size"] == 32 and result["learning_rate"] == 1e-3
    assert result["policy_kwargs"] == {"net_arch": [64, 64], "log_std_init": -2}
    assert settings.TUNED["sac"]["pendulum"]["policy_kwargs"] == {"net_arch": [64, 64]}  # the table stays as it was


@pytest.mark.parametrize("name", ["sb3_dreamer.world_models.ContextRSSM", "sb3_dreamer.world_models:ContextRSSM"])
def test_classes_may_be_named_as_on_a_command_line(name: str) -> None:
    given = {"policy_kwargs": {"world_model_class": name, "size": "toy"}}
    result = settings.hyperparameters("dreamer", "Pendulum-v1", 5000, given)
    assert result["policy_kwargs"]["world_model_class"] is ContextRSSM and result["policy_kwargs"]["size"] == "toy"
    assert given["policy_kwargs"]["world_model_class"] == name  # what was asked for stays as it was


def test_classes_of_sb3s_policies_may_be_named_too() -> None:
    given = {"policy_kwargs": {"activation_fn": "torch.nn.ELU", "optimizer_class": "torch.optim.RMSprop"}}
    result = settings.hyperparameters("ppo", "Pendulum-v1", 5000, given)["policy_kwargs"]
    assert result["activation_fn"] is th.nn.ELU and result["optimizer_class"] is th.optim.RMSprop


@pytest.mark.parametrize("name", ["ContextRSSM", "sb3_dreamer.world_models.Context", "no.such.Class"])
def test_a_class_that_there_is_not(name: str) -> None:
    with pytest.raises(ComparisonError, match=f"cannot load world_model_class='{name}'"):
        settings.hyperparameters("dreamer", "Pendulum-v1", 5000, {"policy_kwargs": {"world_model_class": name}})


@pytest.mark.parametrize(("key", "message"), [("batchsize", "It has: .*batch_size"), ("seed", "set by the comparison")])
def test_wrong_overrides(key: str, message: str) -> None:
    with pytest.raises(ComparisonError, match=message):
        settings.hyperparameters("sac", "Pendulum-v1", 5000, {key: 1})


# SB3-contrib is no dependency of the tests; its algorithms are built by whoever has it.
@pytest.mark.parametrize("name", [n for n in algorithm_names() if not settings.ALGORITHMS[n].path.startswith("sb3_contrib")])
@pytest.mark.parametrize("env_id", ["ContinuousPendulum-v0", "ContinuousCartPole-v0", "SequenceMemory-v0", "Acrobot-v1"])
def test_every_setting_builds_its_algorithm(name: str, env_id: str) -> None:
    action_space, _ = check_env(env_id)
    if not isinstance(action_space, settings.ALGORITHMS[name].action_spaces):
        with pytest.raises(ComparisonError):
            settings.check_action_space(name, action_space, env_id)
        return
    hyperparameters = settings.hyperparameters(name, env_id, 1000)
    model = build_model(spec(env_id=env_id, algo=name, hyperparameters=hyperparameters))
    assert type(model) is settings.load_algorithm(name)
    assert model.n_envs == hyperparameters.get("n_envs", 1)
    assert (model.get_vec_normalize_env() is not None) == hyperparameters.get("normalize", False)
    if str(hyperparameters.get("learning_rate")).startswith("lin_"):
        assert model.lr_schedule(0.5) == pytest.approx(model.lr_schedule(1.0) / 2)


def test_building_a_model_leaves_the_settings_alone() -> None:
    # SAC adds an entry to the policy_kwargs it gets; a resumed run would then look different from itself.
    run = spec(hyperparameters=settings.hyperparameters("sac", "Pendulum-v1", 100))
    before = run.settings()
    build_model(run)
    assert run.settings() == before


def test_policy_follows_the_observations() -> None:
    image = spaces.Box(0, 255, (64, 64, 3), dtype="uint8")
    assert policy_name(PPO, spaces.Box(-1, 1, (3,))) == "MlpPolicy"
    assert policy_name(PPO, image) == "CnnPolicy"
    assert policy_name(PPO, spaces.Dict({"image": image})) == "MultiInputPolicy"


def test_environments_with_and_without_module() -> None:
    assert env_name("envs:ContinuousPendulum-v0") == env_name("ContinuousPendulum-v0") == "ContinuousPendulum-v0"
    assert check_env("envs:ContinuousPendulum-v0")[1] == check_env("ContinuousPendulum-v0")[1] == -200
    assert check_env("ContinuousPendulumPixels-v0")[1] == -300
    assert check_env("Pendulum-v1")[1] == -200
    assert check_env("CartPole-v1")[1] == gym.spec("CartPole-v1").reward_threshold == 475
    assert check_env("Acrobot-v1")[1] == gym.spec("Acrobot-v1").reward_threshold
    assert check_env("MountainCarContinuous-v0")[1] == 90


@pytest.mark.parametrize("env_id", ["ContinuousPendulm-v0", "ContinuousPendulum-v99", "no_such_module:Task-v0"])
def test_unknown_environment_lists_what_there_is(env_id: str) -> None:
    with pytest.raises(ComparisonError) as error:
        check_env(env_id)
    assert env_id in str(error.value)
    for task in ("ContinuousPendulum-v0", "ContinuousCartPole-v0", "SequenceMemory-v0", "DelayedRecall-v0"):
        assert task in str(error.value)


def test_wrong_env_kwargs() -> None:
    with pytest.raises(ComparisonError, match=r"Cannot make 'Pendulum-v1' with \{'nonsense': 1\}"):
        check_env("Pendulum-v1", {"nonsense": 1})


@pytest.mark.parametrize(
    ("total", "every", "grid"), [(100, 50, [0, 50, 100]), (100, 30, [0, 30, 60, 90, 100]), (5, 5, [0, 5])]
)
def test_grid(total: int, every: int, grid: list[int]) -> None:
    assert spec(total_timesteps=total, eval_every=every).grid == grid


def test_finished_run_is_read_back_and_told_from_another(tmp_path: Path) -> None:
    run = spec(tmp_path)
    assert read_finished(run) is None
    finish(run, [], 7)
    again = read_finished(run)
    assert again is not None and again.n_parameters == 7 and again.rows == ()
    # The same environment, named differently, is the same run.
    assert read_finished(dataclasses.replace(run, env_id="gymnasium:Pendulum-v1")) is not None
    other = dataclasses.replace(run, total_timesteps=200, hyperparameters={"batch_size": 16})
    with pytest.raises(ComparisonError) as error:
        read_finished(other)
    assert "hyperparameters.batch_size: 8 there, 16 now" in str(error.value)
    assert "total_timesteps: 100 there, 200 now" in str(error.value)
    assert "--overwrite" in str(error.value)
    discard(run)
    assert read_finished(other) is None


def test_episodes_of_training_are_kept_and_forgotten_with_the_run(tmp_path: Path) -> None:
    run, episodes = spec(tmp_path), (Episode(40, -12.5, 40), Episode(100, -3.0, 60))
    finish(run, [], 7, episodes)
    assert run.episodes_path.read_text().split() == ["timesteps,return,length", "40,-12.5,40", "100,-3.0,60"]
    again = read_finished(run)
    assert again is not None and again.episodes == episodes
    run.episodes_path.unlink()  # as runs were before episodes were recorded
    again = read_finished(run)
    assert again is not None and again.episodes == ()
    finish(run, [], 7, episodes)
    discard(run)
    assert not list((tmp_path / "runs").iterdir())
    discard(run)  # nothing there: nothing to do


def test_rows_without_the_final_mark_do_not_count(tmp_path: Path) -> None:
    run = spec(tmp_path)
    finish(run, [], 7)
    run.done_path.unlink()
    assert read_rows(run.rows_path) == []
    assert read_finished(run) is None


def test_an_attempt_starts_with_nothing_of_the_one_before(tmp_path: Path) -> None:
    run = spec(tmp_path)
    assert begin_attempt(run) == 1
    for path in (run.rows_path, run.model_path, run.normalization_path, run.error_path, run.log_path):
        path.write_text("partial")
    assert begin_attempt(run) == 2
    left = {"attempts.txt", "error.txt", "log.txt"}  # the error stays until an attempt succeeds
    assert {path.name for path in run.folder.iterdir()} == left
    finish(run, [], 7, details={"attempts": 2})
    assert {path.name for path in run.folder.iterdir()} == {"evaluations.csv", "episodes.csv", "meta.json", "log.txt"}


def test_a_folder_tells_what_ran_in_it(tmp_path: Path) -> None:
    runs = [
        spec(tmp_path, env_id="gymnasium:Pendulum-v1", algo="quick", algorithm="sac"),
        spec(tmp_path, seed=1, algorithm="sac"),
    ]
    for run in runs:
        finish(run, [Row(run.env, run.algo, run.seed, 0, 1.0, 0.0, 0.0, 0.0)], 7)
    begin_attempt(spec(tmp_path, seed=2))  # not finished
    assert [run.spec for run in read_runs(tmp_path)] == runs and read_runs(tmp_path)[0].rows[0].algo == "quick"
    assert result_folders(tmp_path) == [tmp_path]
    (tmp_path / "several" / "Task-v0" / "runs").mkdir(parents=True)
    assert result_folders(tmp_path / "several") == [tmp_path / "several" / "Task-v0"]
    with pytest.raises(ComparisonError, match="holds no results"):
        result_folders(tmp_path / "runs")


def test_classes_among_the_settings_become_names() -> None:
    hyperparameters = {"optimizer_class": SAC, "noise": NormalActionNoise(0, 1), "other": object()}
    assert spec(hyperparameters=hyperparameters).settings()["hyperparameters"] == {
        "optimizer_class": "stable_baselines3.sac.sac.SAC",
        "noise": "NormalActionNoise(mu=0, sigma=1)",
        "other": "<object object>",  # its address would be another one in each process
    }


def test_failed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == ["file.txt"] and path.read_text() == "old"


def test_command_line_values() -> None:
    arguments = build_parser().parse_args(
        "run --env A-v0 --hyperparams sac:batch_size=64 sac:ent_coef=auto ppo:policy_kwargs={'net_arch':[8]} "
        "--env-kwargs g=9.81 mode=x=y".split()
    )
    assert arguments.hyperparams == [
        ("sac", "batch_size", 64),
        ("sac", "ent_coef", "auto"),
        ("ppo", "policy_kwargs", {"net_arch": [8]}),
    ]
    assert arguments.env_kwargs == [("g", 9.81), ("mode", "x=y")]


@pytest.mark.parametrize("option", ["--hyperparams batch_size=64", "--hyperparams sac:batch_size", "--env-kwargs g"])
def test_malformed_command_line_values(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        build_parser().parse_args(["run", "--env", "A-v0", *option.split()])
    assert exit_info.value.code == 2
    assert "key=value" in capsys.readouterr().err


def test_defaults_are_recorded_down_to_the_world_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that changes must not let the runs from before pass as the same."""
    from sb3_dreamer.compare import settings

    before = settings.default_settings("dreamer")
    assert before["gamma"] == 0.99 and before["policy_kwargs"]["size"] == "toy" and "seed" not in before
    assert settings.default_settings("sac")["tau"] == 0.005
    planet = settings.default_settings("planet")
    assert planet["policy_kwargs"]["world_model_kwargs"]["reward_scale"] == RSSM.small_task_kwargs["reward_scale"]
    assert settings.default_settings("pets")["policy_kwargs"]["world_model_kwargs"]["n_members"] == 5
    assert settings.default_settings("mbpo")["real_ratio"] == 0.05 and settings.default_settings("mbpo")["tau"] == 0.005
    monkeypatch.setitem(RSSM.small_task_kwargs, "reward_scale", 3.0)
    assert settings.default_settings("dreamer") != before and settings.default_settings("planet") != planet


def test_what_open_arguments_become_is_recorded_and_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """``batch_size=None`` alone would say nothing of how much a run learnt from."""
    from sb3_dreamer.compare import settings

    dreamer, director = settings.default_settings("dreamer"), settings.default_settings("director")
    assert dreamer["batch_size"] is None and dreamer["usual"]["rows"] == 512 and director["usual"]["rows"] == 256
    dreamer["usual"]["batch_length"]["continuous"] = 1  # a copy
    dreamer = settings.default_settings("dreamer")
    assert dreamer["usual"]["batch_length"] == {"continuous": 8, "discrete": 32}
    monkeypatch.setitem(Dreamer.usual, "updates_a_step", 1.0)
    monkeypatch.setitem(Dreamer.usual, "rows", 64)
    monkeypatch.setitem(Dreamer.usual, "batch_length", {"continuous": 4, "discrete": 16})
    assert settings.default_settings("dreamer") != dreamer and settings.default_settings("director") == director
    model = Dreamer("MlpPolicy", "envs:ContinuousPendulum-v0", policy_kwargs=dict(size="debug"))
    assert (model.batch_size, model.batch_length, model.train_ratio) == (16, 4, 64)
