"""The texts around a story: the chat frame with the instruction, and the layout of the reasoning.

The chat frame is the released one to the letter (SPEC 3); a recording stands in it as a run of LISTENING tokens on a
line of their own before the instruction. The reasoning follows the paper (section 3): a summary, the
number of events, then for each event its time range, what happens, the story detail and the sound detail. One line per
field keeps it cheap in tokens and easy to read back:

    Storyline: A storm passes over the farm.
    Number of events: 2
    1. [0.0, 10.2] rain falls on a tin roof
    Story: The farmer waits inside.
    Sound: steady, dense patter
    2. [10.2, 15.0] a dog barks twice
    ...
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from audiostory.story.timing import is_duration, parse_number, timeline
from audiostory.story.types import Instruction, Storyline
from audiostory.story.vocabulary import LISTENING

RELEASED_LEAD_IN = "Produce an in-depth, multi-layered audio that portrays "
"""What stands before every instruction to the released weights. The release draws one of 20 by seed; this is seed 0's,
its default, and the one that is recorded."""


def prompt_text(instruction: Instruction, lead: str = "", num_listening: int = 0) -> str:
    """The chat up to the opened reasoning. That no full stop parts text and duration is the release's layout (SPEC 3).

    ValueError for an empty text, a duration that is not a positive number, or a recording without listening tokens.
    """
    if not instruction.text.strip():
        raise ValueError("the instruction is empty; describe in words what should be heard")
    total = instruction.total_seconds
    if total is not None and not (math.isfinite(total) and total > 0):
        raise ValueError(f"the total duration must be a positive number of seconds; got {total}")
    length = "" if total is None else f" The total duration is {float(total)} seconds."
    return _chat(instruction, f"{lead}{instruction.text}{length}", num_listening) + "<|think|>"


def question_text(instruction: Instruction, num_listening: int = 0) -> str:
    """The chat up to where an answer in words begins; a total duration is not told.

    ValueError for an empty question or a recording without listening tokens.
    """
    if not instruction.text.strip():
        raise ValueError("the question is empty; ask something about the recording")
    return _chat(instruction, instruction.text, num_listening)


def _chat(instruction: Instruction, words: str, num_listening: int) -> str:
    if instruction.audio is not None and num_listening < 1:
        raise ValueError(
            f"the instruction holds the recording {instruction.audio}, but no tokens to hear it at; "
            "give num_listening, or leave the recording out"
        )
    recording = f"{LISTENING * num_listening}\n" if num_listening else ""
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{recording}{words}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def reasoning_text(storyline: Storyline) -> str:
    """The storyline's plan in the layout above, ending in a newline. ValueError as `check` raises it."""
    check(storyline)
    lines = [f"Storyline: {storyline.summary}", f"Number of events: {len(storyline.events)}"]
    ranges = timeline(storyline.events)
    for number, (event, (start, end)) in enumerate(zip(storyline.events, ranges, strict=True), 1):
        lines.append(f"{number}. [{start}, {end}] {event.caption}")
        lines.append(f"Story: {event.story_detail}")
        lines.append(f"Sound: {event.sound_detail}")
    return "\n".join(lines) + "\n"


def check(storyline: Storyline) -> None:
    """ValueError, naming the event, unless every text is one line without space around it, every caption has words, and
    the events tile the time from 0 on (`timing.timeline`)."""
    if not storyline.events:
        raise ValueError("the storyline has no events; a script needs at least one")
    _check_line("the summary", storyline.summary)
    for number, event in enumerate(storyline.events, 1):
        if not event.caption:
            raise ValueError(f"event {number} has no caption; say what is heard")
        _check_line(f"the caption of event {number}", event.caption)
        _check_line(f"the story detail of event {number}", event.story_detail)
        _check_line(f"the sound detail of event {number}", event.sound_detail)
    timeline(storyline.events)


@dataclass(frozen=True, kw_only=True)
class PlannedEvent:
    """An event as the reasoning plans it; `seconds` is None when its time range cannot be read."""

    caption: str
    seconds: float | None
    story_detail: str = ""
    sound_detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a reasoning text holds. `faults` says, in words, what of the layout is missing or could not be read."""

    summary: str
    num_events: int | None
    events: tuple[PlannedEvent, ...]
    faults: tuple[str, ...]


def parse_reasoning(text: str) -> Plan:
    """The inverse of `reasoning_text`. Any text gives a plan: lines that do not fit are skipped, and are faults."""
    summary: str | None = None
    num_events: int | None = None
    events: list[PlannedEvent] = []
    faults: list[str] = []
    for line in text.split("\n"):
        label, _, words = line.partition(":")
        if found := _EVENT_LINE.fullmatch(line):
            seconds = _range_seconds(found[1], found[2])
            if seconds is None:
                faults.append(f"the time range in {shorten(line)} cannot be read")
            events.append(PlannedEvent(caption=found[3].strip(), seconds=seconds))
        elif found := _COUNT_LINE.fullmatch(line):
            num_events = int(found[1])
        elif label == "Storyline":
            summary = words.strip()
        elif label == "Story" and events:
            events[-1] = replace(events[-1], story_detail=words.strip())
        elif label == "Sound" and events:
            events[-1] = replace(events[-1], sound_detail=words.strip())
        elif line.strip():
            faults.append(f"{shorten(line)} does not belong to a plan")
    plan = Plan(summary=summary or "", num_events=num_events, events=tuple(events), faults=tuple(faults))
    if text.strip() and summary is None and num_events is None and not events:  # as the released weights write it
        return replace(plan, faults=("it is free text, not in the layout of a plan",))
    return replace(plan, faults=(*faults, *_missing(plan, has_summary=summary is not None)))


def count_span(reasoning: str) -> tuple[int, int] | None:
    """Where the digits of the "Number of events:" line stand in the text, None when there is no such line."""
    found = _COUNT_LINE.search(reasoning)
    return found.span(1) if found else None


def shorten(text: str) -> str:
    """Text from a planner, quoted for a message."""
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'


_EVENT_LINE = re.compile(r"\d+\. ?\[([^,\]]*),([^\]]*)\](.*)")
_COUNT_LINE = re.compile(r"^Number of events: *([0-9]{1,6}) *$", re.MULTILINE)


def _missing(plan: Plan, *, has_summary: bool) -> Iterator[str]:
    if not has_summary:
        yield 'there is no line "Storyline: ..."'
    if plan.num_events is None:
        yield 'there is no line "Number of events: ..."'
    if not plan.events:
        yield "no event is planned"


def _range_seconds(start: str, end: str) -> float | None:
    first, last = parse_number(start), parse_number(end)
    if first is None or last is None:
        return None
    seconds = round(last - first, 6)
    return seconds if is_duration(seconds) else None


def _check_line(what: str, text: str) -> None:
    if text != text.strip() or len(text.splitlines()) > 1:
        raise ValueError(f"{what} must be one line without space around it; got {text!r}")
