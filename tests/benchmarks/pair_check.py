"""Compares the package's choice of feature pairs with a search of all pairs, on real Jacobians."""

from __future__ import annotations

from typing import Any

import numpy as np

SAMPLES = 20


def check_pairs(
    logits_network: Any, images: Any, targets: Any, cases: int, max_features: int
) -> dict[str, dict[str, int]]:
    """Replays attacks step by step and searches all pairs at every step.

    Args:
        logits_network: a Keras model images -> logits.
        images: of the attack list, shape [N, height, width, channels].
        targets: of the attack list, shape [N].
        cases: how many (attack, step) cases to check for each attack, at most.
        max_features: a replayed attack ends there.

    Returns:
        For `jsma_f` and `jsma_z`: the number of `cases`, of those with the `identical` pair, and
        of those with the `same` one: identical, or another of exactly the same score.
    """
    from ddefense import attacks
    from ddefense.maths import saliency

    chosen = np.unique(np.linspace(0, len(images) - 1, min(SAMPLES, len(images))).astype(int))
    report = {}
    for name in ("jsma_f", "jsma_z"):
        derivative = attacks.forward_derivative(logits_network, name)
        flat = images[chosen].reshape(len(chosen), -1).copy()
        wanted = targets[chosen].astype(np.int32)
        domain = flat < 1.0
        counts = {"cases": 0, "identical": 0, "same": 0}
        for _ in range(max_features // 2):
            predicted, *maps = derivative(flat.reshape(-1, *images.shape[1:]), wanted)
            alpha = maps[0]
            if len(maps) == 2:
                beta = maps[1]
                pairs = saliency.best_pair(alpha, beta, domain, 1)
            else:
                pairs = saliency.best_pair_of_probabilities(alpha, domain, 1)
                # It forms no product, which would underflow in float32 long before alpha does.
                alpha = alpha.astype(np.float64)
                beta = -alpha
            for row in np.flatnonzero(predicted != wanted):
                if counts["cases"] == cases:
                    break
                scores = _all_scores(alpha[row], beta[row], domain[row])
                best = np.unravel_index(scores.argmax(), scores.shape)
                pair = tuple(pairs.features[row])
                found = bool(pairs.admissible[row])
                exists = bool(scores[best] > 0)
                identical = found == exists and (not exists or sorted(best) == sorted(pair))
                tied = found and exists and scores[pair] == scores[best]
                counts["cases"] += 1
                counts["identical"] += identical
                counts["same"] += identical or tied
            going = np.flatnonzero((predicted != wanted) & pairs.admissible)
            if counts["cases"] == cases or not len(going):
                break
            row, pair = going[:, None], pairs.features[going]
            flat[row, pair] = 1.0
            domain[row, pair] = False
        report[name] = {key: int(value) for key, value in counts.items()}
    return report


def _all_scores(alpha: Any, beta: Any, domain: Any) -> Any:
    """Returns the score of every pair, shape [features, features]; 0 where it does not qualify."""
    gain = alpha[:, None] + alpha[None, :]
    loss = beta[:, None] + beta[None, :]
    qualifies = (gain > 0) & (loss < 0) & domain[:, None] & domain[None, :]
    np.fill_diagonal(qualifies, False)
    return np.where(qualifies, -gain * loss, 0)
