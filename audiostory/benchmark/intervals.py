"""Every mean that is reported comes with its interval. No torch here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Score:
    """A mean over `num` values with its 95 % bootstrap interval.

    A distance between two sets is no mean over values: `num` is then the size of the reference, and `low` and `high`
    are NaN.
    """

    mean: float
    low: float
    high: float
    num: int


def bootstrap(stories: Iterable[Sequence[float]], seed: int = 0, rounds: int = 2000) -> Score:
    """The mean of all values; `stories` gives those of one story together, and whole stories are resampled, because the
    events of a story share their fate. NaN, not a lucky number, when there are none."""
    groups = [values for values in stories if len(values)]
    if not groups:
        return Score(mean=float("nan"), low=float("nan"), high=float("nan"), num=0)
    sums = np.array([sum(values) for values in groups], dtype=np.float64)
    counts = np.array([len(values) for values in groups])
    picks = np.random.default_rng(seed).integers(0, len(groups), (rounds, len(groups)))
    low, high = np.percentile(sums[picks].sum(1) / counts[picks].sum(1), [2.5, 97.5])
    return Score(mean=float(sums.sum() / counts.sum()), low=float(low), high=float(high), num=int(counts.sum()))


def grouped(values: Sequence[float], groups: Sequence[Hashable]) -> list[list[float]]:
    """The values of each group together, as `bootstrap` takes them; value i belongs to `groups[i]`."""
    together: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        together.setdefault(group, []).append(value)
    return list(together.values())
