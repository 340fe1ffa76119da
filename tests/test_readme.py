"""What README shows works as it stands."""

import pathlib
import re
import shlex

import numpy as np
import pytest

from sb3_dreamer import Dreamer, PlaNet
from sb3_dreamer.world_models.__main__ import build_parser as world_models_parser

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)


def test_code_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    train = Dreamer.train
    monkeypatch.setattr(Dreamer, "train", lambda self, updates: train(self, min(updates, 2)))
    code = [text for language, text in BLOCKS if language == "python"]
    assert len(code) >= 2
    for text in code:  # one after the other, as one reads them; shorter
        exec(compile(shortened(text), "README.md", "exec"), names)
    assert names["dream"].rewards.shape == (15,)


def shortened(code: str) -> str:
    """The same with fewer steps and updates."""
    steps = (("20_000", "220"), ("updates=2_000", "updates=4"), ("2_000", "220"), ("5_000", "600"), ("5000", "600"))
    steps += (("learn(400)", "learn(202)"), ("learn(600)", "learn(202)"), ("adapt(220)", "adapt(2)"), ("3_000", "202"))
    steps += (("4_000", "210"), ("1_500", "202"), ("model.fit(train)", "model.fit(train, epochs=1)"))
    for long, short in steps:
        code = code.replace(long, short)
    return code.replace("updates=2000", "updates=4")


@pytest.mark.slow
def test_code_of_the_page_on_planning_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "planning.md").read_text(), flags=re.S)
    model = PlaNet("MlpPolicy", "envs:ContinuousPendulum-v0", device="cpu").world_model
    obs, action = np.array([1.0, 0.0, 0.0], dtype=np.float32), np.zeros(1, dtype=np.float32)
    names: dict = {"model": model, "obs": obs, "action": action}
    for language, text in blocks:
        assert language == "python"
        exec(compile(shortened(text), "planning.md", "exec"), names)
    assert names["plan"].actions.shape == (1, 15, 1) and names["explorer"].exploration is None


@pytest.mark.slow
def test_code_of_the_page_on_hierarchy_runs() -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "hierarchy.md").read_text(), flags=re.S)
    names: dict = {}
    for language, text in blocks:
        assert language == "python"
        exec(compile(shortened(text), "hierarchy.md", "exec"), names)
    assert names["goal"].shape == (1, 2)


def test_code_of_the_page_on_world_models_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "world_models.md").read_text(), flags=re.S)
    names: dict = {"env": "envs:ContinuousPendulum-v0"}
    for text in (text for language, text in blocks if language == "python"):
        exec(compile(shortened(text), "world_models.md", "exec"), names)
    assert names["dream"].rewards.shape == (20,) and (tmp_path / "pendulum.pt").exists()
    commands = [shlex.split(line) for language, text in blocks if language == "bash" for line in text.strip().splitlines()]
    for program in commands:
        assert program[:3] == ["python", "-m", "sb3_dreamer.world_models"]
        assert world_models_parser().parse_args(program[3:]).out == "runs/world_model"


def test_commands_are_the_programs_own() -> None:
    from sb3_dreamer.compare.__main__ import build_parser

    commands = [text.strip() for language, text in BLOCKS if language == "bash"]
    assert len(commands) >= 2 and all(command.startswith("pip install -c constraints.txt") for command in commands[:2])
    compare = shlex.split(commands[0].partition("&& python -m sb3_dreamer.compare ")[2])
    assert build_parser().parse_args(compare).algos == ["dreamer", "sac", "ppo"]


def test_the_page_on_comparisons(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_dreamer.compare import Benchmark, ComparisonError
    from sb3_dreamer.compare.__main__ import build_parser
    from sb3_dreamer.compare.config import read_config

    page = (ROOT / "docs" / "running_comparisons.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, flags=re.S)
    asked: list[tuple[Benchmark, dict]] = []

    def run(self: Benchmark, **options: object) -> None:
        asked.append((self, options))
        raise ComparisonError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Benchmark, "run", run)
    (code,) = [text for language, text in blocks if language == "python"]
    with pytest.raises(ComparisonError, match="enough"):
        exec(compile(code, "running_comparisons.md", "exec"), {})
    ((benchmark, options),) = asked
    assert options == {"jobs": 4} and len(benchmark.specs) == 2 * 3 * 5
    assert benchmark.thresholds == {"ContinuousPendulum-v0": -200, "CartPole-v1": 400}
    (settings,) = [text for language, text in blocks if language == "yaml"]
    (tmp_path / "request.yaml").write_text(settings)
    assert len(Benchmark(**read_config(tmp_path / "request.yaml")).specs) == 2 * 2 * 5
    lines = [line for language, text in blocks if language == "bash" for line in text.strip().splitlines()]
    program = "python -m sb3_dreamer.compare "
    commands = [build_parser().parse_args(shlex.split(line.removeprefix(program))) for line in lines if program in line]
    assert [command.command for command in commands] == ["run", "record", "run", "run"]
    assert commands[3].slurm == [("timeout_min", 240), ("mem_gb", 4), ("slurm_partition", "cpu")]


def test_settings_named_in_tables_exist() -> None:
    import inspect

    arguments = inspect.signature(Dreamer.__init__).parameters
    table = README.partition("Settings that matter most")[2].partition("## ")[0]
    named = re.findall(r"^\| (.+?) \|", table, flags=re.M)[2:]
    words = {word for cell in named for word in re.findall(r"`(\w+)", cell)}
    assert words and words <= set(arguments)
