"""A story in sound while it is still being planned: its parts, how they are joined, and where they go. No torch here.

    with streaming.to_wav(path, rate, channels) as play:
        for part in pipeline.stream("a dog barks twice, then rain comes down"):
            play(part.sound)

Each part is final: it ends where the next event begins to fade in, so what is held back is one fade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from audiostory.sound import Waveform
from audiostory.story import Event, Problem


@dataclass(frozen=True, kw_only=True)
class Part:
    """The story from an event's start to its end, and what was met on the way to it."""

    event: Event
    sound: Waveform
    problems: tuple[Problem, ...] = ()


class Joiner:
    """`timeline.join`, a clip at a time: what it gives one after the other is what `join` gives, to the last bit."""

    def __init__(self) -> None:
        self._tail: Waveform | None = None  # of the clip before, fading out under the next one

    def add(self, clip: Waveform, num_samples: int) -> Waveform:
        """The first `num_samples` of the next clip, with the end of the one before; what is left of it fades out under
        the clip that follows."""
        fade_in = 0 if self._tail is None else self._tail.num_samples
        weight = np.ones(clip.num_samples, dtype=np.float32)
        weight[:fade_in] *= np.linspace(0, 1, fade_in, dtype=np.float32)
        weight[num_samples:] *= np.linspace(1, 0, clip.num_samples - num_samples, dtype=np.float32)
        samples = weight * clip.samples
        if self._tail is not None:
            samples[:, :fade_in] += self._tail.samples
        self._tail = replace(clip, samples=samples[:, num_samples:].copy())
        return replace(clip, samples=samples[:, :num_samples])

    def end(self) -> Waveform:
        """What is left of the last clip when another was to follow and none came."""
        assert self._tail is not None, "there was a clip before"
        return self._tail


@contextmanager
def to_wav(path: Path, sample_rate: int, num_channels: int) -> Iterator[Callable[[Waveform], None]]:
    """A WAV (float32) that grows by every sound it is given, and is whole when the context ends, however it ends."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", sample_rate, num_channels, "FLOAT", format="WAV") as file:

        def play(sound: Waveform) -> None:
            file.write(sound.samples.T)
            file.flush()

        yield play


def to_pcm(stream: BinaryIO, sound: Waveform) -> None:
    """Raw samples, float32, little-endian, channels interleaved, for a player that reads from a pipe."""
    stream.write(sound.samples.T.astype("<f4").tobytes())
    stream.flush()
