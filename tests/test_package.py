"""The wheel holds both packages, and importing one never breaks for the sake of the other."""

import importlib.metadata
import pathlib
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import sb3_dreamer

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for package in ("sb3_dreamer", "envs"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".yml") or path.name == "py.typed":
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_everything_and_runs_elsewhere(wheel: pathlib.Path, tmp_path: pathlib.Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in ("sb3_dreamer", "envs"):
        files = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".yml")}
        assert files <= names and f"{package}/py.typed" in names
    assert not any(name.startswith(("tests/", "examples/")) for name in names)
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import gymnasium, sb3_dreamer, envs, pathlib;"
        f"assert pathlib.Path(sb3_dreamer.__file__).is_relative_to({str(tmp_path)!r});"
        "gymnasium.make('ContinuousPendulum-v0'); print(sb3_dreamer.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sb3_dreamer.__version__


@pytest.mark.parametrize("content", ["", "raise RuntimeError('a stranger')"])
def test_a_strangers_package_called_envs(content: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text(content)
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import sb3_dreamer\n"
        "assert any('another package' in str(w.message) for w in caught), [str(w.message) for w in caught]\n"
        "model = sb3_dreamer.Dreamer('MlpPolicy', 'Pendulum-v1', policy_kwargs=dict(size='debug'), pretrain_updates=1)\n"
        "model.learn(210); print('learned')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "learned"


def test_comparing_imports_optional_packages_only_where_it_uses_them() -> None:
    """So that training on a machine without them works, and what lacks them says so in a sentence."""
    optional = ("scipy", "pandas", "matplotlib", "tensorboard", "rich")
    for path in (ROOT / "sb3_dreamer" / "compare").rglob("*.py"):
        lines = [
            line.split()[1].split(".")[0] for line in path.read_text().splitlines() if line.startswith(("import ", "from "))
        ]
        assert not set(optional) & set(lines), path


def test_constraints_fix_the_versions_that_are_asked_for() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {Requirement(line).name: Requirement(line) for line in lines}
    assert {"torch", "gymnasium", "stable-baselines3", "numpy", "pandas", "matplotlib", "pytest", "ruff", "mypy"} <= set(pins)
    for name, pin in pins.items():
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if pin.specifier.contains(metadata["Version"].split("+")[0]) and metadata["Requires-Python"]:
            old = SpecifierSet(metadata["Requires-Python"]).contains("3.10")
            assert old or not pin.marker or not pin.marker.evaluate({"python_version": "3.10"}), name
            assert old or pin.marker, f"{name} needs a marker: it does not install on Python 3.10"


def test_worlds_know_nothing_of_algorithms() -> None:
    """
    Imports go down only: common < world_models < planning < behaviour < algorithms < compare; envs stands alone. Of world
    models, only what stands at the door to an environment or an algorithm knows SB3.
    """
    outside = ("stable_baselines3", "sequence_buffer")
    algorithms = tuple(f"sb3_dreamer.{name}" for name in ("director", "dreamer", "mbpo", "pets", "planet"))
    rooms = ("world_models", "planning", "behaviour", "uncertainty", "compare", "zoo")
    above = (*algorithms, *(f"sb3_dreamer.{room}" for room in rooms))
    forbidden = {
        "common": above,
        "world_models": (*(name for name in above if name != "sb3_dreamer.world_models"), *outside),
        "planning": (*algorithms, "sb3_dreamer.behaviour", "sb3_dreamer.compare", *outside),
        "behaviour": (*algorithms, "sb3_dreamer.compare", "sb3_dreamer.zoo", "matplotlib"),
        "uncertainty": (*algorithms, "sb3_dreamer.planning", "sb3_dreamer.compare", *outside),
    }
    for name in algorithms:  # none knows another
        others = [other for other in algorithms if other != name]
        forbidden[name.split(".")[1]] = (*others, "sb3_dreamer.compare", "sb3_dreamer.zoo", "matplotlib")
    doors = [ROOT / "sb3_dreamer" / "world_models" / f"{name}.py" for name in ("collect", "dream", "__main__")]
    for folder, names in forbidden.items():
        for path in (ROOT / "sb3_dreamer" / folder).rglob("*.py"):
            imports = [line for line in path.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
            found = [line for line in imports for name in names if name in line]
            assert not [line for line in found if "stable_baselines3" not in line or path not in doors], path
    # Nor does anything but its engine know a cluster's package, and that only when it is asked for.
    for path in (ROOT / "sb3_dreamer").rglob("*.py"):
        imports = [
            line for line in path.read_text().splitlines() if line.split()[:2] in (["import", "ray"], ["import", "submitit"])
        ]
        assert all(line.startswith("    ") for line in imports), path
        assert not imports or path.name in ("ray_engine.py", "slurm_engine.py"), path
    for path in (ROOT / "envs").rglob("*.py"):
        text = path.read_text()
        assert (
            "torch" not in text
            and "stable_baselines3" not in text
            and "sb3_dreamer" not in text.replace("__sb3_dreamer_toy_tasks__", "")
        ), path
