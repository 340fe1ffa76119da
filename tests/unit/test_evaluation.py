"""Scores of models whose predictions are known, against numbers worked out without them."""

import csv
import dataclasses
import math
import pathlib
import types
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_dreamer.common.preprocessing import ObservationCodec
from sb3_dreamer.common.types import ImaginedRollout, LatentState, SequenceBatch
from sb3_dreamer.world_models import EpisodeDataset, MLPWorldModel, StandaloneWorldModel, evaluate_model
from sb3_dreamer.world_models.dataset import EpisodeRecorder
from sb3_dreamer.world_models.likelihood import FACTORS, LikelihoodJudge, LogLikelihood

SPACE = spaces.Dict(
    x=spaces.Box(-np.inf, np.inf, (2,)),
    turn=spaces.Discrete(3, start=5),
    bits=spaces.MultiBinary(2),
    still=spaces.Box(-9, 9, (1,)),
)
ACTION = spaces.Box(-1.0, 1.0, (1,))
OUTPUTS = ["bits", "still", "turn", "x[0]", "x[1]", "reward", "continue"]


class Counter(StandaloneWorldModel):
    """
    Knows the episodes of :func:`counting`: x[0] counts steps, x[1] sums the actions, ``turn`` goes round, the first bit
    alternates, the second is on from the seventh step on. The latent state is the observation.

    :param dynamics: ``"true"``, ``"still"`` (nothing changes) or ``"mean"`` (whatever happens, the given means)
    :param noise: standard deviation of the numbers when it samples
    """

    def __init__(
        self, keys: Any, action_size: int, size: Any, gamma: float, dynamics: str = "true", noise: float = 0.0
    ) -> None:
        super().__init__()
        self.keys, self.dynamics, self.noise = sorted(keys, key=lambda key: key.name), dynamics, noise
        self.deter_size, self.stoch_size, self.gamma, self.loss_scales = sum(key.size for key in keys), 1, 0.9, {}
        self.action_size = action_size
        self.nothing = th.nn.Parameter(th.zeros(()))
        self.means: dict[str, th.Tensor] = {}
        self.asked: list[int] = []

    def _split(self, deter: th.Tensor) -> dict[str, th.Tensor]:
        parts = deter.split([key.size for key in self.keys], dim=-1)
        return {key.name: part for key, part in zip(self.keys, parts, strict=True)}

    def observe_step(self, obs: Any, *args: Any, **kwargs: Any) -> LatentState:
        raise NotImplementedError

    def observe(self, batch: SequenceBatch, deterministic: bool = False) -> LatentState:
        deter = th.cat([batch.obs[key.name] for key in self.keys], dim=-1)
        return LatentState(deter, th.zeros(*deter.shape[:-1], 1))

    def unroll(self, actions: Any, state: LatentState, horizon: int, deterministic: Any = False, *_: Any) -> ImaginedRollout:
        assert actions.shape == (len(state.deter), horizon, 1)
        self.asked.append(horizon)
        states = [state.deter]
        for t in range(horizon):
            now = self._split(states[-1])
            if self.dynamics == "true":
                now["x"] = th.stack([now["x"][:, 0] + 1, now["x"][:, 1] + actions[:, t, 0]], dim=-1)
                now["turn"] = now["turn"].roll(1, dims=-1)
                now["bits"] = th.stack([1 - now["bits"][:, 0], (now["x"][:, 0] >= 7).float()], dim=-1)
            if not deterministic:
                now["x"] = now["x"] + self.noise * th.randn(now["x"].shape)
            states.append(th.cat([now[key.name] for key in self.keys], dim=-1))
        deter = th.stack(states, dim=1)
        return ImaginedRollout(LatentState(deter, th.zeros(*deter.shape[:-1], 1)), actions)

    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        parts = self._split(state.deter)
        return {name: self.means[name].expand_as(part) if self.means else part for name, part in parts.items()}

    def predict_reward(self, state: LatentState) -> th.Tensor:
        x = self._split(state.deter)["x"]
        return self.means["reward"].expand(x.shape[:-1]) if self.means else 2 * x[..., 0] + 1

    def predict_discount(self, state: LatentState) -> th.Tensor:
        x = self._split(state.deter)["x"]
        return self.gamma * (x[..., 0] < 7.5).float()

    def loss(self, batch: SequenceBatch) -> Any:
        raise NotImplementedError


