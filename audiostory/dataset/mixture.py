"""Which rows make up which batch: a pure function of the seed and the step, so that any step can be had again at once.

`BatchPlan` orders one data set into batches of like length, epoch after epoch; `Mixture` interleaves several data sets
in exact shares. Neither holds state that a checkpoint would have to keep. A step takes one batch, which many processes
may share: `deal` cuts it into pieces of like cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np

LENGTH_JITTER = 0.1  # how far, as a share of its cost, a row may stray from its place in the order by length
WINDOW = 16  # shards that are read at a time


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """A batch is as full as these allow, all its pieces together. Padding counts: it costs what content costs.

    Rows that are alike come together: in the sum of their tokens and frames ("cost", as audiostory-mini was trained),
    or in each of the two ("shape"), which pads less where they do not go hand in hand.
    """

    rows: int = 64
    frames: int | None = None  # latent frames of all events together
    tokens: int | None = None  # script tokens of all rows together
    crop_seconds: float = 0.8  # of the codec's crops, `rows` to a batch
    alike: Literal["cost", "shape"] = "cost"


class Source(Protocol):
    """A data set that can make its n-th batch, or one piece of it."""

    def batch(self, index: int, piece: int = 0, pieces: int = 1) -> Any: ...


def seed_of(*parts: int | str) -> int:
    """A seed below 2**63 that depends on every part, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class BatchPlan:
    """Batches of rows, each as full as `limits` allow with padding counted.

    `tokens` is each row's script length and `clips` its number of events; `frames` is its longest event. With
    `same_frames` a batch holds only rows with as many frames, so it needs no padding. Rows of different `kinds` never
    share a batch: they need different modules, and all processes of a step must run the same ones.
    `shards` are the numbers of rows that lie together, one shard after the other. An epoch then takes the shards in
    random order, `window` of them at a time, so that few files are read at once; batches are of rows of one window.
    """

    def __init__(
        self,
        *,
        tokens: Sequence[int] | np.ndarray,
        frames: Sequence[int] | np.ndarray,
        clips: Sequence[int] | np.ndarray,
        limits: BatchLimits,
        seed: int,
        same_frames: bool = False,
        kinds: Sequence[int] | np.ndarray | None = None,
        shards: Sequence[int] | None = None,
        window: int = WINDOW,
    ):
        if not len(tokens):
            raise ValueError("there are no rows to make batches of; is the manifest or the store of latents empty?")
        self.tokens, self.frames, self.clips = (
            np.asarray(values, dtype=np.int64) for values in (tokens, frames, clips)
        )
        self.limits, self.seed, self.same_frames = limits, seed, same_frames
        self.kinds = np.zeros_like(self.tokens) if kinds is None else np.asarray(kinds)
        self._ends = None if shards is None else np.cumsum(shards)
        self._num_windows = 1 if shards is None else max(1, len(shards) // window)
        self._start(pieces=1)

    def rows(self, index: int, piece: int = 0, pieces: int = 1) -> list[int]:
        """The rows of the `index`-th batch, counted through all epochs; of many pieces, those of one."""
        rows = self.whole(index, pieces)
        if pieces == 1:
            return rows
        return deal(rows, self.tokens[rows] + self.clips[rows] * self.frames[rows], pieces)[piece]

    def whole(self, index: int, pieces: int = 1) -> list[int]:
        """The rows of all pieces of a batch.

        There are at least `pieces` of them, if need be more than the limits allow, so that no piece is empty; otherwise
        batches are the same however many pieces they are cut into. ValueError where there are fewer rows of a kind than
        `pieces`; in one window of shards, those few are passed over. Going back starts from the first epoch.
        """
        if index < self._first or pieces != self._pieces:
            self._start(pieces)
        while index >= self._first + len(self._batches):
            self._first += len(self._batches)
            self._turn += 1
            self._batches = self._cut()
        return self._batches[index - self._first]

    def _start(self, pieces: int) -> None:
        self._turn, self._first, self._pieces = 0, 0, pieces  # a turn is an epoch, or a window of one
        self._batches: list[list[int]] = []
        self._batches = self._cut()

    def _cut(self) -> list[list[int]]:
        """One turn: its rows once, neighbours in length together, the batches in random order."""
        epoch, window = divmod(self._turn, self._num_windows)
        where = (epoch,) if self._ends is None else (epoch, window)
        random = np.random.default_rng(seed_of(self.seed, "epoch", *where))
        rows, batches = self._rows_of(epoch, window), []
        for kind in np.unique(self.kinds[rows]):
            alike = rows[self.kinds[rows] == kind]
            if len(alike) >= self._pieces:
                batches += self._filled(alike[self._order(alike, random)])
            elif self._ends is None:
                raise self._too_few(len(alike))
        if not batches:
            raise self._too_few(len(rows))
        return [batches[place] for place in random.permutation(len(batches))]

    def _too_few(self, num_rows: int) -> ValueError:
        what = "data set" if self._ends is None else "window of this data set's shards"
        several = len(np.unique(self.kinds)) > 1
        kind = " of one kind (with or without events, with or without a recording)" if several else ""
        return ValueError(
            f"a step is cut into {self._pieces} pieces, but there are only {num_rows} rows{kind} in a {what}; give it "
            "more, or lower micro_batches or the number of processes"
        )

    def _rows_of(self, epoch: int, window: int) -> np.ndarray:
        if self._ends is None:
            return np.arange(len(self.tokens))
        order = np.random.default_rng(seed_of(self.seed, "shards", epoch)).permutation(len(self._ends))
        shards, ends = np.array_split(order, self._num_windows)[window].tolist(), [0, *self._ends.tolist()]
        return np.concatenate([np.arange(ends[shard], ends[shard + 1]) for shard in shards])

    def _order(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        tokens, frames, clips = self.tokens[rows], self.frames[rows], self.clips[rows]
        if self.same_frames:
            return np.lexsort((random.random(len(rows)), frames))
        if self.limits.alike == "cost":
            return np.argsort((tokens + clips * frames) * _jitter(len(rows), random), kind="stable")
        # Strips of like tokens, as many as a strip has batches; in them by frames, to and fro, then by tokens.
        strips = max(1, round((len(rows) / self._rows_per_batch(tokens, frames * clips)) ** 0.5))
        about = tokens * _jitter(len(rows), random)
        strip = np.argsort(np.argsort(about, kind="stable")) * strips // len(rows)
        to_and_fro = np.where(strip % 2, -1, 1) * frames * _jitter(len(rows), random)
        return np.lexsort((about, to_and_fro, strip))

    def _rows_per_batch(self, tokens: np.ndarray, frames: np.ndarray) -> float:
        """About how many, by the mean row."""
        limits = self.limits
        by_tokens = limits.rows if limits.tokens is None else limits.tokens / max(tokens.mean(), 1)
        by_frames = limits.rows if limits.frames is None else limits.frames / max(frames.mean(), 1)
        return max(1.0, min(limits.rows, by_tokens, by_frames))

    def _filled(self, order: np.ndarray) -> list[list[int]]:
        """The rows in this order, a new batch wherever one more row would be too many."""
        limits = self.limits
        batches: list[list[int]] = [[]]
        columns = zip(order.tolist(), *(v[order].tolist() for v in (self.tokens, self.frames, self.clips)), strict=True)
        longest, most_frames, num_clips, last_frames = 0, 0, 0, 0
        for row, tokens, frames, clips in columns:
            num_rows = len(batches[-1]) + 1
            longest, most_frames, num_clips = max(longest, tokens), max(most_frames, frames), num_clips + clips
            fits = (
                num_rows <= limits.rows
                and (limits.tokens is None or num_rows * longest <= limits.tokens)
                and (limits.frames is None or num_clips * most_frames <= limits.frames)
                and (not self.same_frames or frames == last_frames)
            )
            if not fits and num_rows > self._pieces:
                batches.append([])
                longest, most_frames, num_clips = tokens, frames, clips
            batches[-1].append(row)
            last_frames = frames
        if len(batches[-1]) < self._pieces:  # what comes last is like what comes next to last
            last = batches.pop()
            batches[-1] += last
        return batches


def _jitter(size: int, random: np.random.Generator) -> np.ndarray:
    return 1 + LENGTH_JITTER * random.random(size)


def deal(rows: Sequence[int], costs: Sequence[int] | np.ndarray, pieces: int) -> list[list[int]]:
    """The rows in `pieces` parts of like cost, none empty, each of rows that are alike in cost.

    The rows are laid end to end from the cheapest to the dearest and cut at equal distances, each cut moved to the
    nearest row: no part costs more than its share and the dearest row. So [a, b, c, d] at [1, 1, 1, 3] in 2 parts is
    [[a, b, c], [d]]. Short rows come in larger numbers, and a part is padded to its own longest row only.
    """
    if len(rows) < pieces:
        raise ValueError(f"{len(rows)} rows cannot be dealt into {pieces} pieces; expected a row for each")
    order = np.argsort(costs, kind="stable")
    ends = np.cumsum(np.asarray(costs)[order])
    middles = (ends + np.concatenate(([0], ends[:-1]))) / 2
    cuts = np.searchsorted(middles, ends[-1] * np.arange(pieces + 1) / pieces).tolist()
    for piece in range(1, pieces):  # at least one row to each, and one left for each that follows
        cuts[piece] = min(max(cuts[piece], cuts[piece - 1] + 1), len(rows) - (pieces - piece))
    return [[rows[place] for place in order[first:end]] for first, end in pairwise([0, *cuts[1:pieces], len(rows)])]


class Mixture:
    """The batches of a run: that of a step comes from the source that lags most behind its share.

    After any number of steps each source has given its share of the batches, to within one batch. With two sources
    at {"listen": 2, "tell": 1} the order is listen, tell, listen, listen, tell, listen ...
    Item `step * pieces + piece` is one piece of the step's batch, so that all processes of a step run the same modules.
    """

    def __init__(self, sources: Mapping[str, Source], shares: Mapping[str, float], pieces: int = 1):
        unknown = sorted(set(shares) - set(sources))
        if unknown:
            raise ValueError(f"the mixture names {', '.join(unknown)}, the data has {', '.join(sources)}")
        if not shares or min(shares.values()) <= 0:
            raise ValueError(f"a mixture needs positive shares, not {dict(shares)}; leave out what is not wanted")
        self.sources = [sources[name] for name in shares]
        self.pieces = pieces
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

    def __getitem__(self, item: int) -> Any:
        step, piece = divmod(item, self.pieces)
        source, index = self.turn(step)
        return self.sources[source].batch(index, piece, self.pieces)
