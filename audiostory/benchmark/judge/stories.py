"""What is judged: told stories as evaluate/inference.py writes them, or any system's recordings with what was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from audiostory.benchmark.items import FAILURE, RECORD
from audiostory.benchmark.soundworld import others
from audiostory.lines import read_lines


@dataclass(frozen=True, kw_only=True)
class Story:
    """`plan` is the storyline in words, None for a system that shows none; `total_seconds` the length that was asked,
    where that is known."""

    id: str
    instruction: str
    audio: Path
    seconds: float
    plan: str | None = None
    total_seconds: float | None = None

    @property
    def asked(self) -> str:
        """The instruction, with the length if one was asked for beside it."""
        if self.total_seconds is None:
            return self.instruction
        return f"{self.instruction}\nTotal length: {self.total_seconds:.1f} seconds."


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A line of an items file."""

    instruction: str
    total_seconds: float | None


def read_items(file: Path) -> dict[str, Asked]:
    """Lines of {"id", "instruction"}, and "total_seconds" if a length was asked for. ValueError names a bad line."""
    items: dict[str, Asked] = {}
    for where, row in read_lines(file):
        try:
            id, text, seconds = row["id"], row["instruction"], row.get("total_seconds")
            if not (isinstance(id, str) and isinstance(text, str) and text.strip()):
                raise TypeError("id and instruction should be texts")
            asked = Asked(instruction=text.strip(), total_seconds=None if seconds is None else float(seconds))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f'{where} is no item ({error!r}); expected {{"id": ..., "instruction": ...}}') from error
        if id in items or Path(id).name != id:
            raise ValueError(f"{where}: the id {id!r} is not new, or is no name for a file")
        items[id] = asked
    if not items:
        raise ValueError(f"{file} holds no items")
    return items


def read_told(
    folder: Path, items: Mapping[str, Asked] | None = None, num: int | None = None
) -> tuple[list[Story], list[str]]:
    """The told stories in the first `num` folders of `folder`, and the ids of those that their system could not tell.

    Instructions come from `items` where they are given (for the ids in them, all of which must be there), else from
    the stories' own records. ValueError names what is missing, so that an interrupted run is not judged as a bad one.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} of told stories")
    if (folder / RECORD).is_file():
        folders = [folder]
    else:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if items is not None:
        there = {path.name for path in folders}
        if missing := [id for id in items if id not in there]:
            raise ValueError(f"{folder} lacks {len(missing)} of {len(items)} stories, such as {missing[0]!r}")
        folders = [path for path in folders if path.name in items]
    if not folders:
        raise ValueError(f"{folder} holds no told stories; evaluate/inference.py and evaluate/benchmark.py write some")
    folders = folders[:num]
    untold = [path.name for path in folders if (path / FAILURE).is_file()]
    told = [_told(path, items[path.name] if items else None) for path in folders if path.name not in untold]
    return told, untold


def read_recordings(folder: Path, items: Mapping[str, Asked], num: int | None = None) -> list[Story]:
    """FOLDER/ID.wav for the first `num` items. ValueError when one is missing or is no recording."""
    items = dict(list(items.items())[:num])
    files = {id: folder / f"{id}.wav" for id in items}
    if missing := [file for file in files.values() if not file.is_file()]:
        raise ValueError(f"{len(missing)} of {len(items)} recordings are missing, such as {missing[0]}")
    return [
        Story(
            id=id,
            instruction=asked.instruction,
            audio=files[id],
            seconds=_seconds(files[id]),
            total_seconds=asked.total_seconds,
        )
        for id, asked in items.items()
    ]


def shuffled(stories: Sequence[Story], seed: int) -> list[Story]:
    """The control: every instruction with what was told to another one. ValueError for fewer than 2 stories."""
    return [
        replace(story, audio=stories[other].audio, seconds=stories[other].seconds, plan=stories[other].plan)
        for story, other in zip(stories, others(len(stories), seed), strict=True)
    ]


def _told(folder: Path, asked: Asked | None) -> Story:
    for name in (RECORD, "story.wav"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}: the story was not finished; run the same command again")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        asked = asked or Asked(instruction=str(record["instruction"]), total_seconds=None)
        plan = _plan(record)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{folder / RECORD} is no record of a told story ({error!r}); tell it again") from error
    instruction = asked.instruction
    if (begins := record.get("begins_in_story")) is not None:
        instruction = f"{instruction}\n(The first {float(begins):.1f} seconds are a given recording to go on from.)"
    return Story(
        id=folder.name,
        instruction=instruction,
        audio=folder / "story.wav",
        seconds=_seconds(folder / "story.wav"),
        plan=plan,
        total_seconds=asked.total_seconds,
    )


def _plan(record: Mapping[str, Any]) -> str:
    """What was told and what the system reasoned, which may differ: durations are mended after it."""
    lines = [str(record.get("summary") or "").strip()]
    for number, event in enumerate(record["events"], 1):
        start, seconds = float(event["start"]), float(event["seconds"])
        lines.append(f"{number}. {start:.1f} s to {start + seconds:.1f} s: {str(event['caption']).strip()}")
    if reasoning := str(record.get("reasoning") or "").strip():
        lines += ["", "The reasoning as the system wrote it:", reasoning]
    return "\n".join(lines).strip()


def _seconds(file: Path) -> float:
    import soundfile

    try:
        return float(soundfile.info(file).duration)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{file} cannot be read as audio ({error}); replace the file") from error