def counting(lengths: list[int], seed: int = 0, noise: float = 0.0) -> EpisodeDataset:
    """Episodes of so many steps; those of 8 terminate."""
    rng, recorder = np.random.default_rng(seed), EpisodeRecorder(SPACE, ACTION)
    for length in lengths:
        total = action = 0.0
        for t in range(length + 1):
            x = np.array([t + noise * rng.normal(), total + noise * rng.normal()], dtype=np.float32)
            bits = np.array([t % 2, t >= 7], dtype=np.int8)
            obs = {"x": x, "turn": 5 + t % 3, "bits": bits, "still": np.array([0.1], dtype=np.float32)}
            if t == 0:
                recorder.start(0, obs)
            else:
                recorder.step(0, [action], obs, 2 * t + 1, t == length == 8, t == length != 8)
            action = rng.uniform(-1, 1)
            total += action
    return recorder.dataset()


def make(dynamics: str = "true", noise: float = 0.0, means_of: EpisodeDataset | None = None) -> Counter:
    model = Counter.from_spaces(SPACE, ACTION, dynamics=dynamics, noise=noise)
    if means_of is not None:
        model.means = {name: th.as_tensor(array.mean(0)) for name, array in numbers_of(means_of).items()}
    return model


def numbers_of(data: EpisodeDataset) -> dict[str, np.ndarray]:
    """All that is predicted, as the scores see it; rewards and flags of rows that have some."""
    turn = np.eye(3, dtype=np.float32)[data.observations["turn"] - 5]
    follows = ~data.is_first
    return {
        "x": data.observations["x"],
        "turn": turn,
        "bits": data.observations["bits"].astype(np.float32),
        "still": data.observations["still"],
        "reward": data.rewards[follows],
        "continue": 1.0 - data.is_terminal[follows].astype(np.float32),
    }


def starts_of(data: EpisodeDataset, horizon: int, context: int) -> np.ndarray:
    """Rows to dream from, by going through all."""
    return np.array([n for a, b in data.bounds() for n in range(a, b) if n - a >= context - 1 and n + horizon < b])


DATA = counting([8, 12, 3, 8, 9])
HORIZONS = (1, 3, 7)


def test_dreams_over_the_ends_of_episodes_are_left_out() -> None:
    """Episodes of 9, 13, 4, 9 and 10 rows; from each, rows - horizon - context + 1."""
    result = evaluate_model(make(), DATA, HORIZONS, context=2, likelihood_samples=0)
    assert {score.horizon: score.n for score in result.scores} == {
        1: 7 + 11 + 2 + 7 + 8,
        3: 5 + 9 + 0 + 5 + 6,
        7: 1 + 5 + 1 + 2,
    }
    assert [score.output for score in result.scores] == OUTPUTS * 3 and result.skipped_horizons == ()
    single = evaluate_model(make(), DATA, [12, 13, 50], context=1, likelihood_samples=0)
    assert {score.horizon: score.n for score in single.scores} == {12: 1} and single.skipped_horizons == (13, 50)
    with pytest.raises(ValueError, match=r"context=9 rows and the shortest horizon, 5, need 13 steps, the longest has 12"):
        evaluate_model(make(), DATA, [7, 5], context=9)


def test_a_model_that_knows_everything_has_no_errors() -> None:
    result = evaluate_model(make(), counting([8, 3, 8, 7]), HORIZONS, context=1, likelihood_samples=0)
    for score in result.scores:
        assert score.rmse == pytest.approx(0, abs=1e-5), score
        if score.output == "still":  # constant: nothing to explain
            assert math.isnan(score.nrmse) and math.isnan(score.r2) and math.isnan(score.mean_nrmse)
        else:
            assert score.nrmse == pytest.approx(0, abs=1e-5) and score.r2 == pytest.approx(1, abs=1e-5)
        assert score.accuracy == 1 if score.output in ("bits", "turn", "continue") else math.isnan(score.accuracy)
    assert result.mean("nrmse", 7) == pytest.approx(0, abs=1e-5) and result.mean("r2", 7) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("horizon", HORIZONS)
