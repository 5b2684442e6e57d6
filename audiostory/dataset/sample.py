"""From a manifest row to what one row of a batch needs: script, latents, teacher states. The second hop of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from audiostory import sound
from audiostory.dataset.manifest import Row
from audiostory.dataset.store import Tensors
from audiostory.story import script
from audiostory.story.types import Layout, Script
from audiostory.story.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A script ready to be put in a batch: per event its clip's seconds, latents [T Z] and teacher states [M C], or
    what an audio encoder hears in its clip [M E].

    `bridge_sizes` are the numbers of semantic and residual tokens, which a script without events does not show.
    `features` are those of the recording that the instruction holds, by windows.
    """

    id: str
    script: Script
    seconds: tuple[float, ...]
    latents: tuple[Tensor, ...] | None
    teacher: tuple[Tensor, ...] | None
    bridge_sizes: tuple[int, int]
    features: Float[Tensor, "n K W"] | None = None
    clip_features: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ClipSample:
    """One event by itself, as text-to-audio training sees it."""

    id: str
    seconds: float
    latents: Float[Tensor, "T Z"]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A piece of a recording."""

    id: str
    samples: Float[np.ndarray, "A W"]


@dataclass(frozen=True, kw_only=True)
class HeardEvent:
    """An event inside a window: when it is heard, in seconds from the window's beginning."""

    id: str
    caption: str
    start: float
    end: float


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of sound with the events that are heard in it, as the audio encoder's pre-training sees it."""

    samples: Float[np.ndarray, W]
    events: tuple[HeardEvent, ...]


def build(
    row: Row,
    vocabulary: Vocabulary,
    store: Tensors | None,
    *,
    latents: bool = True,
    teacher: bool = True,
    clip_features: bool = False,
    layout: Layout = Layout(),  # noqa: B008  # frozen
) -> Sample:
    """A row with what its losses need; without a store there are neither latents nor teacher states.

    Its script is a story's, with a recording that of what follows it, or that of a question and its answer. ValueError
    for a row with a recording whose features the store does not have.
    """
    features = None
    if row.heard_key is not None:
        if store is None:
            raise ValueError(
                f"row {row.id} holds the recording {row.heard_key}, and there is no store with its features; make one "
                "with scripts/encode_latents.py --audio_encoder and name its folder in data.sources"
            )
        features = store.features(row.heard_key)
    num_listening = 0 if features is None else features.shape[0] * features.shape[1]
    if row.answer:
        reasoning = row.reasoning if layout.reasoning else ""
        written = script.write_answer(row.instruction, row.answer, vocabulary, num_listening, reasoning)
    else:
        written = script.write(row.instruction, row.storyline, vocabulary, num_listening=num_listening, layout=layout)
    events = row.storyline.events
    keys = [row.clip_key(index) for index in range(len(events))]
    return Sample(
        id=row.id,
        script=written,
        seconds=tuple(clip.seconds for clip in row.clips),
        latents=tuple(store.latents(key) for key in keys) if store and latents else None,
        teacher=tuple(store.teacher(event.caption) for event in events) if store and teacher else None,
        bridge_sizes=(len(vocabulary.semantic_ids), len(vocabulary.residual_ids)),
        features=features,
        clip_features=tuple(store.clip_features(key) for key in keys) if store and clip_features else None,
    )


def crop(row: Row, index: int, *, seconds: float, sample_rate: int, audio_channels: int, place: float) -> Crop:
    """`seconds` of an event's recording; `place` in [0, 1) says from where. A shorter recording ends in silence."""
    path = row.clips[index].audio
    if path is None:
        raise ValueError("the event has no recording")
    samples = read_samples(path, sample_rate=sample_rate, audio_channels=audio_channels)
    length = round(seconds * sample_rate)
    spare = samples.shape[1] - length
    first = int(place * (spare + 1)) if spare > 0 else 0
    piece = samples[:, first : first + length]
    return Crop(id=row.clip_key(index), samples=np.pad(piece, ((0, 0), (0, length - piece.shape[1]))))


def read_samples(path: Path, *, sample_rate: int, audio_channels: int) -> Float[np.ndarray, "A W"]:
    """A recording as the codec wants it; ValueError or OSError when it cannot be read."""
    waveform = sound.read(path)
    if waveform.sample_rate != sample_rate:
        waveform = sound.resample(waveform, sample_rate)
    samples = waveform.samples
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} holds values that are not finite")
    if len(samples) != audio_channels:
        samples = np.repeat(samples.mean(0, keepdims=True), audio_channels, axis=0)
    return samples
