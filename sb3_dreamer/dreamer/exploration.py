"""What Dreamer needs beside actor and critic to explore."""

from __future__ import annotations

import torch.nn as nn

from sb3_dreamer.behaviour.curiosity import Curiosity
from sb3_dreamer.behaviour.networks import Critic, ReturnRange
from sb3_dreamer.common.averaging import frozen_copy


class Explorer(nn.Module):
    """
    What exploring needs beside an actor: a curiosity, and a critic with a range of returns of its own, as curiosity and
    task are on different scales.

    :param curiosity: gives the rewards
    :param critic: of their returns
    """

    def __init__(self, curiosity: Curiosity, critic: Critic) -> None:
        super().__init__()
        self.curiosity = curiosity
        self.critic = critic
        self.slow_critic = frozen_copy(critic)
        self.range = ReturnRange()