def test_scores_by_an_independent_formula(horizon: int) -> None:
    """Of the model that predicts the mean, of the one that predicts no change, and of both baselines."""
    context = 3
    starts = starts_of(DATA, horizon, context)
    mean = evaluate_model(make(means_of=DATA), DATA, [horizon], context, likelihood_samples=0)
    still = evaluate_model(make("still"), DATA, [horizon], context, likelihood_samples=0)
    numbers = numbers_of(DATA)
    columns = {f"x[{i}]": numbers["x"][:, i : i + 1] for i in (0, 1)} | {"turn": numbers["turn"], "bits": numbers["bits"]}
    for name, whole in columns.items():
        truth, before = whole[starts + horizon], whole[starts]
        spread = np.sqrt(((whole - whole.mean(0)) ** 2).mean())
        of_mean, of_still = (np.sqrt(((guess - truth) ** 2).mean()) for guess in (whole.mean(0), before))
        first, second = mean.get(name, horizon), still.get(name, horizon)
        assert first.n == second.n == len(starts)
        assert (first.rmse, second.rmse) == pytest.approx((of_mean, of_still), rel=1e-4, abs=1e-6)
        assert (first.nrmse, second.nrmse) == pytest.approx((of_mean / spread, of_still / spread), rel=1e-4, abs=1e-6)
        assert second.r2 == pytest.approx(1 - (of_still / spread) ** 2, rel=1e-4)
        for score in (first, second):
            baselines = score.mean_nrmse, score.no_change_nrmse
            assert baselines == pytest.approx((of_mean / spread, of_still / spread), rel=1e-4, abs=1e-6)
    # the reward of t steps is 2 t + 1, but a first row has none: no change is 0 from there
    steps = DATA.observations["x"][:, 0]
    given = numbers["reward"]
    score = still.get("reward", horizon)
    assert score.rmse == pytest.approx(2 * horizon, rel=1e-5)
    assert score.no_change_nrmse == pytest.approx(2 * horizon / given.std(), rel=1e-4)
    wanted = np.sqrt(((2 * steps[starts + horizon] + 1 - given.mean()) ** 2).mean()) / given.std()
    assert mean.get("reward", horizon).mean_nrmse == mean.get("reward", horizon).nrmse == pytest.approx(wanted, rel=1e-4)
    # choices: the mean's most probable is the most frequent one; what goes round three times is the same again
    frequent = numbers["turn"].mean(0).argmax()
    hits = (DATA.observations["turn"][starts + horizon] - 5 == frequent).mean()
    assert mean.get("turn", horizon).accuracy == mean.get("turn", horizon).base_accuracy == pytest.approx(hits)
    assert still.get("turn", horizon).accuracy == (horizon % 3 == 0)
    majority = numbers["bits"].mean(0) > 0.5
    hits = (DATA.observations["bits"][starts + horizon] == majority).mean()
    assert mean.get("bits", horizon).accuracy == mean.get("bits", horizon).base_accuracy == pytest.approx(hits)


def test_continue_flags_are_judged_at_the_row_that_is_reached() -> None:
    """The true model says that all episodes end at the eighth step; those of 9 and 12 steps do not."""
    result = evaluate_model(make(), DATA, [3], context=2, likelihood_samples=0).get("continue", 3)
    reached = DATA.observations["x"][starts_of(DATA, 3, 2) + 3, 0]
    terminal = DATA.is_terminal[starts_of(DATA, 3, 2) + 3]
    wrong = (reached >= 8) & ~terminal
    assert wrong.sum() == 5 + 2 and terminal.sum() == 2
    assert result.accuracy == pytest.approx(1 - wrong.mean()) and result.base_accuracy == pytest.approx(1 - terminal.mean())
    assert result.rmse == pytest.approx(np.sqrt(wrong.mean()), rel=1e-5)  # probabilities 0 and 1, not discounted
    spread = numbers_of(DATA)["continue"].std()
    assert result.no_change_nrmse == pytest.approx(np.sqrt(terminal.mean()) / spread, rel=1e-4)


def test_a_reward_that_is_always_the_same_leaves_nothing_to_explain() -> None:
    """Though an episode's first row has none."""
    rewards = np.where(DATA.is_first, 0.0, 1.0).astype(np.float32)
    data = dataclasses.replace(DATA, rewards=rewards)
    score = evaluate_model(make(), data, [1], likelihood_samples=0).get("reward", 1)
    assert score.rmse > 1 and math.isnan(score.nrmse)


