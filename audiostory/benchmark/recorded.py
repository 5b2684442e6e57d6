"""What was asked of any system, and the recordings that it left on disk: a file of items, and a folder of audio.

An item is a line of JSON:

    {"id": "farm-12", "instruction": "First rain, then a dog.", "caption": "rain falls, at last a dog barks",
     "total_seconds": 15.0, "events": [{"caption": "rain falls", "start": 0.0, "seconds": 10.2}, ...],
     "reference": "truth/farm-12.wav"}

`caption` tells the whole story and `events` is the plan of the reference; `total_seconds` and `reference` may be null,
and a path is relative to the file of items. Under "heard" there may be a recording from which the story goes on. A row
of a manifest (data/README.md), such as scripts/prepare_as10k.py writes, is an item too: its `summary` is the caption,
its `audio` the reference. A system's folder holds of each story one of

    farm-12.wav                  the whole story, .wav or .flac; its events lie where the item has them
    farm-12/story.wav            the same; beside it there may be a clip of each event, events/1.wav, events/2.wav, ...
    farm-12/storyline.json       as evaluate/inference.py writes it: the system's own plan, and the names of its files
    farm-12/failure.json         {"reason": "..."}: nothing could be told

Every file is read once before anything is scored, and what is missing, damaged or not asked for is named and counted.
Scores are of the rest, so they are never worth more than the count beside them. No torch here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from audiostory import sound
from audiostory.benchmark.audio_files import ENDINGS, checked, inside
from audiostory.benchmark.items import FAILURE, RECORD
from audiostory.lines import read_lines
from audiostory.sound import Waveform
from audiostory.story.types import Event, Instruction

SHORTEST = 0.1  # seconds; of an event with less sound than this nothing can be said


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that is asked, and the plan and the recording of its `reference`, if there is one."""

    id: str
    instruction: Instruction
    caption: str
    events: tuple[Event, ...]
    reference: Path | None


@dataclass(frozen=True, kw_only=True)
class RecordedStory:
    """A recording that can be read to its end. `events` are the system's own plan where it left one (`own_plan`), else
    the item's; they stand where they sound, and `planned` has how long each should have been by the system's own plan.

    `clips` has a file per event, or none. A clip may sound on under the next event, as ours do for the cross-fade.
    """

    id: str
    audio: Path
    seconds: float
    sample_rate: int
    events: tuple[Event, ...]
    own_plan: bool
    planned: tuple[float, ...] = ()
    clips: tuple[Path, ...] = ()
    clip_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a story cannot be scored. One that is "not told" is the system's failure, the others may be anybody's."""

    id: str
    kind: Literal["missing", "damaged", "not told"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A system's folder: the usable `stories` by their ids, in the order of the items, a fault for each of the others,
    and the names of what nobody asked for."""

    stories: Mapping[str, RecordedStory]
    faults: tuple[Fault, ...]
    extra: tuple[str, ...]

    def notes(self) -> list[str]:
        """The faults in words, for a report: a line per kind, with the count, the first ids and the first reason."""
        asked = len(self.stories) + len(self.faults)
        notes = []
        for kind in ("missing", "damaged", "not told"):
            if faults := [fault for fault in self.faults if fault.kind == kind]:
                named = _named(fault.id for fault in faults)
                notes.append(f"{len(faults)} of {asked} stories are {kind} ({named}): {faults[0].reason}")
        if self.extra:
            notes.append(f"{len(self.extra)} things in the folder were not asked for ({_named(self.extra)})")
        return notes


def read_items(file: Path) -> list[Item]:
    """The lines of a file of items. ValueError names the line that is none: an exam must be whole."""
    items: dict[str, Item] = {}
    for where, row in read_lines(file):
        try:
            item = _item(row, file.parent)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"there is no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{where} is no item ({reason}); audiostory/benchmark/recorded.py shows one") from error
        if item.id in items:
            raise ValueError(f"{where}: the id {item.id!r} stands on an earlier line too; each story needs its own")
        items[item.id] = item
    if not items:
        raise ValueError(f"{file} holds no items; expected one line of JSON per story")
    return list(items.values())


