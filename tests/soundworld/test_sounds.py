"""The claims that the sound world makes about its sounds, each measured on the samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import find_peaks, stft

from audiostory.soundworld.sounds import CLASSES, MIN_GAP, PLACES, SAMPLE_RATE, Cast, Sound, render

REGISTERS = ("low", "middle", "high")
PITCHED = tuple(name for name, entry in CLASSES.items() if entry.has_pitch)
COUNTABLE = tuple(name for name, entry in CLASSES.items() if entry.kind == "countable")
CONTINUOUS = tuple(name for name, entry in CLASSES.items() if entry.kind == "continuous")


def cast(place: str = "open air", register: Any = "middle", seed: int = 0) -> Cast:
    return Cast(place=place, pitches=dict.fromkeys(PITCHED, register), seed=seed)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """Magnitudes [257, frames], a frame every 10 ms."""
    return np.abs(stft(samples, SAMPLE_RATE, nperseg=512, noverlap=352, padded=False)[2])


def onsets(samples: np.ndarray) -> np.ndarray:
    """Times in seconds at which energy arrives, at least 0.25 s apart."""
    magnitude = spectrogram(samples)
    flux = np.maximum(magnitude[:, 2:] - magnitude[:, :-2], 0).sum(axis=0)
    smooth = np.convolve(np.pad(flux, 10), np.hanning(21), "valid")
    return find_peaks(smooth, height=0.3 * smooth.max(), distance=25, prominence=0.24 * smooth.max())[0] / 100


def pitch(samples: np.ndarray, around: float) -> float:
    """Median over the loud frames of the shortest strong period, sought within 11 semitones of `around` hertz."""
    shortest, longest = int(SAMPLE_RATE / around / 2 ** (11 / 12)), int(SAMPLE_RATE / around * 2 ** (11 / 12)) + 2
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::256]
    energy = (frames**2).sum(axis=1)
    found = []
    for frame in frames[energy > 0.3 * energy.max()]:
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame - frame.mean(), 2048)) ** 2)
        likeness = (correlation[:1024] / np.arange(1024, 0, -1))[shortest : longest + 1]
        peaks = find_peaks(likeness, height=0.85 * likeness.max())[0]
        if len(peaks):
            before, at, after = likeness[peaks[0] - 1 : peaks[0] + 2]
            found.append(SAMPLE_RATE / (shortest + peaks[0] + 0.5 * (before - after) / (before - 2 * at + after)))
    return float(np.median(found))


def strongest_hertz(samples: np.ndarray) -> float:
    """The centre of the strongest half octave of the whole clip."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    centres = 50 * 2 ** np.arange(0, 7, 1 / 24)
    bands = [power[(hertz > c * 2**-0.125) & (hertz < c * 2**0.125)].sum() for c in centres]
    return float(centres[int(np.argmax(bands))])


def decibels(ratio: float) -> float:
    return 20 * float(np.log10(ratio))


