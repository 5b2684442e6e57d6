"""How long things last: what counts as a duration, the grid that scripts are written on, and plans that add up.

Planners slip: durations are missing, absurd, or do not sum to what was asked (the paper's own Figure 4 fills 37.6 s of
the 41.6 s asked). `reconcile` mends that before anything is rendered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from numbers import Real

from audiostory.story.types import Event, Problem, ProblemKind, Storyline

MIN_EVENT_SECONDS = 0.1
"""The grid of scripts; what is shorter cannot be written, nor told from a click."""

MAX_EVENT_SECONDS = 3600.0
"""Longer durations are taken for slips: an hour is beyond any event, and sums stay far from overflow."""

FALLBACK_SECONDS = 10.0
"""For an event whose length nothing tells: what clips last in the common text-to-audio data sets."""


def is_duration(seconds: object) -> bool:
    """Whether an event can last this long: a real number from MIN_EVENT_SECONDS to MAX_EVENT_SECONDS."""
    # The dust of a difference such as 0.3 - 0.2 is let through.
    return isinstance(seconds, Real) and MIN_EVENT_SECONDS - 1e-6 <= float(seconds) <= MAX_EVENT_SECONDS


def parse_duration(text: str) -> float | None:
    """Seconds as written in a script: " 4.25 " is 4.25, while "3.5 seconds", "nan" and "-3" are None."""
    seconds = parse_number(text)
    return seconds if is_duration(seconds) else None


def parse_number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def timeline(events: Sequence[Event]) -> tuple[tuple[float, float], ...]:
    """Start and end of each event in tenths of a second, the grid of scripts; the ranges tile the story.

    Boundaries are rounded, not durations, so that rounding never adds up: three events of 1.25 s give (0.0, 1.2),
    (1.2, 2.5), (2.5, 3.8). ValueError for a duration that `is_duration` refuses or that rounds to nothing, and for a
    start more than 0.05 s away from the end of the event before.
    """
    for number, event in enumerate(events, 1):
        if not is_duration(event.seconds):
            raise ValueError(
                f"event {number} lasts {event.seconds} seconds; expected {MIN_EVENT_SECONDS:g} to {MAX_EVENT_SECONDS:g}"
            )
    starts = lay_out([event.seconds for event in events])
    end = math.fsum(event.seconds for event in events)
    ranges = tuple(pairwise(round(boundary, 1) for boundary in (*starts, end)))
    for number, (event, start, (first, last)) in enumerate(zip(events, starts, ranges, strict=True), 1):
        if not abs(event.start - start) <= 0.05 + 1e-6:
            raise ValueError(
                f"event {number} starts at {event.start} s, but the events before it end at {start} s; "
                "events must follow each other without gap or overlap (script.reconcile lays them out)"
            )
        if first == last:
            raise ValueError(f"event {number} lasts {event.seconds} s from {start} s on, nothing on the grid of 0.1 s")
    return ranges


def lay_out(seconds: Sequence[float]) -> list[float]:
    """The start of each event when they follow each other from 0 on."""
    # Rounding takes off the dust of float sums: after 0.1 s and 0.2 s comes 0.3, not 0.30000000000000004.
    return [round(start, 6) for start in accumulate(seconds, initial=0.0)][:-1]


def fill_gaps(seconds: Sequence[float | None], total_seconds: float | None) -> list[float]:
    """Unknown durations get an equal share of what the known ones leave of the total, else the mean of the known ones,
    else FALLBACK_SECONDS."""
    known = [length for length in seconds if length is not None]
    if len(known) == len(seconds):
        return known
    share = ((total_seconds or 0.0) - math.fsum(known)) / (len(seconds) - len(known))
    if not is_duration(share):
        share = math.fsum(known) / len(known) if known else FALLBACK_SECONDS
    return [round(share, 6) if length is None else length for length in seconds]


def reconcile(
    storyline: Storyline, *, total_seconds: float | None, max_event_seconds: float
) -> tuple[Storyline, list[Problem]]:
    """The storyline with sensible durations that, if a total is asked, sum to it (within 1e-6); starts laid out anew.

    Durations that `is_duration` refuses are estimated (`fill_gaps`). Scaled durations stay on the 0.1 s grid, rounded
    by largest remainder, as far as the total allows: what a total has beyond the grid goes to the longest event, and a
    total too short for 0.1 s each is shared equally. Events above `max_event_seconds` are reported, not changed:
    whoever renders them splits them. ValueError unless both limits are positive numbers.
    """
    for name, limit in (("total_seconds", total_seconds), ("max_event_seconds", max_event_seconds)):
        if limit is not None and not (math.isfinite(limit) and limit > 0):
            raise ValueError(f"{name} must be a positive number of seconds; got {limit}")
    if not storyline.events:
        message = "the storyline has no events, so there is nothing to play"
        return storyline, [Problem(kind=ProblemKind.EVENT_COUNT, event=None, message=message)]
    seconds, problems = _estimated(storyline.events, total_seconds)
    planned = math.fsum(seconds)
    if total_seconds is not None and abs(planned - total_seconds) > 1e-6:
        seconds = _scale(seconds, total_seconds)
        if abs(planned - total_seconds) > 0.05:
            message = f"the events last {planned:.1f} s and {total_seconds:g} s were asked; all durations were scaled"
            problems.append(Problem(kind=ProblemKind.TOTAL, event=None, message=message))
    for number, length in enumerate(seconds, 1):
        if length > max_event_seconds + 1e-6:
            message = f"event {number} lasts {length:g} s, more than the {max_event_seconds:g} s that one clip can hold"
            problems.append(Problem(kind=ProblemKind.TOO_LONG, event=number, message=message))
    events = tuple(
        replace(event, seconds=length, start=start)
        for event, length, start in zip(storyline.events, seconds, lay_out(seconds), strict=True)
    )
    return replace(storyline, events=events), problems


def _estimated(events: Sequence[Event], total_seconds: float | None) -> tuple[list[float], list[Problem]]:
    seconds = fill_gaps([event.seconds if is_duration(event.seconds) else None for event in events], total_seconds)
    problems = []
    for number, (event, estimate) in enumerate(zip(events, seconds, strict=True), 1):
        if not is_duration(event.seconds):
            message = f"event {number} cannot last {event.seconds} seconds; {estimate:g} s were estimated"
            problems.append(Problem(kind=ProblemKind.DURATION, event=number, message=message))
    return seconds, problems


def _scale(seconds: Sequence[float], total: float) -> list[float]:
    """Durations in the same proportions that sum to `total`, on the grid as `reconcile` says."""
    tenths = math.floor(total * 10 + 1e-6)
    if tenths < len(seconds):
        return [total / len(seconds)] * len(seconds)
    planned = math.fsum(seconds)
    shares = [length / planned * total for length in seconds]
    units = [max(1, math.floor(share * 10 + 1e-6)) for share in shares]
    by_remainder = sorted(range(len(units)), key=lambda i: units[i] - shares[i] * 10)
    for i in by_remainder[: max(0, tenths - sum(units))]:
        units[i] += 1
    for _ in range(sum(units) - tenths):  # events shorter than a tenth were given one: the longest give it back
        units[units.index(max(units))] -= 1
    scaled = [unit / 10 for unit in units]
    longest = scaled.index(max(scaled))
    scaled[longest] = round(scaled[longest] + total - tenths / 10, 9)
    return scaled
