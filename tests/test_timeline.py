"""Clips tile the story to the sample, and joining them neither loses nor doubles anything."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory import timeline
from audiostory.sound import Waveform
from audiostory.timeline import Clip

seconds_of_events = st.lists(st.floats(0.05, 40.0), min_size=1, max_size=12)
limits = st.tuples(st.floats(1.0, 30.0), st.floats(0.0, 0.5)).map(lambda pair: (pair[0], pair[0] * pair[1]))
rates = st.sampled_from([50, 400, 441])  # small, to be quick


def cut(seconds: list[float], limit: tuple[float, float]) -> tuple[Clip, ...]:
    return timeline.cut(seconds, max_clip_seconds=limit[0], crossfade_seconds=limit[1])


def ones(clip: Clip, rate: int) -> Waveform:
    return Waveform(samples=np.ones((2, clip.num_samples(rate)), dtype=np.float32), sample_rate=rate)


@settings(deadline=None)
@given(seconds_of_events, limits)
def test_clips_follow_each_other_and_fit_the_network(seconds, limit):
    clips = cut(seconds, limit)
    assert clips[0].start == 0
    for clip, following in pairwise(clips):
        assert clip.end == following.start
        assert clip.fade_seconds <= min(clip.seconds, following.seconds) / 2
    assert clips[-1].fade_seconds == 0
    assert clips[-1].end == pytest.approx(sum(seconds))
    assert all(clip.seconds + clip.fade_seconds <= limit[0] + 1e-6 for clip in clips)
    assert sorted({clip.event for clip in clips}) == list(range(len(seconds)))


@settings(deadline=None)
@given(seconds_of_events, limits, rates)
def test_joined_clips_last_the_sum_and_their_fades_add_up_to_one(seconds, limit, rate):
    clips = cut(seconds, limit)
    story = timeline.join([ones(clip, rate) for clip in clips], [timeline.place(clip.start, rate) for clip in clips])
    assert story.num_samples == timeline.place(clips[-1].end, rate)
    np.testing.assert_allclose(story.samples, 1, atol=1e-6)


def test_a_long_event_becomes_equal_parts():
    clips = cut([4.0, 30.0], (12.5, 0.5))
    assert [(clip.event, clip.part, clip.seconds, clip.fade_seconds) for clip in clips] == [
        (0, 0, 4.0, 0.5),
        (1, 0, 10.0, 0.5),
        (1, 1, 10.0, 0.5),
        (1, 2, 10.0, 0.0),
    ]


def test_a_short_event_keeps_half_of_itself():
    clips = cut([5.0, 0.4, 5.0], (12.5, 3.0))
    assert [clip.fade_seconds for clip in clips] == [0.2, 0.2, 0.0]


def test_a_join_begins_with_its_first_clip_wherever_that_lies():
    waves = [Waveform(samples=np.full((1, 4), value, dtype=np.float32), sample_rate=8) for value in (1.0, 3.0)]
    assert timeline.join(waves, [100, 102]).samples.tolist() == [[1, 1, 1, 3, 3, 3]]


def test_a_waveform_is_fitted_by_cutting_or_holding_its_last_sample():
    wave = Waveform(samples=np.array([[1.0, 2.0, 3.0]], dtype=np.float32), sample_rate=8)
    assert timeline.fit(wave, 2).samples.tolist() == [[1, 2]]
    assert timeline.fit(wave, 5).samples.tolist() == [[1, 2, 3, 3, 3]]