def test_there_are_twenty_six_classes_of_which_fourteen_have_a_pitch():
    assert len(CLASSES) == 26
    assert sorted(PITCHED) == [
        *("beep", "bell", "bird", "creak", "dog", "drum", "engine"),
        *("flute", "frog", "guitar", "horn", "owl", "piano", "siren"),
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_the_same_arguments_give_the_same_samples_and_another_seed_others(name: str):
    def samples(timbre: int, seed: int) -> np.ndarray:
        return render(Sound(name=name), cast("hall", seed=timbre), 1.5, seed)

    once = samples(3, 4)
    assert once.dtype == np.float32
    np.testing.assert_array_equal(once, samples(3, 4))
    assert not np.array_equal(once, samples(3, 5))
    assert not np.array_equal(once, samples(5, 4))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", COUNTABLE)
def test_strokes_can_be_counted(name: str, count: int):
    for seed in range(3):
        samples = render(Sound(name=name, count=count, distance="near"), cast(seed=seed), 0.5 + 1.0 * count, seed)
        found = onsets(samples)
        assert len(found) == count, found
        assert np.all(np.diff(found) > MIN_GAP - 0.05)


@pytest.mark.parametrize("name", ["dog", "footsteps", "knock", "bell", "piano", "drum"])
def test_quick_strokes_come_at_more_than_twice_the_rate_of_slow_ones(name: str):
    gaps = {}
    for pace in ("slow", "quick"):
        gaps[pace] = np.median(np.diff(onsets(render(Sound(name=name, pace=pace), cast(), 10.0, 1))))
    assert gaps["slow"] > 2 * gaps["quick"]


@pytest.mark.parametrize(("pace", "gap"), [("slow", 0.5 / 0.6), (None, 0.5), ("quick", 0.5 / 1.6)])
def test_pace_sets_the_beat_of_a_clock(pace: Any, gap: float):
    ticks = onsets(render(Sound(name="clock", pace=pace), cast(), 10.0, 1))
    assert np.median(np.diff(ticks)) == pytest.approx(gap, abs=0.02)


@pytest.mark.parametrize("name", CLASSES)
def test_far_is_quieter_and_duller_than_near(name: str):
    near, far = (render(Sound(name=name, distance=d), cast("room"), 3.0, 2) for d in ("near", "far"))
    assert decibels(np.abs(far).max() / np.abs(near).max()) == pytest.approx(-9, abs=1)
    bright = [float((s := spectrogram(x))[120:].sum() / s.sum()) for x in (near, far)]
    assert bright[1] < bright[0]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_soft_and_loud_are_ten_decibels_apart_and_fill_the_clip(name: str):
    soft, loud = (render(Sound(name=name, level=level), cast(), 6.0, 2) for level in ("soft", "loud"))
    assert decibels(loud.std() / soft.std()) == pytest.approx(10, abs=0.5)
    for part in np.split(loud, 3):
        assert np.abs(part).max() > 0.02


@pytest.mark.parametrize("name", PITCHED)
def test_registers_lie_five_semitones_apart(name: str):
    middle = CLASSES[name].hertz
    assert middle is not None
    for seed in range(3):
        clips = [render(Sound(name=name, pace="quick"), cast(register=r, seed=seed), 4.0, 1) for r in REGISTERS]
        # a bell's hum is a true period an octave below what one hears, so its strongest partial is asked instead
        heard = [strongest_hertz(clip) if name == "bell" else pitch(clip, middle) for clip in clips]
        np.testing.assert_allclose(12 * np.diff(np.log2(heard)), 5, atol=1)
        assert abs(12 * np.log2(heard[1] / middle)) < 2.5


def test_a_voice_keeps_its_pitch_through_a_story_and_other_casts_lie_within_a_semitone():
    def bell(timbre: int, seed: int) -> float:
        return strongest_hertz(render(Sound(name="bell", count=1), cast(seed=timbre), 3.0, seed))

    assert len({bell(1, seed) for seed in range(4)}) == 1
    others = 12 * np.log2([bell(timbre, 0) / CLASSES["bell"].hertz for timbre in range(8)])  # type: ignore[operator]
    assert np.all(np.abs(others) < 2)
    assert len(set(others)) > 3


def test_each_place_has_its_own_echo():
    def late_energy(place: str, after: float) -> float:
        samples = render(Sound(name="knock", count=1), cast(place), 3.0, 5).astype(float)
        first = int(np.abs(samples).argmax())
        return float(np.sum(samples[first + int(after * SAMPLE_RATE) :] ** 2) / np.sum(samples**2))

    tenth = {place: late_energy(place, 0.1) for place in PLACES}
    second = {place: late_energy(place, 1.0) for place in PLACES}
    assert tenth["open air"] < 0.1 * tenth["room"] < 0.1 * tenth["hall"] < 0.1 * tenth["church"]
    assert second["open air"] < second["hall"] < 0.01 * second["tunnel"] < 0.01 * second["church"]


def test_a_clip_too_short_for_its_strokes_squeezes_them_in():
    samples = render(Sound(name="knock", count=5), cast(), 0.5, 0)
    assert len(samples) == SAMPLE_RATE // 2
    assert np.abs(samples[: len(samples) // 2]).max() > 0.1
    assert np.abs(samples[-len(samples) // 4 :]).max() > 0.1


@st.composite
def any_sounds(draw: Any) -> Sound:
    name = draw(st.sampled_from(tuple(CLASSES)))
    countable = CLASSES[name].kind == "countable"
    return Sound(
        name=name,
        count=draw(st.sampled_from((None, 1, 2, 3, 4, 5))) if countable else None,
        pace=draw(st.sampled_from((None, "slow", "quick"))),
        level=None if countable else draw(st.sampled_from((None, "soft", "loud"))),
        distance=draw(st.sampled_from((None, "near", "far"))),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    sound=any_sounds(),
    place=st.sampled_from(tuple(PLACES)),
    register=st.sampled_from(REGISTERS),
    timbre=st.integers(0, 2**40),
    seconds=st.one_of(st.floats(0.5, 2.0), st.floats(0.5, 30.0)),
    seed=st.integers(0, 2**40),
)
def test_any_sound_is_finite_heard_unclipped_and_of_the_length_asked(
    sound: Sound, place: str, register: str, timbre: int, seconds: float, seed: int
):
    samples = render(sound, cast(place, register, timbre), seconds, seed)
    assert samples.shape == (round(seconds * SAMPLE_RATE),)
    assert np.all(np.isfinite(samples))
    assert 0.05 < np.abs(samples).max() <= 0.61


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cat"}, "unknown sound class 'cat'"),
        ({"name": "rain", "count": 2}, "countable"),
        ({"name": "knock", "level": "soft"}, "continuous"),
        ({"name": "knock", "count": 6}, "unknown count 6"),
        ({"name": "knock", "pace": "fast"}, "unknown pace 'fast'"),
    ],
)
def test_a_sound_that_cannot_be_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Sound(**arguments)


def test_a_cast_that_cannot_play_is_refused():
    with pytest.raises(ValueError, match="unknown place 'cave'"):
        Cast(place="cave", pitches={}, seed=0)
    with pytest.raises(ValueError, match="unknown pitched class 'rain'"):
        Cast(place="room", pitches={"rain": "low"}, seed=0)
    with pytest.raises(ValueError, match=r"Cast\.pitches has no bell"):
        render(Sound(name="bell"), Cast(place="room", pitches={}, seed=0), 2.0, 0)
    with pytest.raises(ValueError, match=r"0\.5 to 30\.0 seconds"):
        render(Sound(name="rain"), cast(), 31.0, 0)
