"""Instruments, one note at a time. A flute's note fits the `num_samples` before the next, the others ring past it."""

from __future__ import annotations

import numpy as np

from audiostory.soundworld.synthesis import (
    SAMPLE_RATE,
    Voice,
    bandpass,
    burst,
    fade,
    highpass,
    lowpass,
    mix,
    modes,
    noise,
    samples_of,
    swell,
    times,
    tone,
)


def guitar(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A plucked string: Karplus and Strong's averaging loop (1983) written as the modes it has.

    Harmonic k of a loop of N samples loses a factor cos(pi k / N) a turn, N = SAMPLE_RATE / hertz need not be whole.
    """
    length = samples_of(1.4)
    k = np.arange(1, 40)
    loop = SAMPLE_RATE / voice.hertz
    loss = -np.log(np.maximum(np.cos(np.pi * k / loop), 1e-3)) + 0.004 * 2 ** (0.5 * voice.decay)
    pluck = np.sin(np.pi * k * (0.2 + 0.06 * voice.body)) / k ** (0.9 - 0.2 * voice.brightness)
    string = modes(voice.hertz * k, loop / (SAMPLE_RATE * loss), pluck * rng.uniform(0.9, 1.1, len(k)), length)
    return mix(string * swell(length, 0.001, 0.3), 0.1 * highpass(burst(rng, 0.003), 2500))


def piano(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A struck string: stretched partials in two slightly mistuned strings, and the hammer's knock."""
    length = samples_of(1.6)
    k = np.arange(1, 13)
    partials = voice.hertz * k * np.sqrt(1 + 0.0006 * k**2)
    gains = k ** (-1.3 + 0.3 * voice.brightness) * rng.uniform(0.9, 1.1, len(k))
    decays = 0.7 * 2 ** (0.4 * voice.decay) / k**0.6
    detuned = 1 + 0.0012 + 0.0006 * voice.body
    strings = modes(partials, decays, gains, length) + 0.7 * modes(partials * detuned, 1.4 * decays, gains, length)
    hammer = modes(np.array([95.0, 160.0]), np.array([0.03, 0.02]), np.array([0.8, 0.6]), samples_of(0.2))
    return mix(strings * swell(length, 0.002, 0.4), hammer, 0.3 * lowpass(burst(rng, 0.006), 2000))


def drum(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A tom: the tone drops as the skin relaxes, two overtones of a membrane, and the stick."""
    length = samples_of(0.8)
    bend = voice.hertz * (1 + 0.35 * fade(length, 0.03))
    decay = 0.16 * 2 ** (0.4 * voice.decay)
    skin = tone(bend, np.ones(1)) * fade(length, decay) * swell(length, 0.001, 0.2)
    overtones = np.array([0.4 + 0.1 * voice.body, 0.25])
    ring = modes(voice.hertz * np.array([1.59, 2.14]), decay * np.array([0.4, 0.3]), overtones, length // 2)
    stick = bandpass(burst(rng, 0.012), 1400 * 2 ** (0.4 * voice.brightness), 0.8)
    return mix(skin, ring, 0.5 * stick)


def flute(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A blown note: few harmonics, breath around the pitch, vibrato that comes in late."""
    length = min(samples_of(0.7 + 0.1 * voice.decay), int(0.82 * num_samples))
    t = times(length)
    vibrato = 0.012 * np.minimum(1, t / 0.3) * np.sin(2 * np.pi * (5.2 + 0.5 * voice.body) * t)
    pipe = tone(voice.hertz * (1 + vibrato), np.array([1.0, 0.4 + 0.1 * voice.brightness, 0.2, 0.06]))
    breath = bandpass(noise(rng, length), 1.5 * voice.hertz, 1.2)
    pipe = (pipe * (1 + 5 * vibrato) + 0.12 * breath) * swell(length, 0.05, 0.09)
    return mix(pipe, 0.15 * highpass(burst(rng, 0.02), 2500))[:length]
