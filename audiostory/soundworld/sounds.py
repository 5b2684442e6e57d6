"""The vocabulary of the sound world and `render`, which makes any of its sounds heard.

A `Sound` is what captions tell: which class, how often, how quick, how loud, how far. A `Cast` is what they do not tell
and what stays the same through a story: the place and its echo, the pitch of every voice, its timbre. A clip is a
function of (sound, cast, seconds, seed) alone; on another machine it agrees up to the rounding of floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from zlib import crc32

import numpy as np
from scipy.fft import irfft, rfft

from audiostory.soundworld import animals, music, nature, things
from audiostory.soundworld.synthesis import SAMPLE_RATE as SAMPLE_RATE  # part of this vocabulary
from audiostory.soundworld.synthesis import Voice, highpass, lowpass, place, samples_of, swell, times, unit

MIN_SECONDS, MAX_SECONDS = 0.5, 30.0
MAX_COUNT = 5
MIN_GAP = 0.35  # seconds between strokes, wherever the clip has room for them

Register = Literal["low", "middle", "high"]
REGISTER_SEMITONES = {"low": -5.0, "middle": 0.0, "high": 5.0}
PACE_RATE = {"slow": 0.6, None: 1.0, "quick": 1.6}
LEVEL_PEAK = {"soft": 0.19, None: 0.4, "loud": 0.6}  # soft and loud are 10 dB apart
STROKE_PEAK = 0.5
FAR_GAIN, FAR_HERTZ, FAR_WETNESS = 10 ** (-9 / 20), 1800.0, 2.0


@dataclass(frozen=True, kw_only=True)
class SoundClass:
    """One kind of sound. A countable class plays one stroke, a continuous one fills the clip.

    `play(voice, num_samples, rng)`: for a stroke, `num_samples` is the room before the next one, and the answer may
    have any length; for a continuous sound it is the length of clip and answer. `hertz` is the middle register's pitch,
    None without one. `gap` is the seconds between strokes at an unhurried pace, `jitter` how uneven they are.
    """

    name: str
    kind: Literal["countable", "continuous"]
    play: Callable[[Voice, int, np.random.Generator], np.ndarray]
    hertz: float | None = None
    gap: float = 0.0
    jitter: float = 0.0

    @property
    def has_pitch(self) -> bool:
        return self.hertz is not None


def _continuous(play: Callable, hertz: float | None = None) -> SoundClass:
    return SoundClass(name=play.__name__, kind="continuous", play=play, hertz=hertz)


def _countable(play: Callable, gap: float, jitter: float, hertz: float | None = None) -> SoundClass:
    return SoundClass(name=play.__name__, kind="countable", play=play, hertz=hertz, gap=gap, jitter=jitter)


CLASSES: dict[str, SoundClass] = {
    entry.name: entry
    for entry in (
        _continuous(nature.rain),
        _continuous(nature.wind),
        _continuous(nature.waves),
        _continuous(nature.stream),
        _continuous(nature.fire),
        _continuous(animals.crickets),
        _countable(nature.thunder, gap=2.4, jitter=0.12),
        _countable(animals.dog, gap=0.75, jitter=0.12, hertz=420.0),
        _continuous(animals.bird, hertz=2700.0),
        _countable(animals.owl, gap=1.1, jitter=0.08, hertz=360.0),
        _countable(animals.frog, gap=0.8, jitter=0.08, hertz=480.0),
        _countable(things.footsteps, gap=0.62, jitter=0.02),
        _countable(things.knock, gap=0.60, jitter=0.03),
        _countable(things.creak, gap=1.3, jitter=0.10, hertz=1000.0),
        _countable(things.bell, gap=1.4, jitter=0.02, hertz=640.0),
        _continuous(things.siren, hertz=850.0),
        _countable(things.beep, gap=0.75, jitter=0.0, hertz=1250.0),
        _countable(things.horn, gap=1.1, jitter=0.08, hertz=330.0),
        _continuous(things.engine, hertz=100.0),
        _continuous(things.train),
        _continuous(things.clock),
        _continuous(things.applause),
        _countable(music.guitar, gap=0.8, jitter=0.04, hertz=185.0),
        _countable(music.piano, gap=0.9, jitter=0.04, hertz=440.0),
        _countable(music.drum, gap=0.66, jitter=0.02, hertz=150.0),
        _countable(music.flute, gap=1.0, jitter=0.04, hertz=800.0),
    )
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a story happens, as an echo: `echo_seconds` to fall by 60 dB, `wetness` as energy against the direct sound,
    `band` in Hz that the walls give back, and the seconds between bounces that repeat (0.0: none stand out)."""

    name: str
    echo_seconds: float
    wetness: float
    band: tuple[float, float] = (100.0, 5000.0)
    bounce_seconds: float = 0.0