def test_starts_are_drawn_where_there_are_more_than_wanted() -> None:
    data = counting([40] * 5)
    whole, some, again, other = (
        evaluate_model(make("still"), data, [5], max_starts=n, seed=seed, likelihood_samples=0)
        for n, seed in ((1000, 0), (20, 0), (20, 0), (20, 1))
    )
    assert [result.scores[0].n for result in (whole, some)] == [5 * (41 - 5 - 4), 20]
    assert [s.rmse for s in some.scores] == [s.rmse for s in again.scores] != [s.rmse for s in other.scores]


class Guess:
    """Numbers that it takes for always the same ones, of which it is as sure as it is told."""

    device = th.device("cpu")

    def __init__(self, noise: tuple[float, ...], center: tuple[float, ...] = (3.0, -5.0)) -> None:
        self.noise, self.center = th.tensor(noise), th.tensor(center)
        self.observation_codec = ObservationCodec(spaces.Box(-np.inf, np.inf, (len(center),)))

    def unroll(self, actions: th.Tensor, state: LatentState, horizon: int, deterministic: bool = False) -> ImaginedRollout:
        deter = th.randn(len(actions), horizon + 1, len(self.center)) * self.noise * (not deterministic) + self.center
        return ImaginedRollout(LatentState(deter, deter[..., :0]), actions)

    def decode(self, state: LatentState) -> dict[str, th.Tensor]:
        return {"obs": state.deter}


def judged(guess: Guess, samples: int, observed: th.Tensor, horizon: int = 1, later: th.Tensor | None = None) -> LogLikelihood:
    """Calibrated one step ahead on what was observed; then of that, or of what was observed later."""
    n = len(observed)
    rows = types.SimpleNamespace(obs={"obs": observed}, prev_action=th.zeros(n, 1))
    judge = LikelihoodJudge(guess, rows, samples)  # type: ignore[arg-type]
    starts, state = th.arange(n - horizon), LatentState(th.zeros(n - horizon, 0), th.zeros(n - horizon, 0))
    judge.calibrate(starts, state)
    if later is not None:
        judge.rows = types.SimpleNamespace(obs={"obs": later}, prev_action=rows.prev_action)  # type: ignore[assignment]
    return judge(starts, state, th.zeros(n - horizon, horizon, 1))


def normal(sigma: tuple[float, ...], believed: tuple[float, ...] | None = None) -> float:
    """Expected log-density of normals by one who believes in other deviations."""
    pairs = zip(sigma, believed or sigma, strict=True)
    return sum(-0.5 * math.log(2 * math.pi * b**2) - 0.5 * (s / b) ** 2 for s, b in pairs)


def around(sigma: tuple[float, ...], n: int = 12_000) -> th.Tensor:
    return th.randn(n, 2) * th.tensor(sigma) + th.tensor([3.0, -5.0])


def test_the_likelihood_of_a_true_model_is_that_of_the_noise() -> None:
    """Whether it draws the noise itself or says nothing of it; and less for one that draws too much."""
    th.manual_seed(0)
    sigma = (0.5, 2.0)
    for noise in ((0.0, 0.0), sigma):
        assert judged(Guess(noise), 64, around(sigma)).model == pytest.approx(normal(sigma), abs=0.12), noise
    assert judged(Guess((2.0, 8.0)), 64, around(sigma)).model < normal(sigma) - 1


def test_noise_found_one_step_ahead_stays_at_further_horizons() -> None:
    th.manual_seed(0)
    sigma, wider = (0.5, 2.0), (1.5, 3.0)
    # among the factors of the one-step errors that are tried, the nearest to 1
    factor = min(FACTORS, key=lambda factor: -normal(sigma, tuple(factor * s for s in sigma)))
    found = judged(Guess((0.0, 0.0)), 1, around(sigma), horizon=5, later=around(wider))
    assert found.model == pytest.approx(normal(wider, tuple(factor * s for s in sigma)), rel=0.03)


def test_likelihoods_of_the_naive_predictions() -> None:
    th.manual_seed(0)
    sigma = (0.5, 2.0)
    found = judged(Guess((0.0, 0.0)), 4, around(sigma))
    assert found.mean == pytest.approx(normal(sigma), abs=0.05)
    change = tuple(math.sqrt(2) * s for s in sigma)  # of independent observations
    assert found.no_change == pytest.approx(normal(change), abs=0.05)


def test_numbers_that_never_vary_say_nothing() -> None:
    th.manual_seed(0)
    sigma = (0.5, 2.0)
    observed = around(sigma)
    constant = th.cat([observed, th.full((len(observed), 1), 7.0)], dim=1)
    one = judged(Guess((0.0, 0.0)), 4, observed)
    other = judged(Guess((0.0, 0.0, 0.0), (3.0, -5.0, 7.0)), 4, constant)
    assert one == other


