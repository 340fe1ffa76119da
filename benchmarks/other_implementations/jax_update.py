"""
Times updates of DreamerV3 as its authors published it in 2023, in JAX (https://pypi.org/project/dreamerv3/, 1.5.0): ``train``
of its ``Agent``, compiled, on random data. For ``peers.py``, in an environment that has the package.

Layers are those of its ``small`` size; encoder and decoder keep the five that no size of it changes.
"""

import argparse
import json
import sys
import time
from importlib.metadata import version

import jax
import numpy as np

WARMUP, BATCH = 3, 16


def settings(length: int, reinforce: bool) -> dict:
    """
    :param length: rows a window
    :param reinforce: the actor's gradient, instead of the one through the dynamics
    :return: what differs from the package's defaults
    """
    changed = {
        "jax.platform": "cpu",
        "jax.precision": "float32",
        "jax.prealloc": False,
        "jax.metrics_every": 0,
        "batch_size": BATCH,
        "batch_length": length,
        "imag_horizon": 15,
        "rssm.deter": 256,
        "rssm.units": 256,
        "rssm.stoch": 16,
        "rssm.classes": 16,
        "actor_grad_cont": "reinforce" if reinforce else "backprop",
    }
    for coder in ("encoder", "decoder"):
        changed.update({f"{coder}.mlp_keys": "vector", f"{coder}.cnn_keys": "$^", f"{coder}.mlp_units": 256})
    for head in ("reward_head", "cont_head", "actor", "critic"):
        changed.update({f"{head}.units": 256, f"{head}.layers": 2})
    return changed


def main() -> None:
    """Print CPU seconds of each update, parameters and versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--updates", type=int, required=True)
    parser.add_argument("--reinforce", action="store_true")
    args = parser.parse_args()
    out, sys.stdout = sys.stdout, sys.stderr  # the package prints a lot
    import dreamerv3
    from dreamerv3 import embodied, jaxutils

    config = embodied.Config(dreamerv3.Agent.configs["defaults"]).update(settings(args.length, args.reinforce))
    flag = embodied.Space(bool)
    seen = {"vector": embodied.Space(np.float32, (3,)), "reward": embodied.Space(np.float32)}
    seen.update(is_first=flag, is_last=flag, is_terminal=flag)
    agent = dreamerv3.Agent(seen, {"action": embodied.Space(np.float32, (1,), -1, 1)}, embodied.Counter(), config)

    rng, shape = np.random.default_rng(0), (BATCH, args.length)
    data = {name: np.zeros(shape, bool) for name in ("is_first", "is_last", "is_terminal")}
    data["is_first"][:, 0] = True
    data["vector"] = rng.normal(size=(*shape, 3)).astype(np.float32)
    data["action"] = rng.uniform(-1, 1, (*shape, 1)).astype(np.float32)
    data["reward"] = rng.normal(size=shape).astype(np.float32)
    data = jax.device_put(data, agent.train_devices[0])

    state, seconds = None, []
    for _ in range(WARMUP + args.updates):
        start = time.process_time()
        _, state, _ = agent.train(data, state)
        jax.block_until_ready((agent.varibs, state))
        seconds.append(time.process_time() - start)
    assert all(np.isfinite(np.asarray(value)).all() for value in jax.tree_util.tree_leaves(dict(agent.varibs)))
    found = {
        "cpu_seconds": seconds[WARMUP:],
        "parameters": sum(int(count) for count in jaxutils.Optimizer.PARAM_COUNTS.values()),
        "versions": {name: version(name) for name in ("dreamerv3", "jax", "jaxlib")},
    }
    print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
