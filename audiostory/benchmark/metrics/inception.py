"""Inception score: how sure the classifier is of each recording, and how different they are. Higher is better.

exp(mean KL(p(class | recording) || mean p)) over each of 10 parts of a seeded order (audioldm_eval: 10, 2020)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Shaped

from audiostory.benchmark.intervals import Score, bootstrap

SPLITS, SEED = 10, 2020


@dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """The mean over the parts with its interval, and the parts' standard deviation, which the tools report."""

    score: Score
    deviation: float


def inception_score(logits: Shaped[np.ndarray, "N C"], *, splits: int = SPLITS, seed: int = SEED) -> InceptionScore:
    """From 1 (all alike) to the number of classes C. It rises with the number of recordings N.

    ValueError for fewer recordings than parts, and for logits that are not finite.
    """
    from scipy.special import log_softmax

    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or len(logits) < splits:
        raise ValueError(
            f"an inception score over {splits} parts needs logits [recordings, classes] of at least {splits} "
            f"recordings; got {list(logits.shape)}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("some logits are not finite; look at the recordings, and at the network's weights")
    logs = log_softmax(logits[np.random.RandomState(seed).permutation(len(logits))], axis=1)
    bounds = [part * len(logs) // splits for part in range(splits + 1)]
    parts = [_score(logs[start:end]) for start, end in pairwise(bounds)]
    return InceptionScore(score=bootstrap([part] for part in parts), deviation=float(np.std(parts)))


def _score(logs: np.ndarray) -> float:
    shares = np.exp(logs)
    mean = shares.mean(0)
    # A class of which every share vanishes adds nothing.
    surprise = shares * (logs - np.log(np.where(mean > 0, mean, 1)))
    return float(np.exp(surprise.sum(1).mean()))
