"""SB3's features extractors as the encoder of a world model."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
import torch.nn as nn
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_dreamer.common.preprocessing import ObservationKey


class ExtractorEncoder(nn.Module):
    """
    Gives a features extractor the observations as SB3 would: batches of one leading axis, images from 0 to 1, choices as
    one-hots, a dictionary only where the observation space is one. Vectors come as the world model scales them.

    :param extractor: the features extractor
    :param keys: the observation's parts
    :param is_dict: whether the observation space is a dictionary
    """

    def __init__(self, extractor: BaseFeaturesExtractor, keys: Sequence[ObservationKey], is_dict: bool) -> None:
        super().__init__()
        self.extractor, self.keys, self.is_dict = extractor, tuple(keys), is_dict
        self.out_features = extractor.features_dim

    def forward(self, scaled: dict[str, th.Tensor]) -> th.Tensor:
        """
        :param scaled: ``(..., size)``, images ``(..., C, H, W)`` a key
        :return: ``(..., out_features)``
        """
        first = self.keys[0]
        lead = scaled[first.name].shape[: -3 if first.kind == "image" else -1]
        inputs = {}
        for key in self.keys:
            shape = (key.size,) if key.kind == "discrete" else key.image_shape if key.kind == "image" else key.shape
            inputs[key.name] = scaled[key.name].reshape(-1, *shape)
        return self.extractor(inputs if self.is_dict else inputs[first.name]).unflatten(0, lead)
