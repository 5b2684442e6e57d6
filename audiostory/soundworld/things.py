"""Doors, steps, signals and machines. Strokes fit the `num_samples` before the next one or ring past it; machines
fill the clip.

Struck things are modes with decays of their own; friction is a train of slips that each strike the modes.
"""

from __future__ import annotations

import numpy as np

from audiostory.soundworld.synthesis import (
    SAMPLE_RATE,
    Voice,
    bandpass,
    beats,
    burst,
    fade,
    highpass,
    lowpass,
    mix,
    modes,
    noise,
    place,
    samples_of,
    scatter,
    swell,
    times,
    tone,
    unit,
    wander,
)


def footsteps(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """One step: a dull thud of the heel, grit, and the fainter sole a moment later."""
    length = samples_of(0.2)
    hertz = np.array([75.0, 130.0]) * 2 ** (0.4 * voice.body)
    thud = modes(hertz, np.array([0.035, 0.025]), np.array([1.0, 0.6]), length)
    scuff = lowpass(burst(rng, 0.018), 900 * 2 ** (0.5 * voice.brightness))
    grit = highpass(burst(rng, 0.03 + 0.01 * voice.decay), 2500)
    heel, sole = mix(thud, 0.9 * scuff, 0.06 * grit), mix(0.25 * scuff, 0.07 * grit)
    return place(length, np.array([0.0, 0.075]), [heel, sole])


def knock(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Knuckles on a wooden door: four damped modes and a click."""
    length = samples_of(0.3)
    hertz = np.array([290.0, 470.0, 810.0, 1370.0]) * 2 ** (0.25 * voice.body)
    decays = np.array([0.030, 0.026, 0.018, 0.010]) * 2 ** (0.4 * voice.decay)
    gains = np.array([1.0, 0.8, 0.6 + 0.2 * voice.brightness, 0.4]) * rng.uniform(0.8, 1.2, 4)
    return mix(modes(hertz, decays, gains, length), 0.3 * lowpass(burst(rng, 0.002), 3000))


def creak(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A hinge that sticks and slips: the slips quicken and slow again, the wood answers each."""
    seconds = min(0.75 + 0.15 * voice.decay, 0.8 * num_samples / SAMPLE_RATE)
    turn = np.linspace(0, 1, 200)
    slips_per_second = (50 + 8 * voice.body) * (1 + 2.0 * np.sin(np.pi * turn ** rng.uniform(0.8, 1.2)))
    count = np.cumsum(slips_per_second) * seconds / 200
    starts = np.interp(np.arange(int(count[-1])), count, turn * seconds) if count[-1] >= 1 else np.zeros(1)
    starts = np.maximum(0, starts + rng.uniform(-0.0008, 0.0008, len(starts)))
    hertz = voice.hertz * np.array([1.0, 1.83, 3.05, 4.4])
    gains = np.array([1.0, 0.6, 0.5, 0.3]) * 2.0 ** (0.3 * voice.brightness * np.arange(4))
    slip = modes(hertz, np.array([0.008, 0.005, 0.004, 0.003]), gains, samples_of(0.05))
    length = samples_of(seconds)
    return place(length, starts, [slip * rng.uniform(0.6, 1.0) for _ in starts]) * swell(length, 0.08, 0.4 * seconds)


def bell(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A church bell: hum, prime, minor third, fifth and nominal and their uppers, ringing past the next stroke."""
    ratios = np.array([0.5, 1.0, 1.2, 1.5, 2.0, 2.51, 2.66, 3.01, 4.17])
    gains = np.array([0.35, 1.0, 0.5, 0.25, 0.6, 0.3, 0.25, 0.2, 0.12]) * rng.uniform(0.85, 1.15, 9)
    gains = gains * ratios ** (0.5 * voice.brightness)
    decays = 1.1 * 2 ** (0.5 * voice.decay) / ratios**0.8
    length = samples_of(2.5)
    ring = modes(voice.hertz * ratios * (1 + 0.004 * voice.body * np.arange(9)), decays, gains, length)
    return mix(ring * swell(length, 0.001, 0.5), 0.5 * highpass(burst(rng, 0.006), 2000))


def beep(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """An electronic beep: hard edges, odd harmonics, no life in it."""
    length = min(samples_of(0.2 + 0.05 * voice.decay), int(0.6 * num_samples))
    odd = np.array([1.0, 0.0, 0.28 + 0.1 * voice.brightness, 0.0, 0.12 + 0.05 * voice.body])
    return tone(np.full(length, voice.hertz), odd) * swell(length, 0.003, 0.003)


def horn(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A car horn: two brassy tones a third apart."""
    length = min(samples_of(0.6 + 0.1 * voice.decay), int(0.75 * num_samples))
    brass = 0.88 ** np.arange(18) * np.where(np.arange(18) % 5 == 2, 1.3 + 0.4 * voice.body, 1.0)
    settle = 1 - 0.03 * fade(length, 0.03)
    low, high = tone(voice.hertz * settle, brass), tone(1.26 * voice.hertz * settle, brass)
    blare = lowpass(np.tanh(1.5 * (low + 0.7 * high)), 3200 * 2 ** (0.4 * voice.brightness))
    return blare * swell(length, 0.02, 0.05)


def siren(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A wail that sweeps up and down over two thirds of an octave."""
    sweeps = 0.45 * voice.rate**2 * 2 ** (0.15 * voice.decay)
    turn = 2 * np.pi * (sweeps * times(num_samples) + rng.uniform())
    pitch = voice.hertz * 2 ** (0.36 * np.sin(turn))
    wail = tone(pitch, np.array([1.0, 0.5, 0.35, 0.2 + 0.1 * voice.brightness, 0.1, 0.1]))
    return bandpass(wail, 1200 * 2 ** (0.4 * voice.body), 0.6) + 0.3 * wail


def engine(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A motor: a low buzz on the firing tone that chugs, with exhaust in the same beat."""
    chug_hertz = 8.0 * voice.rate
    unsteady = 1 + 0.015 * wander(rng, num_samples, 2.0)
    chug = (0.5 + 0.5 * np.cos(2 * np.pi * np.cumsum(chug_hertz * unsteady) / SAMPLE_RATE)) ** 1.5
    buzz = tone(voice.hertz * unsteady, 0.86 ** np.arange(20) * (1 + 0.3 * voice.body * (-1) ** np.arange(20)))
    exhaust = bandpass(noise(rng, num_samples), 520 * 2 ** (0.4 * voice.decay), 0.8)
    return lowpass((0.35 + chug) * (buzz + 0.45 * exhaust), 1500 * 2 ** (0.4 * voice.brightness))


def train(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Wheels over rail joints: two clacks close together, again and again, over a rumble."""
    period = 0.85 / voice.rate
    ground = noise(rng, num_samples)
    rumble = lowpass(lowpass(ground, 140 * 2 ** (0.3 * voice.body)), 300) + 0.12 * bandpass(ground, 1100, 0.7)
    joint = beats(rng, num_samples, period)
    starts = np.sort(np.concatenate([joint, joint + 0.17 * min(1, period / 0.6)]))
    grains = [_clack(voice, rng) * rng.uniform(0.8, 1.0) for _ in starts]
    return 0.9 * rumble + place(num_samples, starts, grains)


def _clack(voice: Voice, rng: np.random.Generator) -> np.ndarray:
    length = samples_of(0.15)
    iron = np.array([170.0, 430.0, 1150.0, 2400.0]) * 2 ** (0.2 * voice.decay)
    gains = np.array([0.7, 0.5, 0.45, 0.3 + 0.1 * voice.brightness])
    clink = modes(iron, np.array([0.03, 0.025, 0.02, 0.015]), gains, length)
    return mix(clink, 0.4 * bandpass(burst(rng, 0.008), 1800, 0.7))


def clock(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Tick and tock, dry little clicks in perfect time."""
    starts = beats(rng, num_samples, 0.5 / voice.rate)
    pair = [_tick(voice, 1.0, rng), 0.8 * _tick(voice, 0.78, rng)]
    return place(num_samples, starts, [pair[i % 2] for i in range(len(starts))]) + 0.002 * noise(rng, num_samples)


def _tick(voice: Voice, scale: float, rng: np.random.Generator) -> np.ndarray:
    length = samples_of(0.06)
    hertz = scale * np.array([2100.0, 3300.0, 5100.0]) * 2 ** (0.2 * voice.body)
    decays = np.array([0.006, 0.004, 0.003]) * 2 ** (0.5 * voice.decay)
    case = modes(hertz, decays, np.array([1.0, 0.8, 0.5 + 0.3 * voice.brightness]), length)
    return unit(mix(case, 0.3 * burst(rng, 0.001)))


def applause(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A crowd clapping, every hand with its own cup and moment."""
    hands = rng.uniform(700, 2300, 24) * 2 ** (0.25 * voice.brightness)
    claps = [unit(bandpass(burst(rng, 0.007), hertz, 1.8)) for hertz in hands]
    crowd = scatter(rng, num_samples, claps, 50 * voice.rate * 2 ** (0.3 * voice.body), 0.35)
    return crowd + 0.04 * bandpass(noise(rng, num_samples), 1300, 0.7)