def test_the_likelihood_of_a_data_set_is_the_same_again_and_optional() -> None:
    data = counting([10] * 4, noise=0.3)
    first, again = (evaluate_model(make(noise=0.2), data, (1, 3), likelihood_samples=8) for _ in range(2))
    assert first.log_likelihood == again.log_likelihood and list(first.log_likelihood) == [1, 3]
    assert evaluate_model(make(), data, (1, 3), likelihood_samples=0).log_likelihood == {}
    model = make()
    alone = evaluate_model(model, data, (3,), likelihood_samples=8)
    assert model.asked == [1] * 9 + [3] * 9  # calibration; then the modes, and the samples
    assert list(alone.log_likelihood) == [3]


def test_evaluating_changes_neither_model_nor_random_numbers() -> None:
    model = MLPWorldModel.from_spaces(SPACE, ACTION, size="debug", seed=0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    th.manual_seed(3)
    before = th.get_rng_state()
    scores = [model.evaluate(DATA, horizons=(1, 2), seed=5) for _ in range(2)]
    assert th.equal(before, th.get_rng_state()) and scores[0].log_likelihood == scores[1].log_likelihood
    assert all(th.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_the_table_and_the_file_hold_every_score(tmp_path: pathlib.Path) -> None:
    result = evaluate_model(make("still"), DATA, (1, 3, 40), likelihood_samples=4)
    table = result.table().splitlines()
    assert table[0].startswith("| output | horizon | n | rmse |") and table[1].count("---|") == table[0].count("|") - 1
    score = result.get("x[0]", 3)
    assert f"| x[0] | 3 | {score.n} | 3 | {score.nrmse:.4g} |" in result.table()
    assert len([line for line in table if line.startswith("| ")]) == 1 + 2 * len(OUTPUTS) and "nan" not in result.table()
    assert f"observation 3 steps ahead: {result.log_likelihood[3].model:.2f} nats (no change: " in result.table()
    assert table[-1] == "No episode is long enough for horizons 40."
    result.save_csv(tmp_path / "scores")
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    nats = [("log_likelihood", 1), ("log_likelihood", 3)]
    assert [(line["output"], int(line["horizon"])) for line in lines] == [
        *((s.output, s.horizon) for s in result.scores),
        *nats,
    ]
    assert [float(line["rmse"]) for line in lines[:-2]] == [s.rmse for s in result.scores]
    assert float(lines[-1]["nats"]) == result.log_likelihood[3].model


def test_means_over_the_outputs_leave_out_what_has_no_number() -> None:
    result = evaluate_model(make("still"), DATA, [1], likelihood_samples=0)
    shares = [result.get(name, 1).nrmse for name in ("bits", "turn", "x[0]", "x[1]")]  # "still" has none
    assert result.mean("nrmse", 1) == pytest.approx(np.sqrt(np.mean(np.square(shares))))
    assert result.mean("r2", 1) == pytest.approx(np.mean([1 - share**2 for share in shares]))
    assert result.mean("accuracy", 1) == pytest.approx((result.get("bits", 1).accuracy + 0) / 2)
    for wrong in (lambda: result.mean("nrmse", 2), lambda: result.get("x[0]", 2), lambda: result.get("x", 1)):
        with pytest.raises(KeyError, match="no score"):
            wrong()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(horizons=()), "horizons must not be empty"),
        (dict(horizons=(1, 0)), "horizon must be a whole number of at least 1, got 0"),
        (dict(horizons=(1.5,)), "horizon must be a whole number"),
        (dict(context=0), "context and max_starts at least 1"),
        (dict(context=1.5), "whole numbers"),
        (dict(max_starts=0), "context and max_starts at least 1"),
        (dict(likelihood_samples=-1), "likelihood_samples at least 0"),
        (dict(dataset=DATA.episodes([])), "The data set is empty"),
        (dict(model=MLPWorldModel.from_spaces(SPACE["x"], ACTION, size="debug")), "The data set's observation_space is Dict"),
        (dict(model=MLPWorldModel.from_spaces(SPACE, spaces.Discrete(2), size="debug")), "The data set's action_space is Box"),
    ],
)
def test_arguments_that_cannot_work(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_model(**{**dict(model=make(), dataset=DATA), **kwargs})
