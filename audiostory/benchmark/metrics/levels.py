"""How loud a recording is, and how much of it is silent or clipped. A system that writes silence scores well on more
than one learnt distance (EVAL 3), so these stand beside every table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from audiostory.benchmark.intervals import Score, bootstrap

SILENCE = -60.0  # dBFS; a frame whose root mean square lies below is silent
FRAME = 0.05  # seconds
FULL_SCALE = 0.999  # the highest sample that 16 bits can write is 0.99997
GATE = -70.0  # LUFS; where the meter of BS.1770 hears nothing any more
SHORTEST = 0.4  # seconds; one block of that meter
MOST_CHANNELS = 5  # that it knows how to weigh
LEVELS = ("silent (share of time)", "clipped (share of samples)", "loudness (LUFS)")


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Shares from 0 to 1. `loudness` in LUFS (ITU-R BS.1770-4, integrated), no less than `GATE`; None where a recording
    is too short for it."""

    silent: float
    clipped: float
    loudness: float | None


def measure_levels(samples: Shaped[np.ndarray, "C W"], sample_rate: int) -> Levels:
    """Of one recording with full scale at 1. A frame is silent when all channels together are; mono is as loud as it
    would be from one of two loudspeakers, 3 LU less than from both. ValueError for other shapes or no samples."""
    if samples.ndim != 2 or not samples.size:
        raise ValueError(f"levels are measured on samples [channels, samples]; got {list(samples.shape)}")
    return Levels(
        silent=_silent(samples, sample_rate), clipped=_clipped(samples), loudness=_loudness(samples, sample_rate)
    )


def score_levels(recordings: Sequence[Levels]) -> dict[str, Score]:
    """The means, each recording counting once, however long it is."""
    silent, clipped, loudness = LEVELS
    return {
        silent: bootstrap([levels.silent] for levels in recordings),
        clipped: bootstrap([levels.clipped] for levels in recordings),
        loudness: bootstrap([levels.loudness] for levels in recordings if levels.loudness is not None),
    }


def _silent(samples: np.ndarray, sample_rate: int) -> float:
    """The share of frames; the last, shorter one counts by its length."""
    power = np.square(samples, dtype=np.float64).mean(0)
    begins = np.arange(0, len(power), max(1, round(FRAME * sample_rate)))
    lengths = np.diff(begins, append=len(power))
    quiet = np.add.reduceat(power, begins) / lengths < 10 ** (SILENCE / 10)
    return float(lengths[quiet].sum() / len(power))


def _clipped(samples: np.ndarray) -> float:
    """Beyond full scale, where a player cuts, or one of three or more equal samples in a row at it, where something has
    cut already: no peak that was let alone is as flat."""
    clipped = np.abs(samples) > 1
    goes_on = (samples[:, 1:] == samples[:, :-1]) & (np.abs(samples[:, 1:]) >= FULL_SCALE)
    middle = goes_on[:, 1:] & goes_on[:, :-1]
    for lag in range(3):
        clipped[:, lag : lag + middle.shape[1]] |= middle
    return float(clipped.mean())


def _loudness(samples: np.ndarray, sample_rate: int) -> float | None:
    import pyloudnorm

    if samples.shape[1] < math.ceil(SHORTEST * sample_rate):
        return None
    if len(samples) > MOST_CHANNELS:
        raise ValueError(
            f"the loudness of {len(samples)} channels is not defined, at most {MOST_CHANNELS}; mix it down"
        )
    meter = pyloudnorm.Meter(sample_rate, block_size=SHORTEST)
    return max(GATE, float(meter.integrated_loudness(samples.T.astype(np.float64))))
