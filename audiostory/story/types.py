"""The words that a story is made of: what a person asks, what the planner plans, what the planner writes.

Every other room speaks in these types. Times are in seconds; token positions count from the first token of the script.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What a person asks for. `total_seconds` is None when they leave the length to the planner.

    With a recording, `audio`, the text asks for what follows it, which lasts `total_seconds`, or asks about it.
    """

    text: str
    total_seconds: float | None = None
    audio: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that is heard. `story_detail` says why it happens, `sound_detail` how it sounds (paper, section 3)."""

    caption: str
    seconds: float
    start: float = 0.0
    story_detail: str = ""
    sound_detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Storyline:
    """The plan: a summary and the events in order. `reasoning` is the text that stands between the think markers."""

    summary: str
    events: tuple[Event, ...]
    reasoning: str = ""

    @property
    def total_seconds(self) -> float:
        return sum(event.seconds for event in self.events)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a model's scripts hold beside durations and bridge tokens (paper, table 4); a model writes one layout alone.

    Without `reasoning` nothing stands between the think markers. Without `captions` an event is told in the reasoning
    alone. ValueError without either: such a script would not say what is heard.
    """

    reasoning: bool = True
    captions: bool = True

    def __post_init__(self):
        if not (self.reasoning or self.captions):
            raise ValueError("a script without reasoning and without captions says nothing; leave out one of them")


class Role(IntEnum):
    """What a token is for; each loss picks its tokens by role. Padding in a batch is PROMPT, which nothing learns."""

    PROMPT = 0  # the chat frame and the instruction with its recording: read, never learnt
    CONTENT = 1  # the reasoning text, except the number of events
    EVENT_COUNT = 2  # the number of events inside the reasoning
    CAPTION = 3  # an event's caption and its duration, with the duration's markers
    MARKER = 4  # every other marker, and the end of the turn
    BRIDGE = 5  # <t5_i> and <aud_i>: fed, never predicted
    ANSWER = 6  # the text answer of an understanding task
    HEARD = 7  # the reasoning before it: what the recording holds


@dataclass(frozen=True, kw_only=True)
class BridgeSlot:
    """Where one event's bridge tokens stand in the ids; both ranges are half open and hold only the numbered tokens."""

    semantic: range
    residual: range


@dataclass(frozen=True, kw_only=True)
class Script:
    """A whole exchange as tokens: `roles` has one entry per id, `slots` one per event, in order.

    `listening` are the positions of the prompt at which its recording is heard, empty where it holds none.
    """

    ids: tuple[int, ...]
    roles: tuple[Role, ...]
    slots: tuple[BridgeSlot, ...]
    listening: range = range(0)


class ProblemKind(str, Enum):
    """What can be wrong with a script or a plan."""

    NO_REASONING_END = "no reasoning end"
    REASONING = "reasoning unreadable"
    EVENT_COUNT = "event count"
    BROKEN_OFF = "broken-off event"
    BRIDGE = "bridge tokens"
    CAPTION = "caption"
    DURATION = "duration"
    STRAY = "stray markers or text"
    TOTAL = "total duration"
    TOO_LONG = "event too long"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """`event` counts from 1 in the order written, events left out included; None for the script as a whole."""

    kind: ProblemKind
    event: int | None
    message: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a script says. `slots` has one entry per event of the storyline, counted in the ids that were read."""

    storyline: Storyline
    slots: tuple[BridgeSlot, ...]
    problems: tuple[Problem, ...]
