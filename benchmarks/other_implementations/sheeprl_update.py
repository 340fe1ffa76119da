"""
Times updates of SheepRL's two DreamerV3 (https://github.com/Eclectic-Sheep/sheeprl, 0.8.4): ``dreamer_v3_5``, the algorithm as
published in 2025, and ``dreamer_v3``, that of 2023. Their ``train`` and the slow critic's step, on random data. For
``peers.py``, in an environment that has the package.

Layers are the package's defaults with ``dreamer_v3_5`` (the published ones), and two in every head of ``dreamer_v3``.
"""

import argparse
import json
import time
import warnings
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import hydra
import numpy as np
import torch as th
from omegaconf import OmegaConf
from torch.distributions import Distribution

WARMUP, BATCH = 3, 16
EVERYWHERE = [
    "env=gym",
    "env.id=Pendulum-v1",  # never made
    "env.num_envs=1",
    "algo.cnn_keys.encoder=[]",
    "algo.mlp_keys.encoder=[state]",
    f"algo.per_rank_batch_size={BATCH}",
    "algo.horizon=15",
    "algo.dense_units=256",
    "algo.world_model.stochastic_size=16",
    "algo.world_model.discrete_size=16",
    "algo.world_model.recurrent_model.recurrent_state_size=256",
    "algo.world_model.reward_model.bins=255",
    "algo.critic.bins=255",
    "algo.compile.enabled=False",
    "fabric.accelerator=cpu",
    "fabric.precision=32-true",
    "fabric.callbacks=[]",
    "metric.log_level=0",
    "float32_matmul_precision=highest",
]
OF_2025 = [
    "exp=dreamer_v3_5",
    "algo=dreamer_v3_5",
    "algo.world_model.recurrent_model.hidden_size=256",
    "algo.world_model.recurrent_model.blocks=8",
]
OF_2023 = [
    "exp=dreamer_v3",
    "algo=dreamer_v3_XS",
    "algo.cnn_keys.decoder=[]",
    "algo.mlp_keys.decoder=[state]",
    "algo.mlp_layers=2",
    "algo.world_model.transition_model.hidden_size=256",
    "algo.world_model.representation_model.hidden_size=256",
]


def configure(overrides: list[str]) -> Any:
    """
    :param overrides: of the package's configuration
    :return: it
    """
    from sheeprl.utils.utils import dotdict

    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        config = hydra.compose("config", overrides=overrides)
    config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])  # which only a command line fills
    return dotdict(OmegaConf.to_container(config, resolve=True))


class Agent:
    """
    Networks, optimizers and random batches.

    :param config: the package's configuration
    :param newer: ``dreamer_v3_5``
    """

    def __init__(self, config: Any, newer: bool) -> None:
        from sheeprl.utils.metric import MetricAggregator
        from sheeprl.utils.timer import timer

        if newer:
            from sheeprl.algos.dreamer_v3_5 import dreamer_v3_5 as algorithm
        else:
            from sheeprl.algos.dreamer_v3 import dreamer_v3 as algorithm
        self.config, self.newer, self.train = config, newer, algorithm.train
        MetricAggregator.disabled = timer.disabled = True
        Distribution.set_default_validate_args(config.distribution.validate_args)
        self.fabric = hydra.utils.instantiate(config.fabric, _convert_="all")
        self.fabric.seed_everything(0, verbose=False)
        space = gym.spaces.Dict({"state": gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)})
        *networks, self.slow_critic, _ = algorithm.build_agent(self.fabric, (1,), True, config, space)
        self.networks = networks  # world model, actor, critic
        algo = config.algo
        if newer:
            of = [(algo.optimizer, self.parameters())]
        else:
            parts = zip((algo.world_model, algo.actor, algo.critic), networks, strict=True)
            of = [(part.optimizer, network.parameters()) for part, network in parts]
        made = [hydra.utils.instantiate(optimizer, params=parameters, _convert_="all") for optimizer, parameters in of]
        self.optimizers = self.fabric.setup_optimizers(*made)
        moments = algo.actor.moments
        bounds = moments.percentile
        self.moments = algorithm.Moments(moments.decay, moments.max, bounds.low, bounds.high)

    def parameters(self) -> list[th.nn.Parameter]:
        """:return: that are trained"""
        return [parameter for network in self.networks for parameter in network.parameters()]

    def batch(self) -> dict[str, th.Tensor]:
        """:return: random rows; the newer one's begin with one whose stored latent state is where they start"""
        algo = self.config.algo
        shape = (algo.per_rank_sequence_length + (algo.replay_context if self.newer else 0), BATCH)
        rows = {name: th.zeros(*shape, 1) for name in ("is_first", "terminated", "truncated")}
        rows.update(state=th.randn(*shape, 3), actions=th.rand(*shape, 1) * 2 - 1, rewards=th.randn(*shape, 1))
        if self.newer:
            rows["deter"] = th.empty(*shape, 256).uniform_(-1, 1).half()
            rows["stoch"] = th.randint(16, (*shape, 16), dtype=th.uint8)
        else:
            rows["is_first"][0] = 1.0
        return rows

    def update(self, batch: dict[str, th.Tensor]) -> None:
        """
        :param batch: from :meth:`batch`
        """
        networks = (*self.networks, self.slow_critic)
        if self.newer:
            self.train(self.fabric, self.config, *networks, self.optimizers, self.moments, batch, None, (1,))
        else:
            self.train(self.fabric, *networks, *self.optimizers, batch, None, self.config, True, (1,), self.moments)
        with th.no_grad():  # their main loop does it
            for slow, fast in zip(self.slow_critic.parameters(), self.networks[2].parameters(), strict=True):
                slow.lerp_(fast, self.config.algo.critic.tau)


def main() -> None:
    """Print CPU seconds of each update, parameters and versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=("dreamer_v3", "dreamer_v3_5"))
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--reinforce", action="store_true", help="what dreamer_v3_5 always does")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    th.set_num_threads(1)
    newer = args.algorithm == "dreamer_v3_5"
    overrides = [*(OF_2025 if newer else OF_2023), *EVERYWHERE, f"algo.per_rank_sequence_length={args.length}"]
    if args.reinforce and not newer:
        overrides.append("algo.actor.objective_mix=1.0")
    agent = Agent(configure(overrides), newer)
    before = [parameter.detach().clone() for parameter in agent.parameters()]
    batches, seconds = [agent.batch() for _ in range(WARMUP + args.updates)], []
    for batch in batches:
        start = time.process_time()
        agent.update(batch)
        seconds.append(time.process_time() - start)
    pairs = zip(agent.parameters(), before, strict=True)
    learnt = [bool(now.isfinite().all()) and not th.equal(now, then) for now, then in pairs]
    assert all(learnt), "an update that leaves weights as they were, or spoils them, is none"
    found = {
        "cpu_seconds": seconds[WARMUP:],
        "parameters": sum(parameter.numel() for parameter in agent.parameters()),
        "versions": {name: version(name) for name in ("sheeprl", "torch")},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
