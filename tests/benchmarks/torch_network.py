"""The paper's networks in PyTorch, from the weights of the Keras ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Standardize(torch.nn.Module):
    """What the first layer of a standardising network does to [n, channels, height, width]."""

    def __init__(self, mean: Any, deviation: Any) -> None:
        super().__init__()
        self.register_buffer("mean", _channels_first(mean))
        self.register_buffer("deviation", _channels_first(deviation))

    def forward(self, images: Any) -> Any:
        return (images - self.mean) / self.deviation


class FlattenLikeKeras(torch.nn.Module):
    """Flattens with the channels innermost, as the dense weights expect."""

    def forward(self, values: Any) -> Any:
        return values.permute(0, 2, 3, 1).reshape(values.shape[0], -1)


def build(weights: list[Any], standardization: tuple[Any, Any] | None, dropout: float = 0.0) -> Any:
    """Returns the network: [n, channels, height, width] images -> logits.

    Args:
        weights: kernels and biases in turn, laid out as in Keras.
        standardization: mean and deviation of every feature, or None.
        dropout: rate after each hidden dense layer; 0: no such layers.
    """
    layers: list[Any] = [Standardize(*standardization)] if standardization else []
    kernels, biases = weights[::2], weights[1::2]
    for index, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        last = index == len(kernels) - 1
        if kernel.ndim == 4:
            layers.append(_loaded(torch.nn.Conv2d(*kernel.shape[2:], 3), kernel, bias))
        else:
            layers += [FlattenLikeKeras()] if kernels[index - 1].ndim == 4 else []
            layers.append(_loaded(torch.nn.Linear(*kernel.shape), kernel, bias))
        layers += [] if last else [torch.nn.ReLU()]
        if kernel.ndim == 4 and index % 2:
            layers.append(torch.nn.MaxPool2d(2))
        if kernel.ndim == 2 and dropout and not last:
            layers.append(torch.nn.Dropout(dropout))
    return torch.nn.Sequential(*layers)


def _loaded(layer: Any, kernel: Any, bias: Any) -> Any:
    layer.weight.data = torch.from_numpy(np.moveaxis(kernel, (-1, -2), (0, 1)).copy())
    layer.bias.data = torch.from_numpy(bias.copy())
    return layer


def _channels_first(values: Any) -> Any:
    return torch.from_numpy(values.transpose(2, 0, 1)[None].copy())
