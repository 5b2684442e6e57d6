"""Reads what a language model answers, strictly: one JSON object with exactly the keys that were asked for.

One code fence around it is taken off, because models put it there whatever they are told. AnswerError says what is
wrong in words that can be sent back to the model. Who judges and who annotates read with this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

MAX_ANSWER = 200_000  # characters
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)


class AnswerError(ValueError):
    """An answer that is not what was asked for; the message says why."""


def json_object(answer: str, keys: Collection[str]) -> dict[str, Any]:
    """The one object that an answer holds, with exactly these keys, none of them twice."""
    if len(answer) > MAX_ANSWER:
        raise AnswerError(f"it is {len(answer)} characters long, at most {MAX_ANSWER} are read")
    text = answer.strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    try:
        data = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
    except AnswerError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"it is not one JSON object ({str(error)[:80]})") from error
    return with_keys(data, keys, "the answer")


def with_keys(data: Any, keys: Collection[str], where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise AnswerError(f"{where} must be a JSON object, not {shown(data)}")
    if set(data) != set(keys):
        raise AnswerError(f"{where} must have the keys {', '.join(keys)}, not {shown(', '.join(sorted(data)))}")
    return data


def shown(value: Any) -> str:
    """Short enough for a message."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse(constant: str) -> Any:
    raise AnswerError(f"it holds {constant}, which is no JSON")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise AnswerError("it names a key twice in one object")
    return data
