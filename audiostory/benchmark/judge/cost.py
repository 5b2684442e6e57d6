"""What the questions that are left would cost, before the first is asked: how many, how much to hear, tokens, money.

Tries again come on top; they are rare while the server is well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audiostory.benchmark.judge.calls import DRAWN, Call
from audiostory.benchmark.judge.prompts import RUBRIC

CHARACTERS_PER_TOKEN = 4.0  # of English
AUDIO_TOKENS_PER_SECOND = 32.0  # Gemini's older figure, now 25; OpenAI counts 10
WRITTEN_TOKENS = {DRAWN: 200, RUBRIC: 15}  # an answer's; a rubric item's
WRITTEN_BY_AXIS = 110


@dataclass(frozen=True, kw_only=True)
class Price:
    """Dollars per million tokens. `thought_tokens` is what the model thinks before an answer and is paid as written."""

    text: float
    audio: float
    written: float
    thought_tokens: float = 0.0
    audio_tokens_per_second: float = AUDIO_TOKENS_PER_SECOND


# As published in the middle of 2026, thoughts guessed; --prices takes others.
PRICES = {
    "gemini-2.5-flash": Price(text=0.30, audio=1.00, written=2.50, thought_tokens=600),
    "gemini-2.5-flash-lite": Price(text=0.10, audio=0.30, written=0.40),
    "gemini-2.5-pro": Price(text=1.25, audio=1.25, written=10.00, thought_tokens=1000),
    "gpt-4o-audio-preview": Price(text=2.50, audio=40.00, written=10.00, audio_tokens_per_second=10),
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """`dollars` is None when the model's price is not known."""

    num_calls: int
    audio_minutes: float
    text_tokens: float
    audio_tokens: float
    written_tokens: float
    dollars: float | None

    def __str__(self) -> str:
        words = (
            f"{self.num_calls} questions, {self.audio_minutes:.1f} minutes of sound to hear, about "
            f"{_round(self.text_tokens)} tokens of text, {_round(self.audio_tokens)} of sound and "
            f"{_round(self.written_tokens)} of answers"
        )
        return f"{words}: about ${self.dollars:.2f}" if self.dollars is not None else f"{words}; price not known"


def read_prices(file: Path) -> dict[str, Price]:
    """{"a model": {"text": 0.3, "audio": 1, "written": 2.5}, ...} in dollars per million tokens; else ValueError."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    try:
        prices = {
            str(model): Price(**{name: float(number) for name, number in entry.items()})
            for model, entry in json.loads(file.read_text(encoding="utf-8")).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{file} is no table of prices ({error}); expected {{"a model": {{"text": 0.3, "audio": 1, "written": '
            "2.5}} in dollars per million tokens"
        ) from error
    for model, price in prices.items():
        if not all(math.isfinite(number) and number >= 0 for number in vars(price).values()):
            raise ValueError(f"{file}: the prices of {model} should be 0 or more")
    return prices


def estimate(calls: Sequence[Call], price: Price | None) -> Estimate:
    """Of these questions, all of them asked once."""
    seconds = sum(call.seconds for call in calls)
    text = sum(len(call.prompt) for call in calls) / CHARACTERS_PER_TOKEN
    audio = seconds * (price.audio_tokens_per_second if price else AUDIO_TOKENS_PER_SECOND)
    written = sum(map(_written, calls)) + len(calls) * (price.thought_tokens if price else 0.0)
    spent = None if price is None else (text * price.text + audio * price.audio + written * price.written) / 1e6
    return Estimate(
        num_calls=len(calls),
        audio_minutes=seconds / 60,
        text_tokens=text,
        audio_tokens=audio,
        written_tokens=written,
        dollars=spent,
    )


def _written(call: Call) -> float:
    return WRITTEN_TOKENS.get(call.axis, WRITTEN_BY_AXIS) * (len(call.expected) if call.axis == RUBRIC else 1)


def _round(tokens: float) -> str:
    return f"{tokens / 1000:.0f}k" if tokens >= 10_000 else f"{tokens:.0f}"