PLACES: dict[str, Place] = {
    entry.name: entry
    for entry in (
        Place(name="open air", echo_seconds=0.0, wetness=0.0),
        Place(name="room", echo_seconds=0.35, wetness=0.5, band=(200.0, 5000.0)),
        Place(name="hall", echo_seconds=1.3, wetness=0.5, band=(150.0, 4500.0)),
        Place(name="church", echo_seconds=4.0, wetness=0.9, band=(100.0, 3000.0)),
        Place(name="tunnel", echo_seconds=2.6, wetness=1.1, band=(250.0, 1500.0), bounce_seconds=0.11),
    )
}


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What a caption tells; None is what it leaves open. Countable classes take a count of 1 to 5, others a level.

    A count without a pace is spread over the clip; a pace without a count repeats through it. Strokes stand at least
    0.35 s apart if the clip has 0.35 s for each and 0.1 s to begin; in a shorter clip they are squeezed.
    """

    name: str
    count: int | None = None
    pace: Literal["slow", "quick"] | None = None
    level: Literal["soft", "loud"] | None = None
    distance: Literal["near", "far"] | None = None

    def __post_init__(self) -> None:
        _expect("sound class", self.name, tuple(CLASSES))
        _expect("pace", self.pace, tuple(PACE_RATE))
        _expect("level", self.level, tuple(LEVEL_PEAK))
        _expect("distance", self.distance, (None, "near", "far"))
        _expect("count", self.count, (None, *range(1, MAX_COUNT + 1)))
        kind = CLASSES[self.name].kind
        if self.count is not None and kind != "countable":
            raise ValueError(
                f"a count needs a countable class, {self.name} is continuous: leave count={self.count} out"
            )
        if self.level is not None and kind != "continuous":
            raise ValueError(
                f"a level needs a continuous class, {self.name} is countable: leave level={self.level} out"
            )


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Place, pitch of each pitched class that sounds, and the seed (>= 0) of every voice's timbre."""

    place: str
    pitches: Mapping[str, Register]
    seed: int

    def __post_init__(self) -> None:
        _expect("place", self.place, tuple(PLACES))
        for name, register in self.pitches.items():
            _expect("pitched class", name, tuple(c.name for c in CLASSES.values() if c.has_pitch))
            _expect(f"pitch of {name}", register, tuple(REGISTER_SEMITONES))


def _expect(what: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(map(str, allowed))}")


def render(sound: Sound, cast: Cast, seconds: float, seed: int) -> np.ndarray:
    """Returns float32 [samples], round(seconds * SAMPLE_RATE) long; peak 0.5, or as level and distance say.

    `seconds` lies in 0.5 .. 30. Strokes, gusts and other chances come from `seed` (>= 0), the voice from the cast
    alone. Echoes end with the clip.
    """
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ValueError(
            f"expected {MIN_SECONDS} to {MAX_SECONDS} seconds, got {seconds} of {sound.name}: split the event"
        )
    sound_class = CLASSES[sound.name]
    voice = _voice(sound_class, cast, PACE_RATE[sound.pace])
    rng = np.random.default_rng([seed, crc32(sound.name.encode())])
    num_samples = samples_of(seconds)
    if sound_class.kind == "countable":
        dry, peak = _strokes(sound, sound_class, voice, num_samples, rng), STROKE_PEAK
    else:
        dry, peak = sound_class.play(voice, num_samples, rng), LEVEL_PEAK[sound.level]
    far = sound.distance == "far"
    if far:
        dry = lowpass(dry, FAR_HERTZ)
    heard = unit(_echo(unit(dry), PLACES[cast.place], FAR_WETNESS if far else 1.0))
    heard *= swell(num_samples, 0.002, 0.005)  # a ring cut by the end must not click
    return (peak * (FAR_GAIN if far else 1.0) * heard).astype(np.float32)


