"""Which rows make up which batch: a pure function of the seed and the step, so that any step can be had again at once.

`BatchPlan` orders one data set into batches of like length, epoch after epoch; `Mixture` interleaves several data sets
in exact shares. Neither holds state that a checkpoint would have to keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

LENGTH_JITTER = 0.1  # how far, as a share of its cost, a row may stray from its place in the order by length


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """A batch is as full as these allow. Padding counts: it costs what content costs."""

    rows: int = 64
    frames: int | None = None  # latent frames of all events together
    tokens: int | None = None  # script tokens of all rows together
    crop_seconds: float = 0.8  # of the codec's crops, `rows` to a batch


class Source(Protocol):
    """A data set that can make its n-th batch."""

    def batch(self, index: int) -> Any: ...


def seed_of(*parts: int | str) -> int:
    """A seed below 2**63 that depends on every part, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class BatchPlan:
    """Batches of rows, each as full as `limits` allow with padding counted.

    `tokens` is each row's script length and `clips` its number of events; `frames` is its longest event. With
    `same_frames` a batch holds only rows with as many frames, so it needs no padding.
    """

    def __init__(
        self,
        *,
        tokens: Sequence[int],
        frames: Sequence[int],
        clips: Sequence[int],
        limits: BatchLimits,
        seed: int,
        same_frames: bool = False,
    ):
        if not len(tokens):
            raise ValueError("there are no rows to make batches of; is the manifest or the store of latents empty?")
        self.tokens, self.frames, self.clips = (
            np.asarray(values, dtype=np.int64) for values in (tokens, frames, clips)
        )
        self.limits, self.seed, self.same_frames = limits, seed, same_frames
        self._epoch, self._first, self._batches = 0, 0, self._cut(0)

    def rows(self, index: int) -> list[int]:
        """The rows of the `index`-th batch, counted through all epochs. Going back starts from the first epoch."""
        if index < self._first:
            self._epoch, self._first, self._batches = 0, 0, self._cut(0)
        while index >= self._first + len(self._batches):
            self._first += len(self._batches)
            self._epoch += 1
            self._batches = self._cut(self._epoch)
        return self._batches[index - self._first]

    def _cut(self, epoch: int) -> list[list[int]]:
        """One epoch: every row once, neighbours in length together, the batches in random order."""
        random = np.random.default_rng(seed_of(self.seed, "epoch", epoch))
        cost = self.tokens + self.clips * self.frames
        if self.same_frames:
            order = np.lexsort((random.random(len(cost)), self.frames))
        else:
            order = np.argsort(cost * (1 + LENGTH_JITTER * random.random(len(cost))), kind="stable")
        batches: list[list[int]] = [[]]
        for row in order.tolist():
            if batches[-1] and not self._fits([*batches[-1], row]):
                batches.append([])
            batches[-1].append(row)
        return [batches[place] for place in random.permutation(len(batches))]

    def _fits(self, rows: list[int]) -> bool:
        frames = self.frames[rows]
        limits = self.limits
        return (
            len(rows) <= limits.rows
            and (limits.tokens is None or len(rows) * self.tokens[rows].max() <= limits.tokens)
            and (limits.frames is None or self.clips[rows].sum() * frames.max() <= limits.frames)
            and (not self.same_frames or frames[0] == frames[-1])
        )


class Mixture:
    """The batches of a run: item `step` comes from the source that lags most behind its share.

    After any number of steps each source has given its share of the batches, to within one batch. With two sources
    at {"listen": 2, "tell": 1} the order is listen, tell, listen, listen, tell, listen ...
    """

    def __init__(self, sources: Mapping[str, Source], shares: Mapping[str, float]):
        unknown = sorted(set(shares) - set(sources))
        if unknown:
            raise ValueError(f"the mixture names {', '.join(unknown)}, the data has {', '.join(sources)}")
        if not shares or min(shares.values()) <= 0:
            raise ValueError(f"a mixture needs positive shares, not {dict(shares)}; leave out what is not wanted")
        self.sources = [sources[name] for name in shares]
        self.shares = [share / sum(shares.values()) for share in shares.values()]
        self._turns: list[tuple[int, int]] = []  # per step: which source, and how many of its batches came before
        self._given = [0] * len(self.sources)

    def turn(self, step: int) -> tuple[int, int]:
        while len(self._turns) <= step:
            lag = [
                share * (len(self._turns) + 1) - given for share, given in zip(self.shares, self._given, strict=True)
            ]
            chosen = lag.index(max(lag))
            self._turns.append((chosen, self._given[chosen]))
            self._given[chosen] += 1
        return self._turns[step]

    def __getitem__(self, step: int) -> Any:
        source, index = self.turn(step)
        return self.sources[source].batch(index)
