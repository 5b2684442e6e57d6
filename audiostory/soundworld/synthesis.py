"""The few tools that every sound of the world is built from: noise, filters, modes, tones, envelopes and scattering.

Everything is float64 or float32 numpy, one channel, at SAMPLE_RATE. Ringing bodies are sums of decaying modes, computed
as one small matrix product, so that a bell costs no more than a click.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

SAMPLE_RATE = 16_000
_BLOCK = 256  # samples per row of the mode matrix; any value gives the same sound
_TABLE = 4096  # samples per period of a wavetable


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who makes the sound: the same through a story. `brightness`, `decay` and `body` lie in [-1, 1].

    `hertz` is the pitch (0.0 for classes without one); `rate` scales every rhythm inside the sound, 1.0 is unhurried.
    """

    hertz: float
    brightness: float
    decay: float
    body: float
    rate: float


def samples_of(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def times(num_samples: int) -> np.ndarray:
    """Seconds since the start, one per sample."""
    return np.arange(num_samples) / SAMPLE_RATE


def noise(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """White noise of unit variance."""
    return rng.standard_normal(num_samples, dtype=np.float32)


def lowpass(samples: np.ndarray, hertz: float) -> np.ndarray:
    """12 dB per octave, without resonance (the audio cookbook's biquad, Q = 1/sqrt 2)."""
    cosine, alpha = _biquad(hertz, 0.7071)
    return _filter([(1 - cosine) / 2, 1 - cosine, (1 - cosine) / 2], cosine, alpha, samples)


def highpass(samples: np.ndarray, hertz: float) -> np.ndarray:
    """12 dB per octave, without resonance."""
    cosine, alpha = _biquad(hertz, 0.7071)
    return _filter([(1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2], cosine, alpha, samples)


def bandpass(samples: np.ndarray, hertz: float, q: float) -> np.ndarray:
    """Unit gain at `hertz`, `hertz / q` wide."""
    cosine, alpha = _biquad(hertz, q)
    return _filter([alpha, 0.0, -alpha], cosine, alpha, samples)


def _biquad(hertz: float, q: float) -> tuple[float, float]:
    angle = 2 * np.pi * min(hertz, 0.46 * SAMPLE_RATE) / SAMPLE_RATE
    return float(np.cos(angle)), float(np.sin(angle) / (2 * q))


def _filter(zeros: list[float], cosine: float, alpha: float, samples: np.ndarray) -> np.ndarray:
    return np.asarray(lfilter(zeros, [1 + alpha, -2 * cosine, 1 - alpha], samples))


def modes(hertz: np.ndarray, decays: np.ndarray, gains: np.ndarray, num_samples: int) -> np.ndarray:
    """A struck body: sum over p of gains[p] * sin(2 pi hertz[p] t) * exp(-t / decays[p]); above 7.5 kHz dropped.

    Sample 256 a + b of a mode is the product of powers 256 a and b of one number, so the whole sum is one product of
    matrices [blocks, 2P] x [2P, 256], real and imaginary parts side by side.
    """
    audible = np.asarray(hertz) < 7500
    log_z = ((2j * np.pi * np.asarray(hertz) - 1 / np.asarray(decays)) / SAMPLE_RATE)[audible]
    coarse = np.empty((-(-num_samples // _BLOCK), len(log_z)), complex)
    coarse[0], coarse[1:] = np.asarray(gains)[audible], np.exp(_BLOCK * log_z)
    fine = np.empty((_BLOCK, len(log_z)), complex)
    fine[0], fine[1:] = 1.0, np.exp(log_z)
    coarse, fine = np.cumprod(coarse, axis=0), np.cumprod(fine, axis=0)
    left = np.hstack([np.real(coarse), np.imag(coarse)]).astype(np.float32)
    right = np.hstack([np.imag(fine), np.real(fine)]).astype(np.float32)
    return (left @ right.T).ravel()[:num_samples]


def tone(hertz: np.ndarray, harmonics: np.ndarray) -> np.ndarray:
    """A steady tone that follows the pitch curve `hertz` [samples]; `harmonics[k]` is the gain of harmonic k + 1.

    Harmonics that would pass 7.5 kHz at the highest pitch are left out. Unit peak per period.
    """
    highest = int(7500 // float(np.max(hertz)))
    harmonics = np.asarray(harmonics)[: max(1, highest)]
    table = np.fft.irfft(np.concatenate([[0.0], -1j * harmonics]), _TABLE)
    turns = np.cumsum(hertz) / SAMPLE_RATE
    return (table / np.abs(table).max())[(turns * _TABLE).astype(np.int64) % _TABLE]


def swell(num_samples: int, attack: float, release: float) -> np.ndarray:
    """An envelope that rises over `attack` seconds, holds 1 and falls over `release` seconds, in half cosines."""
    envelope = np.ones(num_samples)
    for edge, seconds in ((envelope, attack), (envelope[::-1], release)):
        turn = (0.5 + np.arange(min(num_samples, samples_of(seconds)))) / (seconds * SAMPLE_RATE)
        edge[: len(turn)] *= 0.5 - 0.5 * np.cos(np.pi * turn)
    return envelope


def fade(num_samples: int, decay: float) -> np.ndarray:
    """exp(-t / decay)."""
    return np.exp(-times(num_samples) / decay)


def burst(rng: np.random.Generator, decay: float) -> np.ndarray:
    """White noise that dies away with time constant `decay`, cut at -60 dB."""
    num_samples = samples_of(7 * decay)
    return noise(rng, num_samples) * fade(num_samples, decay)


def mix(*layers: np.ndarray) -> np.ndarray:
    """Layers that start together, as long as the longest."""
    out = np.zeros(max(map(len, layers)))
    for layer in layers:
        out[: len(layer)] += layer
    return out


def glide(curve: np.ndarray, num_samples: int) -> np.ndarray:
    """A curve given at even steps from the first sample to the last, at every sample."""
    return np.interp(np.arange(num_samples), np.linspace(0, num_samples - 1, len(curve)), curve)


def wander(rng: np.random.Generator, num_samples: int, hertz: float) -> np.ndarray:
    """A slow random curve in [-1, 1] that takes a new direction `hertz` times a second."""
    step = SAMPLE_RATE / hertz
    points = rng.uniform(-1, 1, int(num_samples / step) + 3)
    return np.interp(np.arange(num_samples) + rng.uniform(0, step), np.arange(len(points)) * step, points)


def scatter(
    rng: np.random.Generator, num_samples: int, grains: list[np.ndarray], per_second: float, spread: float
) -> np.ndarray:
    """Grains at random times, `per_second` on average and at least one; gains are log-normal with `spread`."""
    out = np.zeros(num_samples + max(map(len, grains)))
    count = max(1, rng.poisson(per_second * num_samples / SAMPLE_RATE))
    starts = rng.integers(0, num_samples, count)
    gains = np.exp(spread * rng.standard_normal(count).clip(-2.5, 2.5))
    for start, gain, which in zip(starts, gains, rng.integers(0, len(grains), count), strict=True):
        grain = grains[which]
        out[start : start + len(grain)] += gain * grain
    return out[:num_samples]


def place(num_samples: int, starts: np.ndarray, grains: list[np.ndarray]) -> np.ndarray:
    """One grain at each start (in seconds), mixed; what passes the end is cut."""
    out = np.zeros(num_samples)
    for start, grain in zip(starts, grains, strict=True):
        first = samples_of(start)
        piece = grain[: max(0, num_samples - first)]
        out[first : first + len(piece)] += piece
    return out


def beats(rng: np.random.Generator, num_samples: int, gap: float, jitter: float = 0.0) -> np.ndarray:
    """Start times of a rhythm through the clip, `gap` seconds apart; the first falls within the first 0.6 gap."""
    seconds = num_samples / SAMPLE_RATE
    first = rng.uniform(0, min(0.6 * gap, 0.5 * seconds))
    starts = np.arange(first, seconds, gap)
    return np.clip(starts + gap * jitter * rng.uniform(-1, 1, len(starts)), 0, seconds - 1 / SAMPLE_RATE)


def unit(samples: np.ndarray) -> np.ndarray:
    """Scaled to a peak of 1."""
    return samples / np.maximum(np.abs(samples).max(), 1e-9)
