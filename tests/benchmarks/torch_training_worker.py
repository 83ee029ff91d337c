"""A PyTorch training loop in its own process and environment, one round at a time.

`training_throughput.py` starts this file; it is of no use alone. It reads names of variants from
its standard input, trains one epoch for each and answers with the figures, one JSON line each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import stored_network


def main() -> None:
    """Answers every line of the standard input."""
    options = _parse()
    measure.limit_threads(options.threads)
    import numpy as np
    import torch

    torch.set_num_threads(options.threads)
    network = stored_network.load(options.setup / "weights.npz")
    with np.load(options.setup / "data.npz") as stored:
        data = stored["images"], stored["labels"]
    epochs: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        variant = line.strip()
        if variant not in epochs:
            epochs[variant] = _epoch(options, network, data, VARIANTS[variant])
        figures = measure.round_figures(epochs[variant])
        print(json.dumps(figures | {"torch": torch.__version__}), flush=True)


VARIANTS = {"nchw": "contiguous_format", "channels_last": "channels_last"}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--setup", type=Path, required=True)
    add("--threads", type=int, required=True)
    add("--batch-size", type=int, required=True)
    add("--temperature", type=float, required=True)
    add("--learning-rate", type=float, required=True)
    add("--momentum", type=float, required=True)
    add("--dropout", type=float, required=True)
    return parser.parse_args()


def _epoch(
    options: argparse.Namespace,
    stored: stored_network.StoredNetwork,
    data: tuple[Any, Any],
    layout: str,
) -> Callable[[], None]:
    """Returns one epoch of the same training, with the data resident as tensors."""
    import torch
    import torch_network

    layout = getattr(torch, layout)
    network = torch_network.build(stored.weights, stored.standardization, options.dropout)
    network = network.train().to(memory_format=layout)
    images = torch.from_numpy(data[0].transpose(0, 3, 1, 2)).contiguous(memory_format=layout)
    labels = torch.from_numpy(data[1])
    optimizer = torch.optim.SGD(
        network.parameters(), options.learning_rate, momentum=options.momentum
    )

    def epoch() -> None:
        for batch in torch.randperm(len(images)).split(options.batch_size):
            optimizer.zero_grad(set_to_none=True)
            logits = network(images[batch]) / options.temperature
            loss = torch.nn.functional.cross_entropy(logits, labels[batch])
            loss.backward()
            optimizer.step()
        if not torch.isfinite(loss):
            raise AssertionError("the loss is not finite")

    return epoch


if __name__ == "__main__":
    main()
