"""Where the clips of a story lie in time: events are cut into clips before rendering, and clips are joined after it.

Every clip but the last sounds on for a fade under the next one. Boundaries are rounded to samples, not lengths, so a
story of `total` seconds has round(total * rate) samples whatever its events are. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from audiostory.sound import Waveform


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is rendered in one go: an event, or one of the equal parts of an event that is longer than a clip may be.

    `seconds` run until the next clip begins; `fade_seconds` more sound under it.
    """

    event: int
    part: int
    start: float
    seconds: float
    fade_seconds: float

    @property
    def end(self) -> float:
        return self.start + self.seconds  # to the last bit the start of the next clip

    def num_samples(self, sample_rate: int) -> int:
        return span(self.start, self.end, sample_rate) + math.floor(self.fade_seconds * sample_rate + 1e-6)


def cut(
    seconds: Sequence[float], *, max_clip_seconds: float, crossfade_seconds: float, whole_fades: bool = False
) -> tuple[Clip, ...]:
    """The clips of events that last `seconds` each. A fade takes at most half of the shorter of its two clips, unless
    `whole_fades`, with which every clip but the last is longer by `crossfade_seconds`, as in the release (SPEC 8).

    cut([4.0, 30.0], max_clip_seconds=12.5, crossfade_seconds=0.5)   # 4.0 + 0.5, 10.0 + 0.5, 10.0 + 0.5, 10.0 + 0.0
    """
    longest = max_clip_seconds - crossfade_seconds
    num_parts = [max(1, math.ceil(length / longest - 1e-9)) for length in seconds]
    places = [(event, part) for event, count in enumerate(num_parts) for part in range(count)]
    lengths = [seconds[event] / num_parts[event] for event, _ in places]
    most = math.inf if whole_fades else 0.5
    fades = [min(crossfade_seconds, this * most, following * most) for this, following in pairwise(lengths)]
    starts = accumulate(lengths, initial=0.0)
    return tuple(
        Clip(event=event, part=part, start=start, seconds=length, fade_seconds=fade)
        for (event, part), start, length, fade in zip(places, starts, lengths, [*fades, 0.0], strict=False)
    )


def join(clips: Sequence[Waveform], begins: Sequence[int]) -> Waveform:
    """Clips at their places in samples; where one reaches into the next, it fades out linearly as the next fades in.

    The result begins with the first clip and ends with the last. A fade may not reach past the next clip's successor's
    beginning, which `cut` sees to.
    """
    origin = begins[0]
    ends = [begin + clip.samples.shape[-1] for clip, begin in zip(clips, begins, strict=True)]
    joined = np.zeros((clips[0].samples.shape[0], ends[-1] - origin), dtype=np.float32)
    fades = [0, *(max(0, end - begin) for end, begin in zip(ends, begins[1:], strict=False)), 0]
    for clip, begin, end, (fade_in, fade_out) in zip(clips, begins, ends, pairwise(fades), strict=True):
        weight = np.ones(end - begin, dtype=np.float32)
        weight[:fade_in] *= np.linspace(0, 1, fade_in, dtype=np.float32)
        weight[end - begin - fade_out :] *= np.linspace(1, 0, fade_out, dtype=np.float32)
        joined[:, begin - origin : end - origin] += weight * clip.samples
    return Waveform(samples=joined, sample_rate=clips[0].sample_rate)


def fit(waveform: Waveform, num_samples: int) -> Waveform:
    """The waveform cut to `num_samples`, or with its last sample held for the one or two that rounding left out."""
    samples = waveform.samples[:, :num_samples]
    missing = num_samples - samples.shape[1]
    return Waveform(samples=np.pad(samples, ((0, 0), (0, missing)), mode="edge"), sample_rate=waveform.sample_rate)


def place(seconds: float, sample_rate: int) -> int:
    """The sample nearest to a time, halves up. Python rounds halves to even, so equal distances could differ by two."""
    return math.floor(seconds * sample_rate + 0.5)


def span(start: float, end: float, sample_rate: int) -> int:
    return place(end, sample_rate) - place(start, sample_rate)
