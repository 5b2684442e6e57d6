"""Voices of animals. Crickets and birds sing through the clip; dog, owl and frog make one call at a time.

A call fits into the `num_samples` of room before the next one, so that calls stay countable at any pace.
"""

from __future__ import annotations

import numpy as np

from audiostory.soundworld.synthesis import (
    SAMPLE_RATE,
    Voice,
    bandpass,
    beats,
    fade,
    highpass,
    lowpass,
    modes,
    noise,
    place,
    samples_of,
    swell,
    times,
    tone,
)


def crickets(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A near cricket and a fainter one: chirps of three to five pulses on a carrier near 4.5 kHz."""
    carrier = 4500 * 2 ** (0.12 * voice.body)
    gap = 0.42 / voice.rate
    near, other = _chirp(carrier, voice), _chirp(carrier * 1.06, voice)
    starts, others = beats(rng, num_samples, gap, 0.05), beats(rng, num_samples, 1.23 * gap, 0.05)
    first = place(num_samples, starts, [near] * len(starts))
    return first + 0.3 * place(num_samples, others, [other] * len(others)) + 0.004 * noise(rng, num_samples)


def _chirp(hertz: float, voice: Voice) -> np.ndarray:
    num_pulses, pulse_gap = 4 + round(voice.decay), 0.034
    pulse = np.sin(2 * np.pi * hertz * times(samples_of(0.02))) * swell(samples_of(0.02), 0.006, 0.009)
    return place(samples_of(num_pulses * pulse_gap), np.arange(num_pulses) * pulse_gap, [pulse] * num_pulses)


def dog(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """One bark: harsh harmonics that jump up and fall, with breath in the same throat."""
    length = min(samples_of(0.24 + 0.04 * voice.decay), int(0.8 * num_samples))
    turn = np.arange(length) / length
    pitch = voice.hertz * rng.uniform(0.98, 1.02) * (0.68 + 0.40 * np.sin(np.pi * np.minimum(1, turn + 0.18)) ** 1.5)
    growl = 1 + 0.25 * np.sin(2 * np.pi * 57 * times(length))
    harsh = np.tanh(2.5 * tone(pitch, 0.85 ** np.arange(12)) * growl) + 0.35 * noise(rng, length)
    throat = bandpass(harsh, 900 * 2 ** (0.3 * voice.body), 1.2) + 0.5 * bandpass(harsh, 1900, 1.5) + 0.35 * harsh
    return lowpass(throat, 3600 * 2 ** (0.3 * voice.brightness)) * swell(length, 0.015, 0.6 * length / SAMPLE_RATE)


def bird(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A songbird that repeats its motif of three or four sliding notes."""
    motif = [
        _note(voice.hertz, 0.13, -0.25 - 0.1 * voice.body),
        _note(voice.hertz * 2 ** (0.12 * voice.brightness), 0.08, 0.30),
        _note(voice.hertz, 0.08 + 0.02 * voice.decay, 0.30 + 0.1 * voice.body),
        _note(voice.hertz * 2 ** (-0.1 * voice.decay), 0.11, -0.30),
    ][: 4 if voice.decay > 0 else 3]
    onsets = np.cumsum([0.0] + [len(note) / SAMPLE_RATE + 0.03 for note in motif])
    phrase = place(samples_of(onsets[-1]), onsets[:-1], motif)
    starts = beats(rng, num_samples, 0.95 / voice.rate, 0.08)
    return place(num_samples, starts, [phrase * rng.uniform(0.7, 1.0) for _ in starts])


def _note(hertz: float, seconds: float, octaves: float) -> np.ndarray:
    length = samples_of(seconds)
    pitch = hertz * 2 ** (octaves * np.linspace(-0.5, 0.5, length))
    return tone(pitch, np.array([1.0, 0.12])) * swell(length, 0.015, 0.03)


def owl(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """One hoot: almost a sine, soft in its onset, sinking at the end."""
    length = min(samples_of(0.55 + 0.1 * voice.decay), int(0.8 * num_samples))
    turn = np.linspace(0, 1, length)
    pitch = voice.hertz * rng.uniform(0.99, 1.01) * (0.96 + 0.05 * np.sin(np.pi * turn) - 0.04 * turn**3)
    hoot = tone(pitch, np.array([1.0, 0.10 + 0.05 * voice.brightness, 0.05]))
    breath = bandpass(noise(rng, length), voice.hertz * 1.5, 2.0)
    return (hoot + 0.06 * breath) * swell(length, 0.2 * length / SAMPLE_RATE, 0.35 * length / SAMPLE_RATE)


def frog(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """One croak: a rattle of short resonant pulses, some forty a second."""
    length = min(samples_of(0.34 + 0.06 * voice.decay), int(0.8 * num_samples))
    gap = 1 / (38 + 8 * voice.body)
    gains = np.array([1.0, 0.35, 0.25 + 0.1 * voice.brightness, 0.1])
    pulse = modes(voice.hertz * np.array([1.0, 2.0, 2.9, 4.1]), np.full(4, 0.006), gains, samples_of(0.03))
    starts = np.arange(0, length / SAMPLE_RATE, gap)
    croak = place(length, starts, [pulse * rng.uniform(0.8, 1.0) for _ in starts])
    rough = 0.05 * highpass(noise(rng, length), 1500)
    return (croak + rough * fade(length, 0.2)) * swell(length, 0.05, 0.4 * length / SAMPLE_RATE)
