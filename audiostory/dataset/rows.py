"""A data set's rows by number, whatever they lie in: how long each is, known unread, and each with its tensors.

`Stored` is a manifest with its store; `shards.ShardSet` holds both in tar files. `sources` makes batches of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from audiostory.dataset.manifest import Damage, Manifest, Row
from audiostory.dataset.store import Store, Tensors
from audiostory.story.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Of all rows. `clips` are their numbers of events, `windows` those of the recordings that instructions hold.

    `frames` has one number per event, row after row: latent frames, 0 where there are no latents. A window is heard at
    `num_listening` tokens. `shards` are the numbers of rows that lie together, None where all are equally near.
    """

    clips: np.ndarray
    windows: np.ndarray
    frames: np.ndarray
    num_listening: int
    shards: tuple[int, ...] | None

    def longest(self) -> np.ndarray:
        """Per row, the frames of its longest event; 0 for a row without."""
        found = np.zeros(len(self.clips), dtype=np.int64)
        holding = self.clips > 0
        if holding.any():
            found[holding] = np.maximum.reduceat(self.frames, (np.cumsum(self.clips) - self.clips)[holding])
        return found


class Rows(Protocol):
    """What a source asks of its data."""

    @property
    def path(self) -> Path: ...

    @property
    def lengths(self) -> Lengths: ...

    def words(self, vocabulary: Vocabulary) -> np.ndarray:
        """How many tokens the texts of each row have."""
        ...

    def read(self, number: int) -> tuple[Row, Tensors | None]:
        """A row with its tensors. DamagedSampleError when it cannot be read and another may stand in for it."""
        ...


class DamagedSampleError(ValueError):
    """A sample that cannot be read: one is left out, many are an error."""


class Stored:
    """The rows of a manifest for which a store has all that is wanted; without a store, their words alone.

    ValueError when more than `damaged_share` of them lack something, or when there are recordings to be heard and
    nothing was listened to.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Store | None,
        *,
        latents: bool,
        clip_features: bool = False,
        damaged_share: float,
    ):
        self.path, self.store = manifest.path, store
        if any(row.heard_key is not None for row in manifest.rows) and not (store and store.has_audio_encoder):
            raise ValueError(
                f"{manifest.path} has recordings that are listened to, and there are no features of them; run "
                "scripts/encode_latents.py with --audio_encoder and name its folder in data.sources"
            )
        self.rows = _complete(manifest, store, latents, clip_features, damaged_share) if store else manifest.rows
        encoded = store if latents else None
        frames = [
            encoded.num_frames(row.clip_key(event)) if encoded else 0
            for row in self.rows
            for event in range(len(row.clips))
        ]
        windows = [store.num_windows(row.heard_key) if store and row.heard_key else 0 for row in self.rows]
        self.lengths = Lengths(
            clips=np.array([len(row.clips) for row in self.rows], dtype=np.int64),
            windows=np.array(windows, dtype=np.int64),
            frames=np.array(frames, dtype=np.int64),
            num_listening=store.num_listening if store else 0,
            shards=None,
        )

    def words(self, vocabulary: Vocabulary) -> np.ndarray:
        return np.array([len(vocabulary.encode(words(row))) for row in self.rows], dtype=np.int64)

    def read(self, number: int) -> tuple[Row, Store | None]:
        return self.rows[number], self.store


def words(row: Row) -> str:
    """What a row's script says: captions stand in the reasoning and once more in their events."""
    events = (f"{e.caption} {e.caption} {e.story_detail} {e.sound_detail}" for e in row.storyline.events)
    said = f"{row.reasoning} {row.answer}" if row.answer else f"{row.storyline.summary} {' '.join(events)}"
    return f"{row.instruction.text} {said}"


def _complete(
    manifest: Manifest, store: Store, latents: bool, clip_features: bool, damaged_share: float
) -> tuple[Row, ...]:
    """The rows that lack nothing."""
    damage = Damage(manifest.path, share=damaged_share)
    rows = []
    for row in manifest.rows:
        keys = [row.clip_key(i) for i in range(len(row.clips))]
        if latents and (missing := [key for key in keys if not store.has_latents(key)]):
            damage.note(row.id, f"the store at {store.folder} has no latents of its event {missing[0]}")
        elif clip_features and (missing := [key for key in keys if not store.has_clip_features(key)]):
            damage.note(row.id, f"the store at {store.folder} has no features of its event {missing[0]}")
        elif row.heard_key is not None and not store.has_features(row.heard_key):
            damage.note(row.id, f"the store at {store.folder} has no features of its recording {row.heard_key}")
        else:
            rows.append(row)
    damage.check(len(manifest.rows))
    return tuple(rows)
