"""What README shows works as it stands."""

import pathlib
import re
import shlex

import pytest

from sb3_dreamer import Dreamer

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
        exec(compile(text.replace("2_000", "220"), "README.md", "exec"), names)
    assert names["dream"].rewards.shape == (15,)


def test_commands_are_the_programs_own() -> None:
    from sb3_dreamer.compare.__main__ import build_parser

    commands = [text.strip() for language, text in BLOCKS if language == "bash"]
    assert len(commands) >= 2 and all(command.startswith("pip install -c constraints.txt") for command in commands[:2])
    compare = shlex.split(commands[0].partition("&& python -m sb3_dreamer.compare ")[2])
    assert build_parser().parse_args(compare).algos == ["dreamer", "sac", "ppo"]


def test_settings_named_in_tables_exist() -> None:
    import inspect

    arguments = inspect.signature(Dreamer.__init__).parameters
    table = README.partition("Settings that matter most")[2].partition("## ")[0]
    named = re.findall(r"^\| (.+?) \|", table, flags=re.M)[2:]
    words = {word for cell in named for word in re.findall(r"`(\w+)", cell)}
    assert words and words <= set(arguments)
