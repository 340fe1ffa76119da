"""Every example runs, briefly, and is short."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ARGUMENTS = {
    "quickstart.py": ["--total-timesteps", "210", "--out", "{out}"],
    "compare_with_baselines.py": ["--total-timesteps", "40", "--seeds", "1", "--out", "{out}"],
    "custom_environment.py": ["--total-timesteps", "210"],
    "custom_encoder.py": ["--total-timesteps", "210"],
    "imagine_and_plot.py": ["--total-timesteps", "220", "--out", "{out}"],
    "deploy_onnx.py": ["--total-timesteps", "210", "--out", "{out}"],
    "world_models.py": ["--steps", "600", "--updates", "5", "--out", "{out}"],
    "rssm_and_imagination.py": ["--steps", "600", "--updates", "5", "--out", "{out}"],
    "train_in_a_dream.py": ["--steps", "200", "--updates", "5", "--dream-steps", "150", "--out", "{out}"],
    "dream_video.py": ["--total-timesteps", "202", "--out", "{out}"],
    "uncertainty_map.py": ["--steps", "1000", "--epochs", "2", "--out", "{out}"],
    "pets_pendulum.py": ["--total-timesteps", "202", "--episodes", "1", "--out", "{out}"],
    "mbpo_beside_sac.py": ["--total-timesteps", "220", "--seeds", "1", "--out", "{out}"],
    "goals_in_four_rooms.py": ["--total-timesteps", "202", "--out", "{out}"],
    "explore_without_reward.py": ["--total-timesteps", "210", "--updates", "5", "--out", "{out}"],
    "adapt_to_a_new_task.py": ["--total-timesteps", "220", "--out", "{out}"],
}
LEAVES = {
    "quickstart.py": ["dreamer_pendulum.zip"],
    "compare_with_baselines.py": ["results.csv", "summary.json", "curves.png"],
    "custom_environment.py": [],
    "custom_encoder.py": [],
    "imagine_and_plot.py": ["dream.png", "open_loop_error.png"],
    "deploy_onnx.py": ["dreamer_pendulum.onnx"],
    "world_models.py": ["train.npz", "world_models.png"],
    "rssm_and_imagination.py": ["latent_space.png", "hidden_states.png", "open_loop.png"],
    "train_in_a_dream.py": ["model.pt", "sac.zip"],
    "dream_video.py": ["dream.gif", "dream.png"],
    "uncertainty_map.py": ["uncertainty_map.png"],
    "pets_pendulum.py": ["pets_pendulum.zip"],
    "mbpo_beside_sac.py": ["results.csv", "summary.json", "curves.png"],
    "goals_in_four_rooms.py": ["director.zip"],
    "explore_without_reward.py": ["mountain_car.zip"],
    "adapt_to_a_new_task.py": ["meta_buttons.zip"],
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(ARGUMENTS) == set(LEAVES)


LONG = (
    "compare_with_baselines.py",
    "pets_pendulum.py",
    "mbpo_beside_sac.py",
    "explore_without_reward.py",
    "dream_video.py",
    "goals_in_four_rooms.py",
    "adapt_to_a_new_task.py",
    "imagine_and_plot.py",
    "deploy_onnx.py",
    "custom_encoder.py",
    "custom_environment.py",
    "train_in_a_dream.py",
    "rssm_and_imagination.py",
    "uncertainty_map.py",
)
"""Five seconds and more."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in ARGUMENTS])
def test_example(name: str, tmp_path: pathlib.Path) -> None:
    path = ROOT / "examples" / name
    assert len(path.read_text().splitlines()) <= 60
    arguments = [argument.format(out=tmp_path) for argument in ARGUMENTS[name]]
    done = subprocess.run([sys.executable, str(path), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    for file in LEAVES[name]:
        assert (tmp_path / file).stat().st_size > 500
