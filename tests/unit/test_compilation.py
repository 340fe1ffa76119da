import copy
import pickle
from typing import Any

import pytest
import torch as th
from conftest import tiny_director, tiny_dreamer

from sb3_dreamer import Director, Dreamer
from sb3_dreamer.common.compilation import Compiled


def double(x: th.Tensor) -> th.Tensor:
    return 2 * x


class Backend:
    """Stands for ``torch.compile``: notes what it is asked for; without a C++ compiler, traces and runs all the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.calls: list[str] = []
        self.fails, self.compile = fails, th.compile
        monkeypatch.setattr(th, "compile", self)

    def __call__(self, function: Any, dynamic: bool, options: dict[str, Any]) -> Any:
        assert options == {"fallback_random": True} and dynamic is False
        self.calls.append(function.__name__)
        if self.fails:
            raise RuntimeError("no C++ compiler")
        return self.compile(function, dynamic=dynamic, backend="aot_eager")


def test_compiles_once_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(monkeypatch)
    compiled = Compiled(double)
    assert backend.calls == []
    assert compiled(th.ones(2)).tolist() == [2, 2] and compiled(th.ones(2)).tolist() == [2, 2]
    assert backend.calls == ["double"]


def test_without_a_compiler_it_says_so_once_and_goes_on(monkeypatch: pytest.MonkeyPatch, recwarn: Any) -> None:
    backend = Backend(monkeypatch, fails=True)
    compiled = Compiled(double)
    with pytest.warns(UserWarning, match="compile=True has no effect.*no C\\+\\+ compiler"):
        assert compiled(th.ones(1)).item() == 2
    assert compiled(th.ones(1)).item() == 2
    assert backend.calls == ["double"] and len(recwarn) == 0


def test_mistakes_of_the_function_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: th.Tensor) -> th.Tensor:
        raise ValueError("of the function")

    Backend(monkeypatch)
    with pytest.raises(ValueError, match="of the function"):
        Compiled(wrong)(th.ones(1))


def test_copies_compile_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    Backend(monkeypatch)
    compiled = Compiled(double)
    compiled(th.ones(1))
    for other in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert other._compiled is None and other(th.ones(1)).item() == 2


@pytest.mark.parametrize(
    ("task", "gradient", "exploration"),
    [
        pytest.param("ContinuousPendulum-v0", "dynamics", None, marks=pytest.mark.slow),
        pytest.param("ContinuousPendulum-v0", "dynamics", "plan2explore", marks=pytest.mark.slow),
        ("SequenceMemory-v0", "reinforce", None),
    ],
)
def test_learning_compiled_is_learning(
    task: str, gradient: str, exploration: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    backend = Backend(monkeypatch)

    def learn(compile: bool) -> Dreamer:
        sizes = dict(batch_length=3, imagination_horizon=2, policy_kwargs=dict(size="debug", compile=compile))
        return tiny_dreamer(f"envs:{task}", actor_gradient=gradient, exploration=exploration, **sizes).learn(70)

    expected, found = learn(False), learn(True)
    assert sorted(backend.calls) == ([] if exploration is None else ["_explore"]) + ["_imagine", "loss"]
    assert all(function._compiled and not function._failed for function in found._compiled.values())
    assert found._n_updates == expected._n_updates > 3
    for ours, theirs in zip(found.policy.parameters(), expected.policy.parameters(), strict=True):
        assert th.allclose(ours, theirs, atol=1e-6)
    found.save(tmp_path / "model")
    assert Dreamer.load(tmp_path / "model").policy.compiles


@pytest.mark.slow
def test_a_director_learns_compiled_as_it_does_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(monkeypatch)

    def learn(compile: bool) -> Director:
        sizes = dict(batch_length=3, goal_steps=2, imagination_horizon=4, policy_kwargs=dict(size="debug", compile=compile))
        return tiny_director(**sizes).learn(70)

    expected, found = learn(False), learn(True)
    assert sorted(backend.calls) == ["_imagine", "loss"]
    assert all(function._compiled and not function._failed for function in found._compiled.values())
    assert found._n_updates == expected._n_updates > 3
    for ours, theirs in zip(found.policy.parameters(), expected.policy.parameters(), strict=True):
        assert th.allclose(ours, theirs, atol=1e-6)
