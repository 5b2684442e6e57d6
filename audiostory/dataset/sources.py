"""Data sets, one class per kind of batch. Each makes its n-th batch from the seed and n alone, whoever asks and when.

`Stories` feeds the planner and all that follows it, `Clips` the text-to-audio training, `Crops` the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import Tensor

from audiostory.dataset import batch, sample
from audiostory.dataset.manifest import Damage, Manifest
from audiostory.dataset.mixture import BatchLimits, BatchPlan, seed_of
from audiostory.dataset.rows import DamagedSampleError, Rows, Stored
from audiostory.dataset.shards import ShardSet
from audiostory.dataset.store import Store, StoreError
from audiostory.model.inputs import ClipBatch, StoryBatch, WaveformBatch
from audiostory.story.types import Layout
from audiostory.story.vocabulary import Vocabulary

Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
T = TypeVar("T")

MOST_TRIES = 100


class Stories:
    """Whole rows, of a manifest and its store or of a set of shards, which brings its own tensors.

    `store` is None for batches that teach the planner's words alone. A sample that cannot be read is named, counted and
    replaced by another of its batch.
    """

    def __init__(
        self,
        rows: Manifest | ShardSet,
        vocabulary: Vocabulary,
        store: Store | ShardSet | None,
        limits: BatchLimits,
        *,
        seed: int,
        latents: bool = True,
        teacher: bool = True,
        clip_features: bool = False,
        layout: Layout = Layout(),  # noqa: B008  # frozen
        damaged_share: float = 0.01,
    ):
        self.vocabulary, self.layout = vocabulary, layout
        self.latents, self.teacher = latents and store is not None, teacher and store is not None
        self.clip_features = clip_features and store is not None
        self.rows = _rows(rows, store, self.latents, damaged_share, clip_features=self.clip_features)
        lengths, bridge = self.rows.lengths, len(vocabulary.semantic_block) + len(vocabulary.residual_block)
        # Nearly the tokens of each script; writing every one to know them exactly would take minutes.
        tokens = self.rows.words(vocabulary) + (bridge + 30) * lengths.clips + 50
        self.plan = BatchPlan(
            tokens=tokens + lengths.num_listening * lengths.windows,
            frames=lengths.longest() if self.latents else np.zeros_like(tokens),
            clips=lengths.clips,
            limits=limits,
            seed=seed,
            kinds=2 * (lengths.clips > 0) + (lengths.windows > 0),
            shards=lengths.shards,
        )
        self._readable = Readable(self.rows.path, self.plan, seed, damaged_share)

    def batch(self, index: int, piece: int = 0, pieces: int = 1) -> StoryBatch:
        return batch.collate(self._readable.samples(index, piece, pieces, self._sample))

    def _sample(self, number: int) -> sample.Sample:
        row, tensors = self.rows.read(number)
        try:
            return sample.build(
                row,
                self.vocabulary,
                tensors,
                latents=self.latents,
                teacher=self.teacher,
                clip_features=self.clip_features,
                layout=self.layout,
            )
        except ValueError as error:  # a text that no script can hold, a tensor that is damaged
            raise DamagedSampleError(f"row {row.id}: {error}") from error


class Clips:
    """Single events with their captions; all clips of a batch are equally long, so nothing is padded.

    Nothing but what cannot be helped: a batch in many pieces takes in the next longer clips when its own are too few.
    """

    def __init__(
        self,
        rows: Manifest | ShardSet,
        tokenize: Tokenize,
        store: Store | ShardSet,
        limits: BatchLimits,
        *,
        seed: int,
        damaged_share: float = 0.01,
    ):
        self.tokenize = tokenize
        self.rows = _rows(rows, store, True, damaged_share)
        lengths = self.rows.lengths
        firsts = np.cumsum(lengths.clips) - lengths.clips
        self.row_of = np.repeat(np.arange(len(firsts)), lengths.clips)
        self.event_of = np.arange(len(self.row_of)) - np.repeat(firsts, lengths.clips)
        ones = np.ones(len(self.row_of))
        self.plan = BatchPlan(
            tokens=ones,
            frames=lengths.frames,
            clips=ones,
            limits=limits,
            seed=seed,
            same_frames=True,
            shards=None if lengths.shards is None else _sums(lengths.clips, lengths.shards),
        )
        self._readable = Readable(self.rows.path, self.plan, seed, damaged_share)

    def batch(self, index: int, piece: int = 0, pieces: int = 1) -> ClipBatch:
        chosen = self._readable.samples(index, piece, pieces, self._sample)
        return batch.collate_clips([one for one, _ in chosen], *self.tokenize([caption for _, caption in chosen]))

    def _sample(self, number: int) -> tuple[sample.ClipSample, str]:
        event = int(self.event_of[number])
        row, tensors = self.rows.read(int(self.row_of[number]))
        assert tensors is not None
        key = row.clip_key(event)
        try:
            latents = tensors.latents(key)
        except StoreError as error:
            raise DamagedSampleError(f"row {row.id}: {error}") from error
        made = sample.ClipSample(id=key, seconds=row.clips[event].seconds, latents=latents)
        return made, row.storyline.events[event].caption


class Crops:
    """Random pieces of the events' recordings. One that cannot be read is named, counted and replaced by another."""

    def __init__(
        self,
        manifest: Manifest,
        limits: BatchLimits,
        *,
        sample_rate: int,
        audio_channels: int,
        seed: int,
        damaged_share: float = 0.01,
    ):
        self.clips = [(row, i) for row in manifest.rows for i, clip in enumerate(row.clips) if clip.audio is not None]
        if not self.clips:
            raise ValueError(f"no row of {manifest.path} has a recording, so there is nothing for the codec to learn")
        self.limits, self.sample_rate, self.audio_channels, self.seed = limits, sample_rate, audio_channels, seed
        self.damage = Damage(manifest.path, share=damaged_share, allowed=3)
        self.num_seen = 0

    def batch(self, index: int, piece: int = 0, pieces: int = 1) -> WaveformBatch:
        """The whole batch is drawn at once; a piece reads its share of it, crops with numbers next to each other."""
        if pieces > self.limits.rows:
            raise ValueError(
                f"a step is cut into {pieces} pieces, but a batch has only {self.limits.rows} crops; raise batch.rows"
            )
        random = np.random.default_rng(seed_of(self.seed, "crops", index))
        drawn = [(int(random.integers(len(self.clips))), random.random()) for _ in range(self.limits.rows)]
        first, end = (self.limits.rows * cut // pieces for cut in (piece, piece + 1))
        return batch.collate_crops([self._crop(index, number, *drawn[number]) for number in range(first, end)])

    def _crop(self, index: int, number: int, clip: int, place: float) -> sample.Crop:
        """A crop, or one of another clip where this one cannot be read: the same ones whoever makes the batch."""
        instead = None
        while True:
            row, event = self.clips[clip]
            self.num_seen += 1
            try:
                return sample.crop(
                    row,
                    event,
                    seconds=self.limits.crop_seconds,
                    sample_rate=self.sample_rate,
                    audio_channels=self.audio_channels,
                    place=place,
                )
            except (OSError, ValueError) as error:
                self.damage.note(row.clip_key(event), error)
                self.damage.check(self.num_seen)
            instead = instead or np.random.default_rng(seed_of(self.seed, "crops", index, "instead of", number))
            clip, place = int(instead.integers(len(self.clips))), instead.random()


class Readable:
    """The samples of a batch, each that cannot be read replaced by another, so that batches keep their size.

    The other one is of the same batch if that has any, and the same whoever reads it. ValueError once more than
    `damaged_share` of the samples seen could not be read.
    """

    def __init__(self, path: Path, plan: BatchPlan, seed: int, damaged_share: float):
        self.plan, self.seed = plan, seed
        self.damage = Damage(path, share=damaged_share, allowed=3)
        self.num_seen = 0
        self._damaged: set[int] = set()

    def samples(self, index: int, piece: int, pieces: int, make: Callable[[int], T]) -> list[T]:
        """`make` of each row of a batch, or of the piece."""
        return [self._sample(number, index, pieces, make) for number in self.plan.rows(index, piece, pieces)]

    def _sample(self, number: int, index: int, pieces: int, make: Callable[[int], T]) -> T:
        if (found := self._try(number, make)) is not None:
            return found
        random = np.random.default_rng(seed_of(self.seed, "instead of", index, number))
        whole = random.permutation(self.plan.whole(index, pieces)).tolist()
        for other in (*whole, *random.integers(len(self.plan.tokens), size=MOST_TRIES).tolist()):
            if (found := self._try(other, make)) is not None:
                return found
        raise ValueError(f"{self.damage.source}: no sample could be found that can be read; write the corpus again")

    def _try(self, number: int, make: Callable[[int], T]) -> T | None:
        if number in self._damaged:
            return None
        self.num_seen += 1
        try:
            return make(number)
        except DamagedSampleError as error:
            self._damaged.add(number)
            self.damage.note(f"sample {number}", error)
            self.damage.check(min(self.num_seen, len(self.plan.tokens)))
            return None


def _rows(
    rows: Manifest | ShardSet,
    store: Store | ShardSet | None,
    latents: bool,
    damaged_share: float,
    clip_features: bool = False,
) -> Rows:
    if isinstance(rows, ShardSet):
        return rows
    assert not isinstance(store, ShardSet)
    return Stored(rows, store, latents=latents, clip_features=clip_features, damaged_share=damaged_share)


def _sums(values: np.ndarray, sizes: Sequence[int]) -> list[int]:
    """Of so many values after each other."""
    ends = np.concatenate(([0], np.cumsum(values)))[np.cumsum((0, *sizes))]
    return np.diff(ends).tolist()
