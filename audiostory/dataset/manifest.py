"""Reads a manifest: one story per line of JSON, with its events and, where there are any, their recordings.

A row may hold a recording that is heard before: its events are then what follows, or in their place stands the answer
to a question about it. The first hop of a training sample. The format is written down in `data/README.md`. A row that
cannot be used is named with file, line and reason and left out; when too many are, that is an error, because then
something is wrong with the corpus. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiostory.story.types import Event, Instruction, Storyline

log = logging.getLogger(__name__)

DAMAGED_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One event's recording. `seconds` is the clip's length: the event's, plus what the next cross-fade eats."""

    audio: Path | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a manifest. `clips` has one entry per event, in order.

    `heard_key` is the path, as the manifest has it, of the recording that the instruction holds; its features are
    stored under that name. A row with an `answer` asks a question: it has no events, and may have a `reasoning` that
    is written before the answer.
    """

    id: str
    instruction: Instruction
    storyline: Storyline
    clips: tuple[Clip, ...]
    answer: str = ""
    reasoning: str = ""
    heard_key: str | None = None

    def clip_key(self, index: int) -> str:
        """The name under which an event's latents are stored, such as "train-000012/0"."""
        return f"{self.id}/{index}"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The usable rows of one file. `fingerprint` changes whenever the file's content does."""

    path: Path
    rows: tuple[Row, ...]
    fingerprint: str


class Damage:
    """Names and counts what could not be read; an error once more than `share` of everything seen is damaged.

    `allowed` damaged pieces never stop a run, so that the first piece of a stream cannot.
    """

    def __init__(self, source: str | Path, *, share: float = DAMAGED_SHARE, allowed: int = 0):
        self.source, self.share, self.allowed = source, share, allowed
        self.reasons: list[str] = []

    def note(self, where: str, reason: object) -> None:
        self.reasons.append(f"{where}: {reason}")
        log.warning("skipped %s", self.reasons[-1])

    def check(self, num_seen: int) -> None:
        """Raises ValueError when the damaged ones among `num_seen` are too many."""
        if len(self.reasons) > max(self.allowed, self.share * num_seen):
            shown = "\n  ".join(self.reasons[:5])
            raise ValueError(
                f"{self.source}: {len(self.reasons)} of {num_seen} pieces cannot be used, at most {self.share:.1%} may "
                f"be left out. The first of them:\n  {shown}\nRepair them, or write the corpus again."
            )


def read(path: str | Path, *, damaged_share: float = DAMAGED_SHARE) -> Manifest:
    """Reads and checks every row. Raises ValueError for a missing or empty file, or too many damaged rows."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"no manifest at {path}; write the sound world's with scripts/make_soundworld.py, or see data/README.md"
        )
    content = path.read_bytes()
    damage = Damage(path, share=damaged_share)
    rows: dict[str, Row] = {}
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse(json.loads(line), path.parent)
            if row.id in rows:
                raise ValueError(f"the id {row.id!r} stands on an earlier line too")
            rows[row.id] = row
        except (ValueError, RecursionError) as error:  # json's and unicode's errors are ValueErrors
            damage.note(f"{path}:{number}", error)
    damage.check(len(rows) + len(damage.reasons))
    if not rows:
        raise ValueError(f"{path} holds no rows; expected one story per line, as data/README.md says")
    return Manifest(path=path, rows=tuple(rows.values()), fingerprint=hashlib.sha256(content).hexdigest()[:16])


def parse(data: Any, folder: Path) -> Row:
    """One row from its JSON object; audio paths are relative to `folder`. Raises ValueError saying what is wrong."""
    if not isinstance(data, dict):
        raise ValueError(f"a row must be a JSON object, this is {type(data).__name__}")
    events, has_answer = data.get("events"), data.get("answer") is not None
    if has_answer and events:
        raise ValueError("a row has either events or an answer, this has both")
    if not has_answer and (not isinstance(events, list) or not events):
        raise ValueError("a row needs a list of at least one event under 'events', or text under 'answer'")
    if not has_answer and data.get("reasoning"):
        raise ValueError("'reasoning' stands before an answer, and this row has none; a story's is made of its events")
    total, heard = data.get("total_seconds"), data.get("heard")
    parsed = [_event(event, f"event {index}", folder) for index, event in enumerate(events or [])]
    return Row(
        id=_text(data, "id", "the row"),
        instruction=Instruction(
            text=_text(data, "instruction", "the row"),
            total_seconds=None if total is None else _seconds(data, "total_seconds", "the row"),
            audio=None if heard is None else folder / _text(data, "heard", "the row"),
        ),
        storyline=Storyline(
            summary=_text(data, "summary", "the row", needed=False), events=tuple(event for event, _ in parsed)
        ),
        clips=tuple(clip for _, clip in parsed),
        answer=_text(data, "answer", "the row") if has_answer else "",
        reasoning=_text(data, "reasoning", "the row", needed=False),
        heard_key=heard,
    )


def _event(data: Any, where: str, folder: Path) -> tuple[Event, Clip]:
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be a JSON object")
    seconds = _seconds(data, "seconds", where)
    event = Event(
        caption=_text(data, "caption", where),
        seconds=seconds,
        start=_seconds(data, "start", where, zero=True) if "start" in data else 0.0,
        story_detail=_text(data, "story_detail", where, needed=False),
        sound_detail=_text(data, "sound_detail", where, needed=False),
    )
    audio = data.get("audio")
    if audio is not None and not isinstance(audio, str):
        raise ValueError(f"{where}: 'audio' must be a path or null, not {audio!r}")
    clip_seconds = _seconds(data, "clip_seconds", where) if "clip_seconds" in data else seconds
    return event, Clip(audio=folder / audio if audio else None, seconds=clip_seconds)


def _text(data: Mapping[str, Any], key: str, where: str, *, needed: bool = True) -> str:
    value = data.get(key, None if needed else "")
    if not isinstance(value, str) or (needed and not value.strip()):
        raise ValueError(f"{where} needs text under {key!r}, not {value!r}")
    return value


def _seconds(data: Mapping[str, Any], key: str, where: str, *, zero: bool = False) -> float:
    """A length, or with `zero` a point in time, which may be the beginning."""
    value: Any = data.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and (value > 0 or (zero and value == 0)):
        return float(value)
    sign = "non-negative" if zero else "positive"
    raise ValueError(f"{where} needs a {sign} number of seconds under {key!r}, not {value!r}")
