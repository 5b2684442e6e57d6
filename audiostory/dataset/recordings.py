"""Windows of several events, made from single ones: what the audio encoder's pre-training eats (`model.hearing`).

A window is laid around one clip that is whole in it, or fills it: to both sides other clips follow, each cross-faded
into its neighbour or parted from it by silence, until the window is full. So a few thousand single events give windows
without end, and when each event is heard is known to the sample.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audiostory.dataset import batch, sample
from audiostory.dataset.manifest import Damage, Manifest
from audiostory.dataset.mixture import BatchLimits, seed_of
from audiostory.dataset.sample import HeardEvent, Window
from audiostory.model.inputs import HearingBatch

Tokenize = Callable[[Sequence[str]], tuple[Tensor, Tensor]]

FADE_SECONDS = 0.3
LONGEST_GAP_SECONDS = 1.5
GAP_SHARE = 0.5  # of the clips are parted from their neighbour by silence, the others cross-faded
LEVEL_DB = 1.5  # up or down: captions tell how loud a sound is, and stay true
FITTING_SHARE = 0.7  # of the clips are chosen to fit into what is left of the window
WHOLE_SHARE = 0.8  # of a clip must be heard for its caption to be true; one that is cut further goes unnamed


class Recordings:
    """Random windows with their events. A clip that cannot be read is named, counted and replaced by another.

    `log_mel` and `tokenize` are the encoders' own; a batch has `limits.rows` windows.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenize: Tokenize,
        log_mel: Callable[[Tensor], Tensor],
        limits: BatchLimits,
        *,
        sample_rate: int,
        window_seconds: float,
        seed: int,
        damaged_share: float = 0.01,
    ):
        clips = [(row, i) for row in manifest.rows for i, clip in enumerate(row.clips) if clip.audio is not None]
        if not clips:
            raise ValueError(f"no row of {manifest.path} has a recording, so there is nothing to learn to hear from")
        self.clips = sorted(clips, key=lambda place: place[0].clips[place[1]].seconds)
        self.seconds = [row.clips[event].seconds for row, event in self.clips]
        self.tokenize, self.log_mel, self.limits, self.seed = tokenize, log_mel, limits, seed
        self.sample_rate, self.window_samples = sample_rate, round(window_seconds * sample_rate)
        self.damage = Damage(manifest.path, share=damaged_share, allowed=3)
        self.num_seen = 0

    def batch(self, index: int, piece: int = 0, pieces: int = 1) -> HearingBatch:
        """The windows of a batch are drawn each by itself; a piece has those with numbers next to each other."""
        rows = self.limits.rows
        if pieces > rows:
            raise ValueError(
                f"a step is cut into {pieces} pieces, but a batch has only {rows} windows; raise batch.rows"
            )
        numbers = range(rows * piece // pieces, rows * (piece + 1) // pieces)
        windows = [self.window(np.random.default_rng(seed_of(self.seed, "window", index, n))) for n in numbers]
        captions = [event.caption for window in windows for event in window.events]
        log_mel = self.log_mel(torch.stack([torch.from_numpy(window.samples) for window in windows]))
        return batch.collate_hearing(windows, log_mel, *self.tokenize(captions))

    def window(self, random: np.random.Generator) -> Window:
        """One window, and the events that are whole in it, in order."""
        samples = np.zeros(self.window_samples, dtype=np.float32)
        events: list[HeardEvent] = []

        def lay(clip: _Clip, start: int) -> int:
            """Adds what of a clip that begins at `start` lies within the window; returns the clip's end."""
            end = start + len(clip.samples)
            first, last = max(start, 0), min(end, len(samples))
            samples[first:last] += clip.samples[first - start : last - start]
            if last - first >= WHOLE_SHARE * min(len(clip.samples), len(samples)):
                span = {"start": first / self.sample_rate, "end": last / self.sample_rate}
                events.append(HeardEvent(id=clip.id, caption=clip.caption, **span))
            return end

        clip = self._clip(random)
        spare = len(samples) - len(clip.samples)
        begin = int(random.integers(min(spare, 0), max(spare, 0) + 1))
        end = lay(clip, begin)
        while (start := end + self._gap(random)) < len(samples):
            end = lay(self._clip(random, room=len(samples) - start), start)
        while (end := begin - self._gap(random)) > 0:
            clip = self._clip(random, room=end)
            begin = end - len(clip.samples)
            lay(clip, begin)
        return Window(samples=samples, events=tuple(sorted(events, key=lambda event: event.start)))

    def _gap(self, random: np.random.Generator) -> int:
        """Samples from one clip to the next: silence, or less than none where they are cross-faded."""
        silence, drawn = random.random() < GAP_SHARE, random.random()
        return round((drawn * LONGEST_GAP_SECONDS if silence else -FADE_SECONDS) * self.sample_rate)

    def _clip(self, random: np.random.Generator, room: int | None = None) -> _Clip:
        """Any clip; or, in most cases, one that is whole in `room` samples."""
        fitting = 0 if room is None else bisect_right(self.seconds, room / self.sample_rate)
        some = fitting if fitting and random.random() < FITTING_SHARE else len(self.clips)
        while True:
            row, event = self.clips[random.integers(some)]
            gain = 10 ** (random.uniform(-LEVEL_DB, LEVEL_DB) / 20)
            clip, key = row.clips[event], row.clip_key(event)
            assert clip.audio is not None
            self.num_seen += 1
            try:
                whole = sample.read_samples(clip.audio, sample_rate=self.sample_rate, audio_channels=1)[0]
            except (OSError, ValueError) as error:
                self.damage.note(key, error)
                self.damage.check(self.num_seen)
                continue
            samples = whole[: round(clip.seconds * self.sample_rate)]
            fades = _fades(len(samples), round(FADE_SECONDS * self.sample_rate))
            return _Clip(
                id=key, caption=row.storyline.events[event].caption, samples=(gain * samples * fades).astype(np.float32)
            )


@dataclass(frozen=True, kw_only=True)
class _Clip:
    """Ready to be laid: at its level, its ends faded in and out."""

    id: str
    caption: str
    samples: Float[np.ndarray, S]


def _fades(num_samples: int, fade: int) -> Float[np.ndarray, S]:
    """Up from 0 and down to 0, over at most half of the samples each."""
    ramp = np.linspace(0, 1, min(fade, num_samples // 2), endpoint=False, dtype=np.float32)
    weights = np.ones(num_samples, dtype=np.float32)
    weights[: len(ramp)] = ramp
    weights[num_samples - len(ramp) :] = ramp[::-1]
    return weights
