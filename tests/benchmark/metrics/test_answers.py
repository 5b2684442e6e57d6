"""Accuracy and balanced accuracy that can be counted on fingers, and the same as the sound world's."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.listening import Question, score_answers
from audiostory.benchmark.metrics.answers import balanced_accuracy, score_question_answering


def means(truths, answers):
    scores = score_question_answering(truths, answers, range(len(truths)))
    return {name: score.mean for name, score in scores.items()}


def test_accuracies_counted_on_fingers():
    truths = ["yes", "yes", "yes", "no", "a dog", "rain"]
    answers = ["Yes.", "yes", "no", "no", " A  DOG! ", "wind"]
    assert means(truths, answers) == pytest.approx(
        {
            "accuracy, all": 4 / 6,
            "balanced accuracy, all": (2 / 3 + 1 + 1 + 0) / 4,
            "accuracy, yes or no": 3 / 4,
            "balanced accuracy, yes or no": (2 / 3 + 1) / 2,
        }
    )


@settings(max_examples=8, deadline=None)
@given(st.lists(st.booleans(), min_size=2).filter(lambda row: len(set(row)) == 2), st.sampled_from(["yes", "no"]))
def test_always_the_same_answer_is_worth_half_of_yes_and_no(row, answer):
    truths = ["yes" if value else "no" for value in row]
    assert means(truths, [answer] * len(row))["balanced accuracy, yes or no"] == 0.5


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(["yes", "no", "rain", "a dog", "3"]), min_size=2))
def test_the_truth_scores_one_and_another_answer_for_each_scores_nothing(truths):
    following = {"yes": "no", "no": "rain", "rain": "a dog", "a dog": "3", "3": "yes"}
    best, worst = means(truths, truths), means(truths, [following[truth] for truth in truths])
    for name, value in best.items():
        assert (value, worst[name]) == (1.0, 0.0) or math.isnan(value)


def test_only_whole_answers_are_right():
    assert means(["yes", "no"], ["yes it does", "know"])["accuracy, all"] == 0.0


def test_it_is_the_same_as_what_the_sound_world_is_scored_by():
    questions, answers = [], []
    for number in range(40):
        truth = "yes" if number % 3 else "no"
        questions.append(
            Question(
                id=str(number), kind="presence", text="?", answer=truth, recording=None, story=number // 4, unseen=False
            )
        )
        answers.append("yes" if number % 5 else "no")
    ours = score_question_answering([q.answer for q in questions], answers, [q.story for q in questions])
    theirs = score_answers(questions, answers)
    assert ours["accuracy, yes or no"] == ours["accuracy, all"] == theirs["presence right"]
    assert ours["balanced accuracy, yes or no"] == theirs["presence right, yes and no alike"]


def test_the_interval_resamples_recordings_whole():
    classes, right = ["yes", "no"] * 50, [k % 4 < 2 for k in range(100)]
    alone = balanced_accuracy(classes, right, range(100))
    together = balanced_accuracy(classes, right, [k // 2 for k in range(100)])
    assert alone.mean == together.mean == 0.5
    assert together.high - together.low > 1.2 * (alone.high - alone.low)


def test_a_draw_without_some_class_is_the_mean_over_the_others():
    """A third of the draws leaves out the only no, which is wrong: those are worth 1, the others 0.5."""
    score = balanced_accuracy(["yes", "yes", "no"], [True, True, False], [0, 1, 2])
    assert (score.mean, score.low, score.high) == (0.5, 0.0, 1.0)


def test_a_score_of_nothing_is_no_number():
    scores = score_question_answering(["rain", "a dog"], ["rain", "wind"], [0, 1])
    assert scores["accuracy, yes or no"].num == scores["balanced accuracy, yes or no"].num == 0
    assert math.isnan(scores["balanced accuracy, yes or no"].mean)


def test_lists_that_do_not_fit_and_truths_without_words_are_refused():
    with pytest.raises(ValueError, match="2 truths, 1 answers"):
        score_question_answering(["yes", "no"], ["yes"], [0, 1])
    with pytest.raises(ValueError, match="犬"):
        score_question_answering(["yes", "犬"], ["yes", "猫"], [0, 1])