def read_recorded(folder: Path, items: Sequence[Item], *, progress: str = "") -> Recorded:
    """What a system left in `folder`. `progress` names the bar, if any; every file is decoded once.

    ValueError when there is no such folder, or none of the stories in it: then it is the wrong folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; expected the audio of {len(items)} stories in it")
    stories: dict[str, RecordedStory] = {}
    faults: list[Fault] = []
    for item in tqdm(items, desc=progress, unit="story", disable=not progress):
        _keep(item.id, lambda item=item: _find(folder, item), stories, faults)
    asked = {name for item in items for name in (item.id, *(item.id + ending for ending in ENDINGS))}
    extra = sorted(path.name for path in folder.iterdir() if path.name not in asked and not path.name.startswith("."))
    recorded = Recorded(stories=stories, faults=tuple(faults), extra=tuple(extra))
    if all(fault.kind == "missing" for fault in faults) and not stories:
        example = f"{items[0].id}.wav or {items[0].id}/story.wav"
        held = f"it holds {_named(extra)}" if extra else "it is empty"
        raise ValueError(f"{folder} has none of the {len(items)} stories, expected such as {example}; {held}")
    return recorded


def read_references(items: Sequence[Item], *, progress: str = "") -> Recorded:
    """The references as if a system had told them, with the items' plans. An item without one is missing."""
    stories: dict[str, RecordedStory] = {}
    faults: list[Fault] = []
    for item in tqdm(items, desc=progress, unit="story", disable=not progress):
        _keep(item.id, lambda item=item: _reference(item), stories, faults)
    return Recorded(stories=stories, faults=tuple(faults), extra=())


def read_events(story: RecordedStory, *, cut: bool = False) -> list[Waveform | None]:
    """The sound of each event, None where there is less than `SHORTEST` of it.

    The clips, if there are any and `cut` is False. Otherwise each event is cut out of the whole story from its planned
    start for its planned seconds. The cross-fade stays in: a piece begins while the event before fades out under it,
    and its own fading end, under the next one, is left to that. So each moment belongs to one event, for every system,
    and nobody's fade needs to be known; what leaks in is what is heard. Compare systems with and without clips by cuts.
    """
    if story.clips and not cut:
        return [_unless_short(sound.read(clip)) for clip in story.clips]
    whole = sound.read(story.audio)
    pieces = []
    for event in story.events:
        first, last = (math.floor(t * whole.sample_rate + 0.5) for t in (event.start, event.start + event.seconds))
        pieces.append(_unless_short(replace(whole, samples=whole.samples[:, first:last])))
    return pieces


def _unless_short(waveform: Waveform) -> Waveform | None:
    return waveform if waveform.seconds >= SHORTEST else None


class _MissingError(Exception):
    """Nothing was left of a story."""


class _NotToldError(Exception):
    """The system says that it could not tell a story, and why."""


def _keep(id: str, find: Callable[[], RecordedStory], stories: dict[str, RecordedStory], faults: list[Fault]) -> None:
    """Puts what `find` returns into `stories`, or why it does not into `faults`."""
    try:
        stories[id] = find()
    except _MissingError as error:
        faults.append(Fault(id=id, kind="missing", reason=str(error)))
    except _NotToldError as error:
        faults.append(Fault(id=id, kind="not told", reason=str(error)))
    except (ValueError, OSError) as error:
        faults.append(Fault(id=id, kind="damaged", reason=str(error)))


def _find(folder: Path, item: Item) -> RecordedStory:
    inner = folder / item.id
    if (inner / FAILURE).is_file():
        raise _NotToldError(_failure(inner / FAILURE))
    found = [path for ending in ENDINGS for path in (folder / f"{item.id}{ending}", inner / f"story{ending}")]
    found = [path for path in found if path.is_file()]
    if (inner / RECORD).is_file():
        beside = [path for path in found if path.parent == folder]
        if beside:
            raise ValueError(f"there are both {beside[0]} and {inner / RECORD}; remove one of them")
        return _from_record(inner, item)
    if not found:
        raise _MissingError(
            f"there is neither {item.id}.wav nor {item.id}/story.wav (or .flac), nor {item.id}/{RECORD}"
        )
    if len(found) > 1:
        raise ValueError(f"there are both {found[0]} and {found[1]}; remove one of them")
    return _story(item.id, found[0], item.events, _clips(inner / "events", item), own_plan=False)


