"""Reads what a judge answered: exactly the keys that were asked for, each in its range, or AnswerError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audiostory.benchmark.judge.prompts import HIGHEST, MOST_ITEMS
from audiostory.model_answers import AnswerError, json_object, shown, with_keys

LONGEST_ITEM = 300  # characters; the prompt asks for 25 words


def read_axis(text: str, criteria: Sequence[str]) -> dict[str, Any]:
    """{"reason": words, "scores": {criterion: 0 to 5}}, the scores in the order of `criteria`."""
    answer = json_object(text, ("reason", "scores"))
    if not isinstance(answer["reason"], str):
        raise AnswerError('"reason" should be a text')
    scores = with_keys(answer["scores"], criteria, '"scores"')
    for name, score in scores.items():
        if type(score) is not int or not 0 <= score <= HIGHEST:
            raise AnswerError(f"{name!r} is {shown(score)}, a whole number from 0 to {HIGHEST} was expected")
    return {"reason": answer["reason"].strip(), "scores": {name: scores[name] for name in criteria}}


def read_items(text: str) -> list[str]:
    """The rubric that was drawn from an instruction: 1 to MOST_ITEMS different questions."""
    items = json_object(text, ("items",))["items"]
    if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
        raise AnswerError('"items" should be a list of questions')
    items = [" ".join(item.split()) for item in items]
    if not 1 <= len(items) <= MOST_ITEMS or len({item.lower() for item in items}) < len(items):
        raise AnswerError(f"1 to {MOST_ITEMS} questions were expected, all different")
    if any(len(item) > LONGEST_ITEM for item in items):
        raise AnswerError(f"a question is longer than {LONGEST_ITEM} characters")
    return items


def read_yes_no(text: str, items: Sequence[str]) -> dict[str, bool]:
    """Whether the answer to each item is yes, by its words."""
    numbers = [str(number) for number in range(1, len(items) + 1)]
    answers = with_keys(json_object(text, ("answers",))["answers"], numbers, '"answers"')
    read = {}
    for number, item in zip(numbers, items, strict=True):
        said = answers[number].strip().lower() if isinstance(answers[number], str) else answers[number]
        if said not in ("yes", "no"):
            raise AnswerError(f'the answer to question {number} is {shown(said)}, "yes" or "no" was expected')
        read[item] = said == "yes"
    return read
