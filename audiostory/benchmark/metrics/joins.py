"""How well one event goes over into the next: the step in level, the step in colour, and clicks.

Measured on the samples of a whole story with windows that are shorter than a usual fade, wherever in the fade the step
is largest: what is cut over at once is as far apart on both sides of some place as the events are, what is faded is so
nowhere. A step can be meant, as when thunder breaks in, so the events' own steps of the same kind stand beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Shaped

from audiostory.benchmark.intervals import Score, bootstrap

WINDOW = 0.1  # seconds on each side of a place, less the nearest hop, so that a cut between two places is seen in full
FRAME, HOP = 0.03, 0.01  # seconds; there is a place every hop, and frames are at least a hop away from it
SIDE = round((WINDOW - FRAME) / HOP)  # frames on a side
FLOOR = -60.0  # dBFS; what is quieter is silence, and all silences are alike
NUM_MELS, LOWEST, HIGHEST = 40, 50.0, 8000.0  # Hz; the same bands for every system that has at least 16 kHz
RANGE = 60.0  # dB from the loudest band of a story down to silence
NEAR, GAP = 0.05, 0.002  # seconds; a click is a lone step, so the steps around it are looked at from a gap on
CLICK = 4.0  # times the largest step around; 1 % of places inside events of the sound world reach this, by onsets
QUIETEST = 2.5e-4  # of full scale; the steps around a click count as no less, so over silence it takes 1e-3


@dataclass(frozen=True, kw_only=True)
class Join:
    """`level_step` and `colour_step` in dB, the largest in the fade; `level_inside` and `colour_inside` the medians of
    the largest in as long a stretch of the story's events (NaN where none is long enough to tell); `click` the largest
    step from sample to sample near the join over the largest around it."""

    level_step: float
    level_inside: float
    colour_step: float
    colour_inside: float
    click: float


def measure_joins(
    samples: Shaped[np.ndarray, "C W"], sample_rate: int, joins: Sequence[float], fade_seconds: float = 0.0
) -> list[Join | None]:
    """One entry per join, given by the time at which the new event begins. It is looked at from then on for
    `fade_seconds`, which may be longer than the fade is: give all systems the same, such as the longest fade of any.

    None for a join with less than `WINDOW` of sound on a side, such as one that a system which stopped early never
    reached. ValueError for samples that are not [channels, samples], and a rate whose bands would be empty.
    """
    if samples.ndim != 2:
        raise ValueError(f"joins are measured on samples [channels, samples]; got {list(samples.shape)}")
    if sample_rate < 8000:
        raise ValueError(f"at {sample_rate} Hz there are too few frequencies to compare; give 8000 Hz or more")
    mono = samples.mean(0, dtype=np.float64)
    steps, seconds = _steps(mono, sample_rate), len(mono) / sample_rate
    level_inside, colour_inside = _inside(steps, joins, fade_seconds, seconds)
    measured: list[Join | None] = []
    for join in joins:
        around = steps[math.floor(join / HOP) : math.ceil((join + fade_seconds) / HOP) + 1]
        around = around[np.isfinite(around).all(-1)]
        if join < WINDOW or not len(around):
            measured.append(None)
            continue
        level, colour = around.max(0).tolist()
        measured.append(
            Join(
                level_step=level,
                level_inside=level_inside,
                colour_step=colour,
                colour_inside=colour_inside,
                click=_click(mono, sample_rate, join, join + fade_seconds),
            )
        )
    return measured


def score_joins(stories: Sequence[Sequence[Join | None]]) -> dict[str, Score]:
    """Means over all joins that could be measured, and over the share of them that clicks. Beside each step stands how
    much it is larger than those inside the events: below 0 where a join is smoother than what it joins."""
    known = [[join for join in joins if join is not None] for joins in stories]
    return {
        "level step at joins (dB)": bootstrap([join.level_step for join in joins] for joins in known),
        "level step at joins, beyond the events' own (dB)": bootstrap(
            [join.level_step - join.level_inside for join in joins if np.isfinite(join.level_inside)] for joins in known
        ),
        "colour step at joins (dB)": bootstrap([join.colour_step for join in joins] for joins in known),
        "colour step at joins, beyond the events' own (dB)": bootstrap(
            [join.colour_step - join.colour_inside for join in joins if np.isfinite(join.colour_inside)]
            for joins in known
        ),
        "joins that click": bootstrap([join.click > CLICK for join in joins] for joins in known),
    }


def _steps(mono: Float[np.ndarray, W], sample_rate: int) -> Float[np.ndarray, "P 2"]:
    """The steps in level and in colour at every hop of the sound, NaN where a side is not whole."""
    power, bands = _frames(mono, sample_rate)
    steps = np.full((len(power) + round(FRAME / HOP), 2), np.nan)
    first = round(WINDOW / HOP)  # the first place with a whole side before it, in which `first` hops lie
    apart = first + 1  # frames from the first one of the side before a place to the first one of that behind it
    if len(power) < apart + SIDE:
        return steps
    level = 10 * np.log10(np.maximum(_means(power[:, None]), 10 ** (FLOOR / 10)))
    colour = 10 * np.log10(_means(bands) / max(float(bands.max()), 1e-10) + 10 ** (-RANGE / 10))
    colour -= colour.mean(-1, keepdims=True)  # what all bands have in common is told of as the level
    differences = [level[apart:] - level[:-apart], colour[apart:] - colour[:-apart]]
    found = np.stack([np.sqrt(np.square(difference).mean(-1)) for difference in differences], axis=-1)
    steps[first : first + len(found)] = found
    return steps


def _inside(
    steps: Float[np.ndarray, "P 2"], joins: Sequence[float], fade_seconds: float, seconds: float
) -> tuple[float, float]:
    """The medians of the largest steps in stretches as long as a join's whose windows lie in one event."""
    num = math.ceil(fade_seconds / HOP) + 1
    begins, ends = [0.0, *(join + fade_seconds for join in joins)], [*joins, seconds]
    largest = [np.empty((0, 2))]
    for begin, end in zip(begins, ends, strict=True):
        own = steps[math.ceil((begin + WINDOW) / HOP) : max(0, math.floor((end - WINDOW) / HOP) + 1)]
        own = own[np.isfinite(own).all(-1)]
        if len(own) >= num:
            largest.append(np.lib.stride_tricks.sliding_window_view(own, num, axis=0).max(-1))
    found = np.concatenate(largest)
    return tuple(np.median(found, axis=0).tolist()) if len(found) else (math.nan, math.nan)


