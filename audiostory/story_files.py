"""A told story on disk: story.wav, a WAV per event, story.png, and storyline.json that says what is in them.

A story that follows a recording is continuation.wav; story.wav and the picture then begin with what was heard before.
The record names the other files. It comes last into the folder and leaves first, so where it is, the story is whole.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

from audiostory import sound
from audiostory.picture import draw
from audiostory.pipeline import StoryAudio
from audiostory.sound import Waveform

RECORD = "storyline.json"


def save(
    told: StoryAudio, folder: Path, record: dict[str, Any], picture: bool = True, opening: Waveform | None = None
) -> list[str]:
    """Writes a story's files, that of what follows an `opening` if one is given, and returns their names.

    They are made in a hidden folder beside `folder` and moved over when all of them are there. Those of a story that
    was told into `folder` before make way, other files stay.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files = _write_files(told, workshop, record, picture, opening)
        folder.mkdir(exist_ok=True)
        make_way(folder)
        for name in files:
            os.replace(workshop / name, folder / name)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return files


def _write_files(
    told: StoryAudio, folder: Path, record: dict[str, Any], picture: bool, opening: Waveform | None
) -> list[str]:
    whole = told.story if opening is None else told.after(opening)
    joined = {"story.wav": whole} if opening is None else {"story.wav": whole, "continuation.wav": told.story}
    begins = whole.seconds - told.story.seconds
    names = [f"event_{i:02d}_{_slug(event.caption)}.wav" for i, event in enumerate(told.storyline.events, 1)]
    for name, waveform in (*zip(names, told.clips, strict=True), *joined.items()):
        sound.write(folder / name, waveform)
    if picture:
        events = [replace(event, start=begins + event.start) for event in told.storyline.events]
        draw(folder / "story.png", whole, events, title=record["instruction"])
    files = [*joined, *names, *(["story.png"] if picture else []), RECORD]
    content = {**record, **_contents(told, names, audio=list(joined)[-1]), "files": files}
    if opening is not None:
        content["begins_in_story"] = round(begins, 4)
    (folder / RECORD).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _contents(told: StoryAudio, names: list[str], audio: str) -> dict[str, Any]:
    """The storyline in the form of a manifest row (data/README.md), whole in `audio`, and what was met on the way."""
    events = [
        {
            "caption": event.caption,
            "start": round(start, 4),
            "seconds": round(end - start, 4),
            **_planned(event.seconds, end - start),
            "story_detail": event.story_detail,
            "sound_detail": event.sound_detail,
            "audio": name,
            "clip_seconds": round(clip.seconds, 4),
        }
        for event, (start, end), name, clip in zip(told.storyline.events, told.times, names, told.clips, strict=True)
    ]
    return {
        "total_seconds": round(told.times[-1][1], 4),
        "sample_rate": told.story.sample_rate,
        "summary": told.storyline.summary,
        "events": events,
        "audio": audio,
        "problems": [
            {"kind": problem.kind.value, "event": problem.event, "message": problem.message}
            for problem in told.problems
        ],
        "reasoning": told.storyline.reasoning,
    }


def _planned(seconds: float, told: float) -> dict[str, float]:
    """How long an event should have been, where it was told otherwise by more than times are rounded."""
    return {"planned_seconds": round(seconds, 4)} if abs(seconds - told) > 1e-3 else {}


def make_way(folder: Path) -> None:
    """Takes away the story that is in a folder already, by its own record; other files stay."""
    for name in (RECORD, *_files_before(folder)):
        (folder / name).unlink(missing_ok=True)


def _files_before(folder: Path) -> list[str]:
    try:
        names = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no record, or one that is not ours
    return [name for name in names if isinstance(name, str) and name == Path(name).name]


def _slug(caption: str) -> str:
    plain = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", plain)[:40].strip("_") or "sound"
