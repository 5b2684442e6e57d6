"""What counts as an answer: one JSON object of the form that was asked for, and nothing else."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.judge.answers import read_axis, read_items, read_yes_no
from audiostory.model_answers import AnswerError

CRITERIA = ("scene", "order")
GOOD = {"reason": "rain is heard", "scores": {"order": 4, "scene": 5}}


def test_scores_come_back_in_the_order_of_the_criteria():
    read = read_axis(json.dumps(GOOD), CRITERIA)
    assert read == {"reason": "rain is heard", "scores": {"scene": 5, "order": 4}}
    assert list(read["scores"]) == ["scene", "order"]


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "  ```JSON\n{}```\n"])
def test_one_code_fence_is_taken_off(fence):
    assert read_axis(fence.replace("{}", json.dumps(GOOD)), CRITERIA)["scores"]["order"] == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not one JSON object"),
        ("I think 4.", "not one JSON object"),
        (f"Here it is: {json.dumps(GOOD)}", "not one JSON object"),
        (f"{json.dumps(GOOD)} {json.dumps(GOOD)}", "not one JSON object"),
        ("[" * 100_000, "not one JSON object"),
        ("[1, 2]", "must be a JSON object"),
        ('{"scores": {"scene": 1, "order": 1}}', "must have the keys reason, scores"),
        ('{"reason": "", "scores": {"scene": 1}}', "must have the keys scene, order"),
        ('{"reason": "", "scores": {"scene": 1, "order": 1, "mood": 1}}', "must have the keys scene, order"),
        ('{"reason": "", "scores": {"scene": 6, "order": 1}}', "'scene' is 6, a whole number from 0 to 5"),
        ('{"reason": "", "scores": {"scene": -1, "order": 1}}', "'scene' is -1"),
        ('{"reason": "", "scores": {"scene": 3.5, "order": 1}}', "'scene' is 3.5"),
        ('{"reason": "", "scores": {"scene": "4", "order": 1}}', "'scene' is '4'"),
        ('{"reason": "", "scores": {"scene": true, "order": 1}}', "'scene' is True"),
        ('{"reason": "", "scores": {"scene": null, "order": 1}}', "'scene' is None"),
        ('{"reason": "", "scores": {"scene": NaN, "order": 1}}', "it holds NaN"),
        ('{"reason": "", "scores": {"scene": 1, "scene": 5, "order": 1}}', "names a key twice"),
        ('{"reason": 3, "scores": {"scene": 1, "order": 1}}', '"reason" should be a text'),
    ],
)
def test_anything_else_is_refused_with_the_reason(text, problem):
    with pytest.raises(AnswerError, match=problem.replace("[", r"\[")):
        read_axis(text, CRITERIA)


@settings(deadline=None)
@given(text=st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_text_breaks_the_reader(text):
    for read in (lambda: read_axis(text, CRITERIA), lambda: read_items(text), lambda: read_yes_no(text, ["a?"])):
        with pytest.raises(AnswerError):
            read()


@settings(deadline=None)
@given(scores=st.fixed_dictionaries(dict.fromkeys(CRITERIA, st.integers(-3, 8))))
def test_exactly_the_numbers_from_0_to_5_are_scores(scores):
    text = json.dumps({"reason": "", "scores": scores})
    if all(0 <= score <= 5 for score in scores.values()):
        assert read_axis(text, CRITERIA)["scores"] == scores
    else:
        with pytest.raises(AnswerError):
            read_axis(text, CRITERIA)


def test_items_are_different_questions_without_stray_space():
    assert read_items('{"items": [" Is  it\\nraining? ", "Does a dog bark?"]}') == [
        "Is it raining?",
        "Does a dog bark?",
    ]
    for items in ([], ["a?", "A?"], [""], [3], "a?", ["a?"] * 13, ["x" * 301], [f"{n}?" for n in range(13)]):
        with pytest.raises(AnswerError):
            read_items(json.dumps({"items": items}))


def test_yes_and_no_go_back_to_their_items():
    assert read_yes_no('{"answers": {"2": "No", "1": " yes "}}', ["rain?", "dog?"]) == {"rain?": True, "dog?": False}
    for answers in (
        {"1": "yes"},
        {"1": "yes", "2": "maybe"},
        {"1": True, "2": False},
        {"1": "yes", "3": "no"},
        ["yes"],
    ):
        with pytest.raises(AnswerError):
            read_yes_no(json.dumps({"answers": answers}), ["rain?", "dog?"])
