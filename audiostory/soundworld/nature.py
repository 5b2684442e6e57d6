"""Weather, water and fire. All but thunder are textures that fill the clip; `num_samples` is the clip's length.

Noise-like sounds are told apart by their spectrum and by how they move: rain hisses and ticks, wind gusts and whistles,
waves come and go over seconds, a stream is made of rising bubbles, fire of sparse clicks over a low roar.
"""

from __future__ import annotations

import numpy as np

from audiostory.soundworld.synthesis import (
    SAMPLE_RATE,
    Voice,
    bandpass,
    burst,
    fade,
    glide,
    highpass,
    lowpass,
    mix,
    noise,
    samples_of,
    scatter,
    swell,
    times,
    unit,
    wander,
)


def rain(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Hiss over dense small drops and some heavy ones."""
    hiss = highpass(noise(rng, num_samples), 2200 * 2 ** (0.4 * voice.brightness))
    small = [_drop(rng, hertz) for hertz in rng.uniform(2500, 6000, 12)]
    heavy = [_drop(rng, hertz) for hertz in rng.uniform(900, 2000, 6)]
    drops = scatter(rng, num_samples, small, 90 * voice.rate, 0.6)
    return 0.14 * hiss + drops + 1.4 * scatter(rng, num_samples, heavy, 12 * voice.rate, 0.4)


def _drop(rng: np.random.Generator, hertz: float) -> np.ndarray:
    return unit(bandpass(burst(rng, 0.0015), hertz, 3.0))


def wind(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A low rush in gusts, with a whistle that sings only at the height of a gust."""
    air = noise(rng, num_samples)
    gust = 0.55 + 0.45 * wander(rng, num_samples, 0.9 * voice.rate)
    rush = lowpass(lowpass(air, 260 * 2 ** (0.4 * voice.brightness)), 700)
    howl = bandpass(air, 430 * 2 ** (0.3 * voice.body), 6.0)
    whistle = bandpass(air, 820 * 2 ** (0.3 * voice.body), 25.0)
    return gust * (rush + gust * (1.2 * howl + (1.6 + 0.6 * voice.decay) * gust * whistle))


def waves(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Breakers: a slow rise, a crash, and a bright wash that runs out, one every few seconds."""
    period = (4.2 + 0.6 * voice.decay) / voice.rate
    seconds = num_samples / SAMPLE_RATE
    turn = (rng.uniform() + np.linspace(0, seconds / period, int(100 * seconds))) % 1.0  # a hundred points a second
    rise = np.maximum(np.where(turn < 0.45, (turn / 0.45) ** 2, 0.0), np.exp(-((turn - 0.45) % 1.0) * 7))
    wash = np.maximum(np.where(turn < 0.45, (turn / 0.45) ** 4, 0.0), np.exp(-((turn - 0.45) % 1.0) * 3.5))
    water = noise(rng, num_samples)
    body = lowpass(water, 420 * 2 ** (0.3 * voice.body))
    foam = bandpass(water, 1500 * 2 ** (0.3 * voice.brightness), 0.5)
    return body * glide(0.12 + rise, num_samples) + 0.8 * foam * glide(0.05 + wash, num_samples)


def stream(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Bubbles: short rising sines of many sizes, over a faint murmur."""
    sizes = 2 ** rng.uniform(-1.2, 1.2, 32) * 950 * 2 ** (0.3 * voice.brightness)
    bubbles = [_bubble(hertz, rise) for hertz, rise in zip(sizes, rng.uniform(3, 9, 32), strict=True)]
    murmur = bandpass(noise(rng, num_samples), 750, 0.6)
    return scatter(rng, num_samples, bubbles, 55 * voice.rate, 0.5) + (0.10 + 0.03 * voice.body) * murmur


def _bubble(hertz: float, rise: float) -> np.ndarray:
    t = times(samples_of(0.07))
    return np.sin(2 * np.pi * hertz * t * (1 + rise * t)) * (1 - np.exp(-t / 0.002)) * np.exp(-t * hertz / 14)


def fire(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Crackles of very different strength over a fluttering roar."""
    roar = lowpass(noise(rng, num_samples), 170 * 2 ** (0.4 * voice.body)) * (0.7 + 0.3 * wander(rng, num_samples, 7.0))
    snaps = [_snap(rng, hertz * 2 ** (0.3 * voice.brightness)) for hertz in rng.uniform(1200, 5000, 12)]
    crackle = scatter(rng, num_samples, snaps, 13 * voice.rate, 0.8)
    return 1.5 * roar + np.tanh(0.7 * crackle)  # tamed, or one snap would set the level of the clip


def _snap(rng: np.random.Generator, hertz: float) -> np.ndarray:
    return unit(bandpass(burst(rng, rng.uniform(0.001, 0.005)), hertz, 1.0))


def thunder(voice: Voice, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """One clap: a tearing crack, then a rumble of up to three seconds that rolls on under whatever follows."""
    length = min(samples_of(3.0), max(num_samples, samples_of(0.4)) * 2)
    air = noise(rng, length)
    sky = lowpass(lowpass(air, 110 * 2 ** (0.4 * voice.body)), 240)
    roll = 0.65 + 0.35 * wander(rng, length, 7.0)
    rumble = 4.5 * sky * roll * fade(length, min(0.8 * 2 ** (0.4 * voice.decay), 0.6 * length / SAMPLE_RATE))
    crack = mix(burst(rng, 0.05), 1.6 * lowpass(burst(rng, 0.22), 900 * 2 ** (0.4 * voice.brightness)))
    return mix(rumble * swell(length, 0.05, 0.1), crack)
