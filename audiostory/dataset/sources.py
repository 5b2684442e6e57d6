"""Data sets, one class per kind of batch. Each makes its n-th batch from the seed and n alone, whoever asks and when.

`Stories` feeds the planner and all that follows it, `Clips` the text-to-audio training, `Crops` the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from audiostory.dataset import batch, sample
from audiostory.dataset.manifest import Damage, Manifest, Row
from audiostory.dataset.mixture import BatchLimits, BatchPlan, seed_of
from audiostory.dataset.store import Store
from audiostory.model.inputs import ClipBatch, StoryBatch, WaveformBatch
from audiostory.story.types import Storyline
from audiostory.story.vocabulary import Vocabulary

Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]


class Stories:
    """Whole rows. `store` is None for batches that teach the planner's words alone."""

    def __init__(
        self,
        manifest: Manifest,
        vocabulary: Vocabulary,
        store: Store | None,
        limits: BatchLimits,
        *,
        seed: int,
        latents: bool = True,
        teacher: bool = True,
        damaged_share: float = 0.01,
    ):
        self.vocabulary, self.store, self.latents, self.teacher = vocabulary, store, latents, teacher
        self.rows = _encoded_rows(manifest, store, damaged_share) if store and latents else manifest.rows
        longest = [_longest(row, store) if store and latents else 0 for row in self.rows]
        self.plan = BatchPlan(
            tokens=[_script_length(row, vocabulary) for row in self.rows],
            frames=longest,
            clips=[len(row.clips) for row in self.rows],
            limits=limits,
            seed=seed,
        )

    def batch(self, index: int) -> StoryBatch:
        samples = [
            sample.build(self.rows[row], self.vocabulary, self.store, latents=self.latents, teacher=self.teacher)
            for row in self.plan.rows(index)
        ]
        return batch.collate(samples)


class Clips:
    """Single events with their captions; all clips of a batch are equally long, so nothing is padded."""

    def __init__(
        self,
        manifest: Manifest,
        tokenize: Tokenize,
        store: Store,
        limits: BatchLimits,
        *,
        seed: int,
        damaged_share: float = 0.01,
    ):
        self.store, self.tokenize = store, tokenize
        rows = _encoded_rows(manifest, store, damaged_share)
        self.clips = [(row, event) for row in rows for event in range(len(row.clips))]
        frames = [store.num_frames(row.clip_key(event)) for row, event in self.clips]
        ones = [1] * len(self.clips)
        self.plan = BatchPlan(tokens=ones, frames=frames, clips=ones, limits=limits, seed=seed, same_frames=True)

    def batch(self, index: int) -> ClipBatch:
        chosen = [self.clips[place] for place in self.plan.rows(index)]
        captions = [row.storyline.events[event].caption for row, event in chosen]
        samples = [
            sample.ClipSample(
                id=row.clip_key(event),
                seconds=row.clips[event].seconds,
                latents=self.store.latents(row.clip_key(event)),
            )
            for row, event in chosen
        ]
        return batch.collate_clips(samples, *self.tokenize(captions))


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

    def batch(self, index: int) -> WaveformBatch:
        random = np.random.default_rng(seed_of(self.seed, "crops", index))
        crops: list[sample.Crop] = []
        while len(crops) < self.limits.rows:
            row, event = self.clips[random.integers(len(self.clips))]
            self.num_seen += 1
            try:
                crops.append(
                    sample.crop(
                        row,
                        event,
                        seconds=self.limits.crop_seconds,
                        sample_rate=self.sample_rate,
                        audio_channels=self.audio_channels,
                        place=random.random(),
                    )
                )
            except (OSError, ValueError) as error:
                self.damage.note(row.clip_key(event), error)
                self.damage.check(self.num_seen)
        return batch.collate_crops(crops)


def _encoded_rows(manifest: Manifest, store: Store, damaged_share: float) -> tuple[Row, ...]:
    """The rows all of whose events have latents."""
    damage = Damage(manifest.path, share=damaged_share)
    rows = []
    for row in manifest.rows:
        missing = [index for index in range(len(row.clips)) if not store.has_latents(row.clip_key(index))]
        if missing:
            damage.note(row.id, f"the store at {store.folder} has no latents of its event {missing[0]}")
        else:
            rows.append(row)
    damage.check(len(manifest.rows))
    return tuple(rows)


def _longest(row: Row, store: Store) -> int:
    return max(store.num_frames(row.clip_key(index)) for index in range(len(row.clips)))


def _script_length(row: Row, vocabulary: Vocabulary) -> int:
    """About how many tokens the row's script has. Writing every script to know it exactly would take minutes."""
    words = len(vocabulary.encode(f"{row.instruction.text} {_words(row.storyline)}"))
    bridge = len(vocabulary.semantic_block) + len(vocabulary.residual_block)
    return words + (bridge + 30) * len(row.clips) + 50


def _words(storyline: Storyline) -> str:
    """What a script says: captions stand in the reasoning and once more in their events."""
    events = (f"{e.caption} {e.caption} {e.story_detail} {e.sound_detail}" for e in storyline.events)
    return f"{storyline.summary} {' '.join(events)}"
