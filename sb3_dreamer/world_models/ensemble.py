"""Three ways to have several opinions: an ensemble, masks of dropout, a Bayesian last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sb3_dreamer.common.arguments import check_ranges, check_whole
from sb3_dreamer.common.preprocessing import ObservationKey
from sb3_dreamer.world_models.members import DropoutMasks, Ensemble, LaplaceLastLayer, Members
from sb3_dreamer.world_models.probabilistic import ProbabilisticWorldModel
from sb3_dreamer.world_models.sizes import ModelSize


class EnsembleWorldModel(ProbabilisticWorldModel):
    """
    A probabilistic ensemble: several networks with weights, rows and order of their own; the elites, those with the least
    error on rows held out, are what counts (PETS: Chua et al. 2018, https://arxiv.org/abs/1805.12114; MBPO: Janner et al.
    2019, https://arxiv.org/abs/1906.08253).

    :param n_members: E
    :param n_elites: of them; None for all
    :param init_scale: of the networks' first weights, relative to PETS'. Far from all data a network keeps something of its
        first weights; larger ones make the members disagree more there (measured in ``docs/planning.md``)
    :param kwargs: see :class:`ProbabilisticWorldModel`
    """

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        action_size: int,
        size: str | ModelSize = "small",
        gamma: float = 1 - 1 / 333,
        n_members: int = 5,
        n_elites: int | None = None,
        init_scale: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_ranges(positive=dict(init_scale=init_scale))
        check_whole(n_members=n_members, **({} if n_elites is None else dict(n_elites=n_elites)))
        if n_elites is not None and n_elites > n_members:
            raise ValueError(f"n_elites={n_elites} cannot be more than n_members={n_members}.")
        self._n_members, self._init_scale = int(n_members), float(init_scale)
        super().__init__(keys, action_size, size, gamma, **kwargs)
        self.elites = self.elites[: None if n_elites is None else int(n_elites)]

    def make_members(self, inputs: int, outputs: int, units: int, layers: int) -> Members:
        return Ensemble(self._n_members, inputs, outputs, units, layers, self._init_scale)


class DropoutWorldModel(ProbabilisticWorldModel):
    """
    One network under many masks of dropout, each an opinion (Gal and Ghahramani 2016, https://arxiv.org/abs/1506.02142).

    :param n_masks: opinions
    :param dropout: probability that a unit is left out
    :param kwargs: see :class:`ProbabilisticWorldModel`
    """

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        action_size: int,
        size: str | ModelSize = "small",
        gamma: float = 1 - 1 / 333,
        n_masks: int = 20,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        check_whole(n_masks=n_masks)
        if not 0 < dropout < 1:
            raise ValueError(f"dropout must lie in (0, 1), got {dropout!r}.")
        self._n_masks, self._dropout = int(n_masks), dropout
        super().__init__(keys, action_size, size, gamma, **kwargs)

    def make_members(self, inputs: int, outputs: int, units: int, layers: int) -> Members:
        return DropoutMasks(self._n_masks, inputs, outputs, units, layers, self._dropout)


class LaplaceWorldModel(ProbabilisticWorldModel):
    """
    One network with a Bayesian last layer, of which heads are drawn, each an opinion (Kristiadi et al. 2020,
    https://arxiv.org/abs/2002.10118).

    :param n_heads: opinions
    :param prior_precision: of the last layer's weights, for normalised targets
    :param kwargs: see :class:`ProbabilisticWorldModel`
    """

    def __init__(
        self,
        keys: Sequence[ObservationKey],
        action_size: int,
        size: str | ModelSize = "small",
        gamma: float = 1 - 1 / 333,
        n_heads: int = 20,
        prior_precision: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_whole(n_heads=n_heads)
        check_ranges(positive=dict(prior_precision=prior_precision))
        self._n_heads, self._prior_precision = int(n_heads), float(prior_precision)
        super().__init__(keys, action_size, size, gamma, **kwargs)

    def make_members(self, inputs: int, outputs: int, units: int, layers: int) -> Members:
        return LaplaceLastLayer(self._n_heads, inputs, outputs, units, layers, self._prior_precision)
