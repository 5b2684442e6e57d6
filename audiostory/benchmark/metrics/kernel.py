"""KAD, the kernel audio distance: unbiased MMD^2 with a Gaussian kernel, times 100 (kadtk).

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   k = exp(-|a - b|^2 / (2 bandwidth^2 + 1e-8))

over pairs of different vectors; the bandwidth is the median distance between two vectors of the *reference*. So it is
not symmetric, and two samples of one source lie around 0, below it half of the time. It has no bias in the number of
vectors. Distances are computed in blocks, never all at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from audiostory.benchmark.metrics.sets import as_sets

SCALE = 100
EPS = 1e-8  # kadtk's, against a bandwidth of 0
LARGEST = 1 << 22  # distances held at a time, 34 MB, a few times over


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """`bandwidth` in the units of the features, for the report."""

    value: float
    bandwidth: float


def kernel_distance(
    generated: Shaped[np.ndarray, "G D"], reference: Shaped[np.ndarray, "R D"], *, bandwidth: float | None = None
) -> KernelDistance:
    """0 on average for sets of one source, at most 200. `bandwidth` overrides the reference's median distance.

    ValueError for sets that do not compare, and for a reference whose vectors are mostly the same one.
    """
    first, second = as_sets(generated, reference)
    centre = second.mean(0)  # changes no distance; small numbers lose less in |a|^2 + |b|^2 - 2ab
    first, second = first - centre, second - centre
    width = median_distance(second) if bandwidth is None else bandwidth
    if not width > 0:
        raise ValueError(
            f"the kernel's bandwidth is {width}, expected more than 0; with the reference's median distance at 0, "
            "most of its recordings are the same: give others"
        )
    gamma = 1 / (2 * width**2 + EPS)
    within = [
        2 * sum(np.exp(-gamma * block).sum() for block in _own_pairs(side)) / (len(side) * (len(side) - 1))
        for side in (first, second)
    ]
    across = sum(np.exp(-gamma * block).sum() for block in _pairs(first, second)) / (len(first) * len(second))
    return KernelDistance(value=float(SCALE * (sum(within) - 2 * across)), bandwidth=float(width))


def median_distance(vectors: Float[np.ndarray, "N D"]) -> float:
    """The lower median of the distances between different vectors, as exact as single precision is.

    Positive floats are ordered as their bits are: the upper half of the median's bits is counted out first, then the
    lower half, so that the distances are never held together.
    """
    num_pairs = len(vectors) * (len(vectors) - 1) // 2
    upper, rank = _find((num_pairs - 1) // 2, (bits >> 16 for bits in _bits(vectors)))
    lower, _ = _find(rank, (bits[bits >> 16 == upper] & 0xFFFF for bits in _bits(vectors)))
    return float(np.sqrt(np.array(upper << 16 | lower, np.uint32).view(np.float32), dtype=np.float64))


def _find(rank: int, blocks: Iterator[np.ndarray]) -> tuple[int, int]:
    """The value of that rank among whole numbers below 2^16, and its rank among its equals."""
    counts = sum((np.bincount(block, minlength=1 << 16) for block in blocks), np.zeros(1 << 16, np.int64))
    below = np.cumsum(counts)
    value = int(np.searchsorted(below, rank, side="right"))
    return value, rank - int(below[value] - counts[value])


def _bits(vectors: Float[np.ndarray, "N D"]) -> Iterator[np.ndarray]:
    return (block.astype(np.float32).view(np.uint32) for block in _own_pairs(vectors))


def _pairs(first: Float[np.ndarray, "G D"], second: Float[np.ndarray, "R D"]) -> Iterator[Float[np.ndarray, "B R"]]:
    """Squared distances from some rows of the first set to all of the second."""
    size = _num_rows(second)
    for start in range(0, len(first), size):
        yield _squared(first[start : start + size], second)


def _own_pairs(vectors: Float[np.ndarray, "N D"]) -> Iterator[Float[np.ndarray, P]]:
    """Squared distances within a set, each pair once."""
    size = _num_rows(vectors)
    for start in range(0, len(vectors), size):
        rest = vectors[start:]
        block = _squared(rest[:size], rest)
        yield block[np.arange(len(rest)) > np.arange(len(block))[:, None]]


def _num_rows(vectors: Float[np.ndarray, "N D"]) -> int:
    return max(1, LARGEST // len(vectors))


def _squared(rows: Float[np.ndarray, "B D"], vectors: Float[np.ndarray, "R D"]) -> Float[np.ndarray, "B R"]:
    lengths = np.square(rows).sum(1)[:, None] + np.square(vectors).sum(1)
    return np.maximum(lengths - 2 * rows @ vectors.T, 0)
