"""Consistency on embeddings: what always sounds the same is not rewarded, shuffled events have none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.metrics.consistency import score_consistency

WITHIN, ACROSS = "events of a story alike (cosine)", "events of different stories alike (cosine)"
MORE, NEXT = "more alike within a story than between (cosine)", "neighbouring events alike (cosine)"
SPREAD = "spread of timbre within a story"


def means(stories):
    return {name: score.mean for name, score in score_consistency(stories).scores.items()}


def test_cosines_counted_on_fingers():
    half = math.sqrt(0.5)
    scores = means({"a": np.array([[1.0, 0], [1, 1], [0, 3]]), "b": np.array([[2.0, 0], [2, 0]])})
    assert scores[NEXT] == pytest.approx((half + 1) / 2)  # story a: half and half; story b: 1
    assert scores[WITHIN] == pytest.approx(((half + half + 0) / 3 + 1) / 2)
    assert scores[ACROSS] == pytest.approx((1 + half + 0) / 3)
    assert scores[MORE] == pytest.approx(scores[WITHIN] - scores[ACROSS])
    centre = np.array([1 + half, 1 + half]) / 3
    assert scores[SPREAD] == pytest.approx(math.sqrt(1 - centre @ centre) / 2)


def test_the_same_sound_everywhere_is_alike_and_worth_nothing():
    scores = means({str(k): np.tile([0.3, 0.4, 0.5], (4, 1)) for k in range(3)})
    alike = [scores[NEXT], scores[WITHIN], scores[ACROSS]]  # on some processors to a rounding
    assert alike == pytest.approx([1.0] * 3)
    assert scores[MORE] == pytest.approx(0.0)
    assert scores[SPREAD] == pytest.approx(0.0, abs=1e-7)


def worlds(rng, num=12, events=4, dimensions=16, own=1.0):
    """Stories that each have a voice of their own."""
    voices = rng.standard_normal((num, 1, dimensions))
    return own * voices + 0.5 * rng.standard_normal((num, events, dimensions))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_story_that_keeps_its_voice_is_best_and_shuffled_events_have_none(seed):
    rng = np.random.default_rng(seed)
    truth = worlds(rng)
    shuffled = rng.permutation(truth.reshape(-1, 16)).reshape(truth.shape)
    best, worst = (means({str(k): story for k, story in enumerate(stories)}) for stories in (truth, shuffled))
    assert best[MORE] > 0.4 > worst[MORE]
    assert best[WITHIN] > worst[WITHIN]
    assert best[NEXT] > worst[NEXT]
    assert best[SPREAD] < worst[SPREAD]


def test_shuffled_events_are_as_alike_within_as_between():
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(worlds(rng, num=200).reshape(-1, 16)).reshape(200, 4, 16)
    score = score_consistency({str(k): story for k, story in enumerate(shuffled)}).scores[MORE]
    assert score.low < 0.01
    assert score.high > -0.01
    assert abs(score.mean) < 0.02


def test_events_without_sound_are_skipped_and_short_stories_are_named():
    gap = np.array([[1.0, 0], [np.nan, np.nan], [0, 1]])
    scores = score_consistency({"gap": gap, "lone": gap[:1], "silent": gap[1:2], "next": np.eye(2)})
    assert scores.left_out == ("lone", "silent")
    assert (scores.scores[WITHIN].num, scores.scores[WITHIN].mean) == (2, 0.0)
    assert scores.scores[NEXT].num == 1  # the two around the gap are no neighbours


def test_one_story_has_no_others_to_be_compared_with():
    scores = score_consistency({"a": np.eye(2)}).scores
    assert scores[ACROSS].num == scores[MORE].num == 0
