"""Errors of length that can be counted on fingers."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory import timeline
from audiostory.benchmark.metrics.duration import Lengths, rendered, score_durations


def means(*stories):
    return {name: score.mean for name, score in score_durations(stories).items()}


def test_each_error_is_the_mean_of_absolute_differences():
    one = Lengths(asked=10.0, planned=(6.0, 3.0), measured=8.5, clips=(5.5, 3.5))
    other = Lengths(asked=20.0, planned=(20.0,), measured=22.0, clips=(22.0,))
    assert means(one, other) == pytest.approx(
        {
            "length: asked and measured (s)": (1.5 + 2.0) / 2,
            "length: asked and measured (share)": (0.15 + 0.1) / 2,
            "length: asked and planned (s)": (1.0 + 0.0) / 2,
            "length: planned and measured (s)": (0.5 + 2.0) / 2,
            # The clips overlap by 0.5 s, so the events last 5.0 and 3.5 s.
            "event: planned and rendered (s)": (1.0 + 0.5 + 2.0) / 3,
        }
    )


def test_a_perfect_story_has_no_error_and_any_other_has_one():
    perfect = Lengths(asked=9.0, planned=(6.0, 3.0), measured=9.0, clips=(6.5, 3.0))
    assert set(means(perfect).values()) == {0.0}
    assert all(means(Lengths(asked=9.0, planned=(6.0, 2.0), measured=9.5, clips=(6.5, 3.0))).values())


def test_nothing_is_asked_of_a_story_of_free_length_or_a_system_that_does_not_plan():
    scores = score_durations([Lengths(asked=None, planned=None, measured=8.0)])
    assert all(math.isnan(score.mean) and score.num == 0 for score in scores.values())


def test_a_story_that_could_not_be_told_misses_all_of_its_length():
    scores = means(Lengths(asked=10.0, planned=(), measured=0.0))
    assert scores["length: asked and measured (s)"] == scores["length: asked and planned (s)"] == 10.0


def test_clips_with_silence_between_them_have_no_fade():
    assert rendered(Lengths(asked=None, planned=None, measured=10.0, clips=(4.0, 4.0))) == [4.0, 4.0]


def test_clips_are_one_per_planned_event():
    with pytest.raises(ValueError, match="2 clips for 1"):
        Lengths(asked=None, planned=(1.0,), measured=2.0, clips=(1.0, 1.0))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(2.0, 10.0), min_size=1, max_size=8), st.floats(0.0, 1.0))
def test_the_fade_is_found_from_the_clips_alone(seconds, fade):
    """Our own joining overlaps by the whole fade wherever events are twice as long as it."""
    clips = timeline.cut(seconds, max_clip_seconds=20, crossfade_seconds=fade)
    lengths = tuple(clip.seconds + clip.fade_seconds for clip in clips)
    assert rendered(Lengths(asked=None, planned=None, measured=sum(seconds), clips=lengths)) == pytest.approx(seconds)