def _voice(sound_class: SoundClass, cast: Cast, rate: float) -> Voice:
    """The voice that this cast gives a class: pitch within a semitone of its register, and a timbre."""
    rng = np.random.default_rng([cast.seed, crc32(sound_class.name.encode())])
    offset, brightness, decay, body = map(float, rng.uniform(-1, 1, 4))
    hertz = 0.0
    if sound_class.hertz is not None:
        if sound_class.name not in cast.pitches:
            raise ValueError(f"Cast.pitches has no {sound_class.name}: add it as low, middle or high")
        hertz = sound_class.hertz * 2 ** ((REGISTER_SEMITONES[cast.pitches[sound_class.name]] + offset) / 12)
    return Voice(hertz=hertz, brightness=brightness, decay=decay, body=body, rate=rate)


def _strokes(
    sound: Sound, sound_class: SoundClass, voice: Voice, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    starts = _stroke_times(sound, sound_class, voice.rate, num_samples / SAMPLE_RATE, rng)
    rooms = np.diff(starts, append=num_samples / SAMPLE_RATE)
    rooms[-1] = max(rooms[-1], rooms.min())
    gains = 10 ** (rng.uniform(-2.5, 0, len(starts)) / 20)
    grains = [g * unit(sound_class.play(voice, samples_of(room), rng)) for g, room in zip(gains, rooms, strict=True)]
    return place(num_samples, starts, grains)


def _stroke_times(
    sound: Sound, sound_class: SoundClass, rate: float, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """Starts in seconds, at least MIN_GAP apart when all strokes of the clip can be."""
    lead = min(0.1, 0.1 * seconds) * rng.uniform(0.3, 1.0)
    gap = max(1.05 * MIN_GAP, sound_class.gap / rate * rng.uniform(0.92, 1.08))
    count = sound.count or max(1, int((seconds - lead) / gap))
    spread = (seconds - lead) / count
    if sound.count is not None and sound.pace is None:
        gap = max(MIN_GAP, spread * rng.uniform(0.75, 1.0))
    gap = min(gap, spread)
    first = lead + rng.uniform(0, 0.5) * (seconds - lead - count * gap)
    slack = min(sound_class.jitter * gap, max(0.0, (gap - MIN_GAP) / 2))
    return first + gap * np.arange(count) + rng.uniform(0, 2, count) * slack


def _echo(dry: np.ndarray, where: Place, wetter: float) -> np.ndarray:
    """Adds the place's echo to [samples]; the tail is cut with the clip."""
    if where.wetness == 0.0:
        return dry
    seconds = math.ceil(len(dry) / SAMPLE_RATE)
    size, response = _spectrum(where, seconds)
    wet = np.asarray(irfft(np.asarray(rfft(dry.astype(np.float32), size)) * response, size))
    return dry + wetter * wet[: len(dry)]


@lru_cache(maxsize=32)
def _spectrum(where: Place, seconds: int) -> tuple[int, np.ndarray]:
    """The echo's transform for clips of up to `seconds`, and its size; in whole seconds, so that clips share it."""
    response = _response(where)[: seconds * SAMPLE_RATE]
    size = (seconds + math.ceil(len(response) / SAMPLE_RATE)) * SAMPLE_RATE
    return size, np.asarray(rfft(response, size))


@lru_cache(maxsize=len(PLACES))
def _response(where: Place) -> np.ndarray:
    """The echo alone: noise that dies away in the place's band, with its bounces; the energy is wetness squared."""
    rng = np.random.default_rng(crc32(where.name.encode()))
    num_samples = samples_of(0.8 * where.echo_seconds)  # what lies below -48 dB is not worth its time
    t = times(num_samples)
    tail = rng.standard_normal(num_samples) * np.exp(-math.log(1000) * t / where.echo_seconds)
    if where.bounce_seconds:
        since = t % where.bounce_seconds
        tail = tail * (0.15 + 2.5 * np.exp(-since / 0.008))
    tail = lowpass(highpass(tail, where.band[0]), where.band[1])
    tail[: samples_of(0.008)] = 0.0  # the first wall is some metres away
    return (where.wetness * tail / np.sqrt(np.sum(tail**2))).astype(np.float32)
