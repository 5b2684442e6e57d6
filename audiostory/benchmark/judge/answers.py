"""Reads what a judge answered, strictly: one JSON object with exactly the keys that were asked for, in their range.

One code fence around it is taken off, because models put it there whatever they are told. BadAnswerError says what is
wrong in words that can be sent back to the judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from audiostory.benchmark.judge.prompts import HIGHEST, MOST_ITEMS

LONGEST_ITEM = 300  # characters; the prompt asks for 25 words
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)


class BadAnswerError(ValueError):
    """The judge did not answer in the form that was asked for."""


def read_axis(text: str, criteria: Sequence[str]) -> dict[str, Any]:
    """{"reason": words, "scores": {criterion: 0 to 5}}, the scores in the order of `criteria`."""
    answer = _object(text, "the answer", {"reason", "scores"})
    if not isinstance(answer["reason"], str):
        raise BadAnswerError('"reason" should be a text')
    scores = _keys(answer["scores"], '"scores"', set(criteria))
    for name, score in scores.items():
        if type(score) is not int or not 0 <= score <= HIGHEST:
            raise BadAnswerError(f"{name!r} is {_short(score)}, a whole number from 0 to {HIGHEST} was expected")
    return {"reason": answer["reason"].strip(), "scores": {name: scores[name] for name in criteria}}


def read_items(text: str) -> list[str]:
    """The rubric that was drawn from an instruction: 1 to MOST_ITEMS different questions."""
    items = _object(text, "the answer", {"items"})["items"]
    if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
        raise BadAnswerError('"items" should be a list of questions')
    items = [" ".join(item.split()) for item in items]
    if not 1 <= len(items) <= MOST_ITEMS or len({item.lower() for item in items}) < len(items):
        raise BadAnswerError(f"1 to {MOST_ITEMS} questions were expected, all different")
    if any(len(item) > LONGEST_ITEM for item in items):
        raise BadAnswerError(f"a question is longer than {LONGEST_ITEM} characters")
    return items


def read_yes_no(text: str, items: Sequence[str]) -> dict[str, bool]:
    """Whether the answer to each item is yes, by its words."""
    numbers = [str(number) for number in range(1, len(items) + 1)]
    answers = _keys(_object(text, "the answer", {"answers"})["answers"], '"answers"', set(numbers))
    read = {}
    for number, item in zip(numbers, items, strict=True):
        said = answers[number].strip().lower() if isinstance(answers[number], str) else answers[number]
        if said not in ("yes", "no"):
            raise BadAnswerError(f'the answer to question {number} is {_short(said)}, "yes" or "no" was expected')
        read[item] = said == "yes"
    return read


def _object(text: str, name: str, keys: set[str]) -> Mapping[str, Any]:
    content = text.strip()
    if fenced := _FENCE.fullmatch(content):
        content = fenced[1]
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_constant=_no_constant)
    except BadAnswerError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadAnswerError("it is not one JSON object") from error
    return _keys(value, name, keys)


def _keys(value: Any, name: str, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadAnswerError(f"{name} should be a JSON object")
    if value.keys() != keys:
        raise BadAnswerError(f"{name} should have exactly the keys {', '.join(sorted(keys))}")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise BadAnswerError("a key stands there twice")
    return content


def _no_constant(name: str) -> Any:
    raise BadAnswerError(f"{name} is no JSON number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
