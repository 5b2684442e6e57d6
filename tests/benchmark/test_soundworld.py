"""Scores on stories made by hand, where every figure can be counted on fingers."""

import math

import numpy as np
import pytest
from benchmark.cases import heard, told, truth

from audiostory.benchmark.items import ToldStory
from audiostory.benchmark.soundworld import (
    bootstrap,
    hardest,
    others,
    score_cast,
    score_plans,
    score_sounds,
    shuffled_scores,
)

UNTOLD = ToldStory(id="x")


def means(scores):
    return {name: score.mean for name, score in scores.items()}


def plan_of(names, truth_names=("dog", "rain", "bell"), seconds=10.0):
    return means(score_plans([truth("x", truth_names)], [told("x", names, seconds)]))


def test_bootstrap_is_near_the_normal_interval_where_that_holds():
    values = np.random.default_rng(1).normal(3.0, 2.0, 2000)
    score = bootstrap([[value] for value in values])
    margin = 1.96 * values.std() / math.sqrt(len(values))
    assert score.mean == pytest.approx(values.mean())
    assert score.high - score.mean == pytest.approx(margin, rel=0.08)
    assert score.mean - score.low == pytest.approx(margin, rel=0.08)
    assert score.num == 2000


def test_events_that_share_their_fate_do_not_narrow_the_interval():
    stories = np.random.default_rng(2).random(300) < 0.6
    alone, four_alike = bootstrap([[float(x)] for x in stories]), bootstrap([[float(x)] * 4 for x in stories])
    assert (four_alike.mean, four_alike.low, four_alike.high) == (alone.mean, alone.low, alone.high)
    assert four_alike.num == 1200


def test_longer_stories_weigh_more_since_the_mean_is_over_events():
    assert bootstrap([[1.0], [0.0, 0.0, 0.0]]).mean == 0.25


def test_a_score_of_nothing_is_no_number():
    score = bootstrap([[], []])
    assert math.isnan(score.mean)
    assert score.num == 0


def test_a_perfect_plan_scores_one_everywhere():
    scores = plan_of(["dog", "rain", "bell"])
    assert scores.pop("length error (s)") == 0.0
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize("names", [["dog", "rain"], ["dog", "rain", "bell", "owl"]], ids=["missing", "too many"])
def test_another_number_of_events_makes_count_and_order_wrong(names):
    scores = plan_of(names)
    assert scores["event count right"] == scores["order of sounds right"] == scores["captions right to the letter"] == 0


def test_the_right_events_in_another_order_are_wrong_in_order_alone():
    scores = plan_of(["rain", "dog", "bell"])
    assert scores["event count right"] == 1.0
    assert scores["order of sounds right"] == 0.0


def test_a_paraphrase_keeps_the_order_but_not_the_letter():
    story = ToldStory(id="x", captions=("barks of a dog, twice",), clips=(), seconds=10.0)
    scores = means(score_plans([truth("x", ["dog"])], [story]))
    assert scores["order of sounds right"] == 1.0
    assert scores["captions right to the letter"] == 0.0


def test_length_is_asked_only_where_the_instruction_asks_for_one():
    truths = [truth("a", ["dog"]), truth("b", ["dog"], total_seconds=None), truth("c", ["dog"])]
    scores = score_plans(truths, [told("a", ["dog"], 10.1), told("b", ["dog"], 99.0), told("c", ["dog"], 10.2)])
    assert scores["length within 0.1 s"].num == scores["length error (s)"].num == 2
    assert scores["length within 0.1 s"].mean == 0.5
    assert scores["length error (s)"].mean == pytest.approx(0.15)


def test_a_story_that_could_not_be_told_is_wrong_in_every_measure():
    truths = [truth("x", ["dog", "rain", "dog"], pitches={"dog": "low"})]
    scores = {**score_plans(truths, [UNTOLD]), **score_sounds(truths, [[]]), **score_cast(truths, [[]])}
    assert scores.pop("length error (s)").mean == 10.0
    assert {score.mean for score in scores.values()} == {0.0}
    assert all(score.num for score in scores.values())


def test_missing_and_needless_clips_keep_the_number_of_questions():
    truths = [truth("x", ["dog", "rain", "bell"], pitches={"dog": "low", "bell": "high"})]
    for answers in ([heard("dog")], [heard("dog")] * 5):
        scores = score_sounds(truths, [answers])
        assert scores["sound right"].mean == pytest.approx(1 / 3)
        assert (scores["sound right"].num, scores["register right"].num) == (3, 2)


def test_register_is_asked_of_pitched_sounds_alone():
    truths = [truth("x", ["rain", "bell"], pitches={"bell": "high"})]
    scores = score_sounds(truths, [[heard("rain", register="low"), heard("bell", register="high")]])
    assert scores["register right"].mean == 1.0
    assert scores["register right"].num == 1


def test_cast_is_kept_even_when_it_is_the_wrong_one():
    truths = [truth("x", ["dog", "rain", "dog"], place="church", pitches={"dog": "low"})]
    answers = [[heard("dog", "hall", "high"), heard("rain", "room"), heard("dog", "hall", "high")]]
    scores = score_cast(truths, answers)
    assert scores["place stays the same"].mean == pytest.approx(1 / 3)
    assert scores["register stays the same"].mean == 1.0
    assert score_sounds(truths, answers)["place right"].mean == 0.0


def test_a_sound_that_does_not_return_says_nothing_of_its_register():
    scores = score_cast([truth("x", ["dog", "bell"], pitches={"dog": "low", "bell": "low"})], [[heard("dog")] * 2])
    assert scores["register stays the same"].num == 0


@pytest.mark.parametrize("num", [2, 3, 7, 50])
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_stories_are_never_their_own_truth(num, seed):
    partners = others(num, seed)
    assert sorted(partners) == list(range(num))
    assert all(partner != i for i, partner in enumerate(partners))


def test_one_story_cannot_be_shuffled():
    with pytest.raises(ValueError, match="at least 2"):
        others(1)


def test_shuffling_breaks_the_cast_and_keeps_every_number_of_questions():
    places, registers = ["room", "hall", "church", "tunnel"], ["low", "middle", "high"]
    rng = np.random.default_rng(3)
    truths, answers = [], []
    for i in range(300):
        place, register = places[rng.integers(4)], registers[rng.integers(3)]
        truths.append(truth(str(i), ["dog", "rain", "dog"], place=place, pitches={"dog": register}))
        answers.append([heard(event.name, place, register) for event in truths[-1].events])
    stories = [told(story.id, [event.name for event in story.events]) for story in truths]
    scores = shuffled_scores(truths, stories, answers)
    assert scores["place stays the same"].mean == pytest.approx(1 / 4, abs=0.06)
    assert scores["register stays the same"].mean == pytest.approx(1 / 3, abs=0.06)
    assert scores["place right"].mean == pytest.approx(1 / 4, abs=0.06)
    whole = {**score_plans(truths, stories), **score_sounds(truths, answers), **score_cast(truths, answers)}
    assert {name: score.num for name, score in scores.items()} == {name: score.num for name, score in whole.items()}


def test_the_hardest_sounds_go_by_the_captions_and_name_their_rivals():
    stories = [told("a", ["dog", "rain", "bell"]), told("b", ["dog", "rain", "owl"])]
    answers = [[heard("dog"), heard("wind"), heard("bell")], [heard("owl"), heard("wind"), heard("owl")]]
    worst = hardest(stories, answers, num=2)
    assert [(entry.name, entry.right, entry.num) for entry in worst] == [("rain", 0, 2), ("dog", 1, 2)]
    assert worst[0].mistaken_for == {"wind": 2}
