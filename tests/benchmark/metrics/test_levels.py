"""Silence, clipping and loudness of sounds that are known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.metrics.levels import GATE, Levels, measure_levels, score_levels

RATE = 48_000


def tone(amplitude=0.1, hertz=997.0, seconds=2.0, rate=RATE):
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]


def test_loudness_is_that_of_the_standard():
    """EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS is -23 LUFS; one side of it is 3 LU less."""
    sine = tone(10 ** (-23 / 20), seconds=20.0)
    assert measure_levels(np.repeat(sine, 2, axis=0), RATE).loudness == pytest.approx(-23.0, abs=0.1)
    assert measure_levels(sine, RATE).loudness == pytest.approx(-26.0, abs=0.1)


def test_silence_is_silent_and_no_quieter_than_the_meters_gate():
    assert measure_levels(np.zeros((2, RATE), np.float32), RATE) == Levels(silent=1.0, clipped=0.0, loudness=GATE)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 19))
def test_silence_is_counted_by_time(tenths):
    samples = tone()
    samples[:, : tenths * RATE // 10] = 1e-4 * np.sign(samples[:, : tenths * RATE // 10])
    assert measure_levels(samples, RATE).silent == pytest.approx(tenths / 20)


def test_a_last_frame_counts_by_its_length():
    samples = np.concatenate([tone(seconds=0.1), np.zeros((1, RATE // 100), np.float32)], axis=1)
    assert measure_levels(samples, RATE).silent == pytest.approx(1 / 11)


@pytest.mark.parametrize("hertz", [40.0, 997.0, 11_000.0])
def test_a_sine_at_full_scale_is_not_clipped_and_one_beyond_is(hertz):
    assert measure_levels(tone(0.99999, hertz), RATE).clipped == 0.0
    beyond = math.acos(1 / 1.5) * 2 / math.pi  # the share of time that a sine of 1.5 spends over 1
    assert measure_levels(tone(1.5, hertz), RATE).clipped == pytest.approx(beyond, rel=0.03)


def test_a_peak_that_was_cut_off_before_is_clipped():
    was_cut = np.clip(tone(1.5, 100.0), -1, 32767 / 32768)
    beyond = math.acos(1 / 1.5) * 2 / math.pi
    assert measure_levels(was_cut, RATE).clipped == pytest.approx(beyond, rel=0.03)


def test_equal_samples_are_counted_one_by_one():
    samples = np.zeros((1, 100), np.float32)
    samples[0, 10:12] = 1.0  # two are a peak
    samples[0, 20:23] = -1.0  # three are flat
    samples[0, 30:35] = 0.5  # and so is this, but not at full scale
    samples[0, 50] = 1.2
    assert measure_levels(samples, RATE).clipped == pytest.approx(4 / 100)


@settings(max_examples=10, deadline=None)
@given(st.floats(-40, -1), st.floats(1, 12))
def test_loudness_follows_the_gain(decibels, gain):
    quiet, loud = (measure_levels(tone(10 ** (level / 20)), RATE).loudness for level in (decibels - gain, decibels))
    assert loud - quiet == pytest.approx(gain, abs=0.01)


def test_a_recording_that_is_too_short_has_no_loudness():
    short = measure_levels(tone(seconds=0.39), RATE)
    assert short.loudness is None
    scores = score_levels([short, Levels(silent=0.5, clipped=0.25, loudness=-20.0)])
    assert (scores["loudness (LUFS)"].mean, scores["loudness (LUFS)"].num) == (-20.0, 1)
    assert (scores["silent (share of time)"].mean, scores["silent (share of time)"].num) == (0.25, 2)
    assert scores["clipped (share of samples)"].mean == 0.125


def test_what_is_no_recording_is_refused():
    for samples in (np.zeros(RATE), np.zeros((1, 0))):
        with pytest.raises(ValueError, match=r"\[channels, samples\]"):
            measure_levels(samples, RATE)
    with pytest.raises(ValueError, match="6 channels"):
        measure_levels(np.zeros((6, RATE)), RATE)
