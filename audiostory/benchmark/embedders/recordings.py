"""How a recording becomes what a network hears: one channel, at its rate, at its level. One resampler for everything.

Metrics differ in this, and it moves them: resampling alone shifts FD by 30 and KL by 0.4. So each network says how it
is to be fed, as its tool has it, and both sides of a comparison go through here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from audiostory import sound

RESAMPLER = "soxr HQ"  # what sound.resample uses


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a network is fed. `channel` is the mean of all or the first alone; `centred` takes away the mean level.

    With `peak_db` the loudest sample is brought to that many decibels (silence stays silence); `sixteen_bit` rounds as
    a 16-bit file does. What is shorter than `shortest` samples is filled up with zeros. In this order.
    """

    sample_rate: int
    channel: Literal["mean", "first"] = "mean"
    centred: bool = False
    peak_db: float | None = None
    sixteen_bit: bool = False
    shortest: int = 1


def prepare(waveform: sound.Waveform, how: Preparation) -> Float[np.ndarray, W]:
    """One channel of float32 samples, ready for the network."""
    channel = waveform.samples[0] if how.channel == "first" else waveform.samples.mean(0)
    if how.centred:
        channel = channel - channel.mean()
    mono = sound.Waveform(samples=channel, sample_rate=waveform.sample_rate)
    samples = sound.resample(mono, how.sample_rate).samples[0]
    peak = float(np.abs(samples).max())
    if how.peak_db is not None and peak > 0:
        samples = samples * (10 ** (how.peak_db / 20) / peak)
    if how.sixteen_bit:
        samples = np.trunc(np.clip(samples, -1, 1) * 32767) / 32767
    missing = max(0, how.shortest - len(samples))
    return np.pad(samples, (0, missing)).astype(np.float32)