def _frames(mono: Float[np.ndarray, W], sample_rate: int) -> tuple[Float[np.ndarray, F], Float[np.ndarray, "F K"]]:
    """The power of the frames that begin every hop, of their samples and in mel bands."""
    length, hop = round(FRAME * sample_rate), HOP * sample_rate
    begins = np.floor(np.arange(max(0, math.floor((len(mono) - length) / hop) + 1)) * hop).astype(int)
    window, bank = np.hanning(length), _mel_bank(sample_rate, length)
    power, bands = np.empty(len(begins)), np.empty((len(begins), NUM_MELS))
    for first in range(0, len(begins), 1024):  # all frames of a long story at once would take a GB
        frames = mono[begins[first : first + 1024, None] + np.arange(length)]
        power[first : first + 1024] = np.square(frames).mean(-1)
        bands[first : first + 1024] = np.abs(np.fft.rfft(frames * window)) ** 2 @ bank.T
    return power, bands


def _means(frames: Float[np.ndarray, "F K"]) -> Float[np.ndarray, "G K"]:
    """Over the frames of a side, from each frame on."""
    return np.lib.stride_tricks.sliding_window_view(frames, SIDE, axis=0).mean(-1)


@cache
def _mel_bank(sample_rate: int, length: int) -> Float[np.ndarray, "K Q"]:
    from librosa.filters import mel

    return mel(sr=sample_rate, n_fft=length, n_mels=NUM_MELS, fmin=LOWEST, fmax=min(HIGHEST, sample_rate / 2))


def _click(mono: Float[np.ndarray, W], sample_rate: int, begin: float, end: float) -> float:
    """The largest ratio, in the fade and a gap around it, of a step from sample to sample and the largest one near it,
    on both of its sides: an onset has large steps behind it, and an end before it, a click has neither."""
    from scipy.ndimage import maximum_filter1d

    gap, near = max(1, round(GAP * sample_rate)), round(NEAR * sample_rate)
    first = max(0, round(begin * sample_rate) - gap - near)
    steps = np.abs(np.diff(mono[first : round(end * sample_rate) + gap + near + 1]))
    size = near - gap
    around = maximum_filter1d(np.pad(steps, near), size, origin=-(size // 2))  # [i] is the largest of `size` from i on
    before, after = around[: len(steps)], around[near + gap + 1 : near + gap + 1 + len(steps)]
    after = np.pad(after, (0, len(steps) - len(after)))
    ratios = steps / np.maximum(np.maximum(before, after), QUIETEST)
    return float(ratios[near : max(near + 1, len(ratios) - near)].max())
