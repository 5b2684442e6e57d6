"""Asks a model and believes nothing it says: one JSON object in the form that was asked for, or one more try.

A caller supplies the model as `Ask`. What an answer may hold is decided by a reading function, whose ValueError is the
reason that is sent back to the model, and, after the second try, the reason for which the clip is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from audiostory.as10k.ledger import Dropped
from audiostory.model_answers import AnswerError, shown
from audiostory.story import SPECIAL_TOKENS

Ask = Callable[[str, Path | None], str]
"""Asks a model, with a video or a recording or with nothing but the prompt.

ConnectionError (TimeoutError too) when no answer came although another try may bring one: the clip is then left for the
next run. Refused when this one is not answered about. Any other OSError or ValueError ends the run.
"""

T = TypeVar("T")
MAX_TEXT = 400  # characters of one text in an answer


def ask_twice(ask: Ask, prompt: str, media: Path | None, read: Callable[[str], T], what: str) -> T:
    """What `read` makes of the answer, or of a second one. Dropped, "{what} not usable", when neither can be used."""
    try:
        return read(ask(prompt, media))
    except AnswerError as error:
        again = f"{prompt}\n\nYour last answer could not be used: {error}. Answer again, with the JSON object alone."
    try:
        return read(ask(again, media))
    except AnswerError as error:
        raise Dropped(f"{what} not usable", str(error)) from error


def items(data: Mapping[str, Any], key: str, *, most: int) -> list[Any]:
    value = data[key]
    if not isinstance(value, list):
        raise AnswerError(f"{key} must be a list, not {shown(value)}")
    if len(value) > most:
        raise AnswerError(f"{key} has {len(value)} entries, at most {most} are allowed")
    return value


def line(data: Mapping[str, Any], key: str, where: str, *, words: int | None = None, empty: bool = False) -> str:
    """One line of text without space around it, of at most so many words: what a script can hold (story.prompts)."""
    value = data[key]
    if not isinstance(value, str):
        raise AnswerError(f"{where}: {key} must be text, not {shown(value)}")
    text = " ".join(value.split())
    if not text and not empty:
        raise AnswerError(f"{where}: {key} is empty")
    if len(text) > MAX_TEXT:
        raise AnswerError(f"{where}: {key} is {len(text)} characters long, at most {MAX_TEXT} are allowed")
    if not text.isprintable():
        raise AnswerError(f"{where}: {key} holds characters that cannot be printed")
    if any(token in text for token in SPECIAL_TOKENS) or "<|" in text:
        raise AnswerError(f"{where}: {key} holds a marker such as <|...|>")
    if words is not None and len(text.split()) > words:
        raise AnswerError(f"{where}: {key} has {len(text.split())} words, at most {words} are allowed")
    return text


def seconds(data: Mapping[str, Any], key: str, where: str) -> float:
    value = data[key]
    # Compared before it is made a float: a whole number of JSON may be too large for one.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise AnswerError(f"{where}: {key} must be a number of seconds, not {shown(value)}")
    return round(float(value), 2)