def _reference(item: Item) -> RecordedStory:
    if item.reference is None or not item.reference.is_file():
        raise _MissingError("it has no reference" if item.reference is None else f"there is no file {item.reference}")
    return _story(item.id, item.reference, item.events, (), own_plan=False)


def _from_record(folder: Path, item: Item) -> RecordedStory:
    """A folder that evaluate/inference.py wrote, or another system after its manner."""
    file = folder / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        names = [event.get("audio") for event in record["events"]]
        events = _events(record["events"])
        planned = tuple(
            _seconds(row, "planned_seconds") if "planned_seconds" in row else event.seconds
            for row, event in zip(record["events"], events, strict=True)
        )
        audio = inside(folder, record.get("audio") or "story.wav")
        clips = tuple(inside(folder, name) for name in names if name is not None)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} holds no plan ({error!r}); write it again") from error
    if len(clips) not in (0, len(events)):
        raise ValueError(f"{file} names clips for {len(clips)} of {len(events)} events; name all of them, or none")
    return replace(_story(item.id, audio, events, clips, own_plan=True), planned=planned)


def _clips(folder: Path, item: Item) -> tuple[Path, ...]:
    """The clips in the order of the numbers in their names: 9_dog.wav, 10_cat.wav. None without the folder."""
    if not folder.is_dir():
        return ()
    clips = [path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith(".")]
    if len(clips) != len(item.events):
        raise ValueError(f"{folder} holds {len(clips)} clips, the plan has {len(item.events)} events; one per event")
    numbered = {tuple(map(int, re.findall(r"\d+", clip.stem))): clip for clip in clips}
    if () in numbered or len(numbered) < len(clips):
        raise ValueError(f"the clips in {folder} cannot be put in order: each name needs a number of its own")
    return tuple(numbered[number] for number in sorted(numbered))


def _story(
    id: str, audio: Path, events: tuple[Event, ...], clips: tuple[Path, ...], *, own_plan: bool
) -> RecordedStory:
    rate, seconds = checked(audio)
    return RecordedStory(
        id=id,
        audio=audio,
        seconds=seconds,
        sample_rate=rate,
        events=events,
        own_plan=own_plan,
        clips=clips,
        clip_seconds=tuple(checked(clip)[1] for clip in clips),
    )


def _failure(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{file} gives no reason"


def _item(row: Mapping[str, Any], folder: Path) -> Item:
    if "summary" in row and "caption" not in row:
        row = {"total_seconds": None, **row, "caption": row["summary"], "reference": row.get("audio")}
    id, total, reference, heard = row["id"], row["total_seconds"], row["reference"], row.get("heard")
    # An id names files in every system's folder, so nothing that leads out of it, or hides there, is one.
    if not isinstance(id, str) or not re.fullmatch(r"[^./\\][^/\\]*", id) or not id.isprintable():
        raise ValueError(f"the id {id!r} is no name for a file")
    for what, path in (("reference", reference), ("recording that is heard", heard)):
        if path is not None and not isinstance(path, str):
            raise ValueError(f"the {what} is a path or null, not {path!r}")
    return Item(
        id=id,
        instruction=Instruction(
            text=_text(row, "instruction"),
            total_seconds=None if total is None else _seconds(row, "total_seconds"),
            audio=folder / heard if heard else None,
        ),
        caption=_text(row, "caption"),
        events=_events(row["events"]),
        reference=folder / reference if reference else None,
    )


def _events(rows: Sequence[Mapping[str, Any]]) -> tuple[Event, ...]:
    """At least one, in the order in which they begin; they may overlap."""
    events = tuple(
        Event(caption=_text(row, "caption"), start=_seconds(row, "start", zero=True), seconds=_seconds(row, "seconds"))
        for row in rows
    )
    starts = [event.start for event in events]
    if not events or starts != sorted(starts):
        raise ValueError(f"a plan has at least one event, and they stand in the order of their starts; got {starts}")
    return events


def _text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(row[key], str) or not row[key].strip():
        raise ValueError(f"there should be words under {key!r}, not {row[key]!r}")
    return row[key]


def _seconds(row: Mapping[str, Any], key: str, *, zero: bool = False) -> float:
    value = row[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and (value > 0 or (zero and value == 0)):
        return float(value)
    raise ValueError(f"there should be a number of seconds above 0 under {key!r}, not {value!r}")


def _named(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
