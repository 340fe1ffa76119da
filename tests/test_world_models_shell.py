"""``python -m sb3_dreamer.world_models``: fit, evaluate, dream."""

import pathlib
import subprocess
import sys

import pytest

from sb3_dreamer.world_models import EpisodeDataset, MLPWorldModel, StandaloneWorldModel, collect
from sb3_dreamer.world_models.__main__ import main

FIGURES = ("losses", "parameters", "evaluation", "reconstruction", "open_loop", "latent_space", "hidden_states")
ENV = "envs:ContinuousPendulum-v0"


def fit(out: pathlib.Path, *more: str) -> int:
    return main(["fit", "--out", str(out), "--updates", "5", "--size", "debug", *more])


def test_fit_leaves_model_data_table_and_figures(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path, "--env", ENV, "--steps", "600", "--model", "mlp") == 0
    assert "| obs[0] | 1 |" in capsys.readouterr().out
    assert isinstance(StandaloneWorldModel.load(tmp_path / "model.pt"), MLPWorldModel)
    assert EpisodeDataset.load(tmp_path / "train.npz").n_episodes == 3
    assert (tmp_path / "evaluation.csv").read_text().startswith("output,horizon")
    for name in FIGURES:
        assert (tmp_path / f"{name}.png").stat().st_size > 1000, name

    # the others go on from there
    assert main(["evaluate", "--env", ENV, "--out", str(tmp_path), "--steps", "200"]) == 0
    assert "| reward | 1 |" in capsys.readouterr().out
    dream = ["dream", "--env", ENV, "--out", str(tmp_path), "--steps", "200", "--agent-steps", "120", "--agent", "ppo"]
    assert main([*dream, "--dreams", "2"]) == 0
    assert "trained in the dream" in capsys.readouterr().out and (tmp_path / "ppo.zip").exists()


def test_data_of_ones_own(tmp_path: pathlib.Path) -> None:
    collect("envs:SequenceMemory-v0", None, 300, seed=0).save(tmp_path / "mine.npz")
    assert fit(tmp_path, "--data", str(tmp_path / "mine.npz")) == 0
    assert EpisodeDataset.load(tmp_path / "test.npz").n_episodes == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "needs --env or --data"),
        (["fit", "--env", "NoSuchTask-v0"], "NoSuchTask"),
        (["fit", "--data", "nothing.npz"], "nothing.npz"),
        (["evaluate", "--env", ENV, "--steps", "200"], "model.pt"),
        (["fit", "--env", ENV, "--steps", "0"], "n_steps must be"),
        (["fit", "--env", ENV, "--steps", "400", "--updates", "0"], "updates must be"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error:") and message in error[-1]
    assert not list(tmp_path.glob("**/model.pt"))


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "sb3_dreamer.world_models", "fit", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "--updates" in done.stdout
