"""Joins of tones and noises made here: a hard cut is worse than a cross-fade, a click is found, silence is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory import sound
from audiostory.benchmark.metrics.joins import CLICK, Join, measure_joins, score_joins
from audiostory.sound import Waveform

RATE = 16_000
FADE = 0.5


def tone(hertz, amplitude=0.1, seconds=2.0, rate=RATE):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def noise(amplitude=0.1, seconds=2.0, seed=0):
    return amplitude * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def join(one, other, fade=0.0) -> Join:
    """How the two go over into each other; what sounds on under the fade is looked for in any case."""
    clips = [Waveform(samples=clip.astype(np.float32), sample_rate=RATE) for clip in (one, other)]
    story = sound.crossfade(clips, fade)
    (measured,) = measure_joins(story.samples, RATE, [len(one) / RATE - fade], FADE)
    assert measured is not None
    return measured


def test_a_sound_that_just_goes_on_has_no_step():
    whole = tone(440, seconds=4.0)
    measured = join(whole[: 2 * RATE], whole[2 * RATE :])
    assert measured.level_step == pytest.approx(0.0, abs=0.1)
    assert measured.colour_step == pytest.approx(0.0, abs=0.2)
    assert measured.click == pytest.approx(1.0, abs=0.01)


def test_a_tone_cut_over_to_one_of_a_tenth_has_a_step_of_20_decibels_and_no_colour():
    whole = tone(440, seconds=4.0)
    whole[2 * RATE :] *= 0.1
    measured = join(whole[: 2 * RATE], whole[2 * RATE :])
    assert measured.level_step == pytest.approx(20.0, abs=0.1)
    assert measured.level_inside == pytest.approx(0.0, abs=0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, RATE // 2))
def test_a_cut_is_found_in_full_wherever_in_the_time_of_the_fade_it_is(late):
    whole = tone(440, seconds=4.0)
    whole[2 * RATE + late :] *= 0.1
    measured = join(whole[: 2 * RATE], whole[2 * RATE :])
    assert measured.level_step == pytest.approx(20.0, abs=0.2)


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.19, 0.2, 0.21, 0.25])
def test_the_shortest_sounds_are_measured_or_left_out(seconds):
    (measured,) = measure_joins(tone(440, seconds=seconds)[None], RATE, [seconds / 2])
    assert (measured is not None) == (seconds >= 0.2)
    assert measured is None or measured.level_step == pytest.approx(0.0, abs=0.5)


def test_colour_is_about_frequencies_and_not_about_level():
    measured = join(noise(0.1), noise(0.01, seed=1))
    other = join(tone(300), tone(2000))
    assert measured.level_step == pytest.approx(20.0, abs=1.0)
    assert other.level_step == pytest.approx(0.0, abs=0.3)
    assert other.colour_step > 5 * measured.colour_inside
    assert measured.colour_step < 2 * measured.colour_inside


def test_silence_has_a_floor_and_all_silences_are_alike():
    measured = join(np.zeros(2 * RATE), 1e-6 * tone(440))
    assert measured.level_step == 0.0
    assert measured.click < 0.01
    silent = join(np.zeros(2 * RATE), np.zeros(2 * RATE))
    assert (silent.level_step, silent.colour_step, silent.click) == (0.0, 0.0, 0.0)
    assert join(tone(440, 0.1), np.zeros(2 * RATE)).level_step == pytest.approx(60 - 20 - 3.01, abs=0.1)


@settings(max_examples=20, deadline=None)
@given(st.floats(100, 1500), st.floats(2000, 7000), st.floats(-30, -6), st.floats(10, 30))
def test_a_hard_cut_has_worse_joins_than_a_cross_fade(low, high, decibels, step):
    loud, quiet = tone(low, 10 ** (decibels / 20)), tone(high, 10 ** ((decibels - step) / 20))
    for one, other in ((loud, quiet), (quiet, loud)):
        cut, faded = join(one, other), join(one, other, FADE)
        assert cut.level_step > faded.level_step
        assert cut.colour_step > faded.colour_step


@settings(max_examples=20, deadline=None)
@given(st.floats(100, 800), st.floats(0.01, 0.5), st.integers(0, 400))
def test_a_click_is_found_wherever_in_the_join_it_is(hertz, amplitude, shift):
    whole = tone(hertz, amplitude, seconds=4.0)
    clean = join(whole[: 2 * RATE], whole[2 * RATE :])
    whole[2 * RATE + shift] += 10 * amplitude * 2 * math.pi * hertz / RATE + 2e-3
    assert clean.click <= CLICK < join(whole[: 2 * RATE], whole[2 * RATE :]).click


def test_tones_cut_at_their_peak_click_and_cross_faded_ones_do_not():
    one, other = tone(200)[: 2 * RATE - RATE // 800], tone(300)
    assert join(one, other).click > CLICK
    assert join(one, other, FADE).click < 2


@pytest.mark.parametrize("seed", range(5))
def test_neither_noise_nor_an_onset_is_a_click(seed):
    onset = noise(0.3, seed=seed) * np.exp(-np.arange(2 * RATE) / (0.02 * RATE))
    assert join(noise(0.05, seed=seed), noise(0.05, seed=seed + 9)).click < CLICK
    assert join(noise(0.001, seed=seed), onset).click < CLICK
    assert join(onset[::-1], noise(0.001, seed=seed)).click < CLICK


def test_a_click_in_silence_must_be_heard():
    story = np.zeros((1, 4 * RATE))
    story[0, 2 * RATE] = 5e-4
    assert measure_joins(story, RATE, [2.0])[0].click < CLICK
    story[0, 2 * RATE] = 5e-3
    assert measure_joins(story, RATE, [2.0])[0].click > CLICK


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100])
def test_other_rates_and_stereo_give_nearly_the_same_steps(rate):
    story = np.concatenate([tone(300, 0.3, rate=rate), tone(1200, 0.03, rate=rate)])
    (measured,) = measure_joins(np.stack([story, story]), rate, [2.0])
    assert measured.level_step == pytest.approx(20.0, abs=0.2)


def test_joins_that_were_never_reached_are_none():
    story = tone(440, seconds=4.0)[None]
    measured = measure_joins(story, RATE, [0.05, 2.0, 3.95, 9.0], 0.0)
    assert [join is None for join in measured] == [True, False, True, True]
    scores = score_joins([measured, [None]])
    assert {score.num for score in scores.values()} == {1}


def test_scores_are_means_over_joins():
    one = Join(level_step=10.0, level_inside=4.0, colour_step=6.0, colour_inside=1.0, click=9.0)
    other = Join(level_step=2.0, level_inside=float("nan"), colour_step=0.0, colour_inside=3.0, click=1.0)
    scores = {name: score.mean for name, score in score_joins([[one, None], [other]]).items()}
    assert scores == {
        "level step at joins (dB)": 6.0,
        "level step at joins, beyond the events' own (dB)": 6.0,
        "colour step at joins (dB)": 3.0,
        "colour step at joins, beyond the events' own (dB)": 1.0,
        "joins that click": 0.5,
    }


def test_what_is_no_recording_is_refused():
    with pytest.raises(ValueError, match=r"\[channels, samples\]"):
        measure_joins(np.zeros(100), RATE, [0.0])
    with pytest.raises(ValueError, match="8000 Hz or more"):
        measure_joins(np.zeros((1, 100)), 4000, [0.0])
