"""KL divergence between what a classifier hears in a generated recording and in the true one of the same name.

The tools disagree on the direction: audioldm_eval has KL(reference || generated), stable-audio-metrics
KL(generated || reference). Both are given here, by name. As in both tools, 1e-6 is added to the probabilities on the
right of || alone, so that the divergence of a recording from itself is a little below 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from audiostory.benchmark.intervals import Score, bootstrap

EPS = 1e-6
LARGEST = -math.log(EPS)  # nats: sure of one class, and there is nothing of it


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Means over pairs, with their intervals over pairs, in nats. `unpaired` are names that only one side has."""

    kl_reference_to_generated: Score
    kl_generated_to_reference: Score
    kl_sigmoid_reference_to_generated: Score
    kl_sigmoid_generated_to_reference: Score
    unpaired: tuple[str, ...]


def divergence(
    generated: Mapping[str, Shaped[np.ndarray, C]], reference: Mapping[str, Shaped[np.ndarray, C]]
) -> Divergence:
    """From the logits of each recording. KL proper is over the softmax; the sigmoid form sums p log(p / q) over classes
    of which several may be true, and is no divergence: it may be negative.

    ValueError when no name is on both sides, or logits differ in length or are not finite.
    """
    from scipy.special import expit, softmax

    names = sorted(generated.keys() & reference.keys())
    if not names:
        raise ValueError(
            f"no recording is on both sides: generated {sorted(generated)[:3]} ..., reference {sorted(reference)[:3]} "
            "...; a pair is two recordings of the same name"
        )
    for name in names:
        pair = np.shape(generated[name]), np.shape(reference[name])
        if pair[0] != pair[1] or len(pair[0]) != 1:
            raise ValueError(f"the logits of {name} have the shapes {pair}; expected one row of classes on both sides")
    told = np.stack([np.asarray(generated[name], np.float64) for name in names])
    true = np.stack([np.asarray(reference[name], np.float64) for name in names])
    if strange := [name for name, *rows in zip(names, told, true, strict=True) if not np.isfinite(rows).all()]:
        raise ValueError(f"the logits of {strange[0]} are not finite; look at that recording, and at the weights")
    told_shares, true_shares = softmax(told, axis=1), softmax(true, axis=1)
    return Divergence(
        kl_reference_to_generated=_mean(true_shares, told_shares),
        kl_generated_to_reference=_mean(told_shares, true_shares),
        kl_sigmoid_reference_to_generated=_mean(expit(true), expit(told)),
        kl_sigmoid_generated_to_reference=_mean(expit(told), expit(true)),
        unpaired=tuple(sorted(generated.keys() ^ reference.keys())),
    )


def divergence_of_rows(left: Float[np.ndarray, "N C"], right: Float[np.ndarray, "N C"]) -> Float[np.ndarray, N]:
    """KL(left || right) of each pair of rows of shares, in nats; for shares that sum to 1, about 0 to LARGEST."""
    from scipy.special import xlogy

    return (xlogy(left, left) - left * np.log(right + EPS)).sum(1)


def _mean(left: Float[np.ndarray, "N C"], right: Float[np.ndarray, "N C"]) -> Score:
    return bootstrap([float(value)] for value in divergence_of_rows(left, right))
