"""Sets of clips against the true ones, by features made by hand, where the answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.distribution import (
    FD,
    KAD,
    KL,
    event_divergences,
    likeness_notes,
    score_likeness,
    shuffled_likeness,
)
from audiostory.benchmark.items import Heard
from audiostory.benchmark.metrics.divergence import LARGEST

NUM_CLASSES = 5


def sure(name: int, features=(0.0, 0.0)) -> Heard:
    """A clip in which the listener hears this class and nothing else."""
    logits = np.where(np.arange(NUM_CLASSES) == name, 60.0, 0.0)
    return Heard(name=str(name), place="", register="", features=np.array(features), logits=logits)


def clips(seed: int, counts=(3, 2, 4, 3)) -> list[list[Heard]]:
    """Stories of that many clips, each with a class unlike that of the next story's clip in the same place."""
    rng = np.random.default_rng(seed)
    return [
        [sure((story + place) % NUM_CLASSES, rng.normal(size=2)) for place in range(count)]
        for story, count in enumerate(counts)
    ]


def means(scores):
    return {name: score.mean for name, score in scores.items()}


def test_the_truth_against_itself_is_at_no_distance():
    truth = clips(1)
    scores = score_likeness(truth, truth)
    assert scores[FD].mean == pytest.approx(0, abs=1e-9)
    assert scores[KL].mean == 0.0
    # Every clip meets itself across the sets and not within them, so the kernel distance is below 0 by at most this.
    assert -200 / 12 <= scores[KAD].mean <= 0
    assert {score.num for score in scores.values()} == {12}


def test_a_shift_of_all_clips_is_its_square_in_the_frechet_distance():
    truth = clips(1)
    shifted = [[sure(int(heard.name), heard.features + np.array([3.0, 4.0])) for heard in story] for story in truth]
    scores = score_likeness(shifted, truth)
    assert scores[FD].mean == pytest.approx(25.0)
    assert scores[KAD].mean > 10
    assert scores[KL].mean == 0.0


def test_a_distance_between_sets_has_no_interval_and_the_divergence_has():
    scores = score_likeness(clips(2), clips(1))
    assert all(math.isnan(scores[name].low) and math.isnan(scores[name].high) for name in (FD, KAD))
    assert scores[KL].low <= scores[KL].mean <= scores[KL].high


def test_clips_of_another_class_in_every_place_are_the_worst_that_can_be_told():
    truth = clips(1, counts=(3, 3, 3))
    exchanged = [truth[(story + 1) % 3] for story in range(3)]
    assert score_likeness(exchanged, truth)[KL].mean == pytest.approx(LARGEST, abs=1e-3)
    assert shuffled_likeness(truth)[KL].mean == pytest.approx(LARGEST, abs=1e-3)


def test_shuffled_stories_are_the_same_sets_so_shuffling_is_no_floor_of_a_distance():
    truth = clips(1)
    exchanged = truth[1:] + truth[:1]
    assert score_likeness(exchanged, truth)[FD].mean == pytest.approx(0, abs=1e-9)
    assert set(shuffled_likeness(truth)) == {KL}


def test_who_tells_nothing_has_no_distance_and_the_worst_divergence():
    truth = clips(1)
    scores = score_likeness([[] for _ in truth], truth)
    assert math.isnan(scores[FD].mean)
    assert math.isnan(scores[KAD].mean)
    assert scores[KL].mean == pytest.approx(LARGEST)
    assert {score.num for score in scores.values()} == {12}
    assert likeness_notes([[] for _ in truth], truth) == [
        "0 clips told and 12 true ones: too few for ear FD and ear KAD"
    ]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=6),
    st.lists(st.integers(0, NUM_CLASSES - 1), max_size=6),
)
def test_to_tell_an_event_is_never_worse_than_not_to_tell_it(names, told):
    truth, answers = [[sure(name) for name in names]], [sure(name) for name in told]
    less = event_divergences([answers[:-1]], truth)[0]
    more = event_divergences([answers], truth)[0]
    assert len(more) == len(names)
    assert all(one <= other + 1e-9 for one, other in zip(more, less, strict=True))
    assert all(0 <= value <= LARGEST for value in more)


def test_needless_clips_count_in_the_sets_alone():
    truth = clips(1)
    more = [[*story, sure(0, (9.0, 9.0))] for story in truth]
    scores = score_likeness(more, truth)
    assert scores[KL].mean == 0.0
    assert scores[FD].mean > 1.0
    assert {score.num for score in scores.values()} == {12}


def test_unequal_numbers_and_few_clips_are_said():
    truth = clips(1)
    (unequal,) = likeness_notes(truth[:3], truth)
    assert "9 clips generated, 12 in the reference" in unequal
    assert likeness_notes(truth, truth) == []
    wide = [[sure(0, np.zeros(12)) for _ in story] for story in truth]
    (few,) = likeness_notes(wide, wide)
    assert "ear FD is mostly bias: 12 vectors of 12 features" in few
