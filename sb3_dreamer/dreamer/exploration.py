"""What Dreamer needs beside actor and critic to explore."""

from __future__ import annotations

import torch as th
import torch.nn as nn

from sb3_dreamer.behaviour.curiosity import Curiosity
from sb3_dreamer.behaviour.networks import Actor, Critic, ReturnRange
from sb3_dreamer.common.averaging import frozen_copy


class Explorer(nn.Module):
    """
    Who explores: an actor that collects most of the data, for curiosity and task, while the policy's own learns the task alone
    (Sekar et al. 2020, https://arxiv.org/abs/2005.05960, section 2); critics of what this one will find of either, with ranges
    of their own, as curiosity and task are on different scales; and whether there is a task yet.

    :param curiosity: gives the rewards
    :param actor: that collects data
    :param critic: of the returns of curiosity
    :param task_critic: of the task's
    """

    found_reward: th.Tensor
    """Whether any step has been worth anything, scalar."""

    def __init__(self, curiosity: Curiosity, actor: Actor, critic: Critic, task_critic: Critic) -> None:
        super().__init__()
        self.curiosity = curiosity
        self.actor = actor
        self.critic, self.task_critic = critic, task_critic
        self.slow_critic, self.slow_task_critic = frozen_copy(critic), frozen_copy(task_critic)
        self.range, self.task_range = ReturnRange(), ReturnRange()
        self.register_buffer("found_reward", th.zeros((), dtype=th.bool))
