"""A system's stories on disk: told once, whatever stops the run, by one process or by several.

    FOLDER/settings.json         what told them
    FOLDER/ID/storyline.json     a story as `story_files` writes it, with story.wav and a WAV per event
    FOLDER/ID/failure.json       in its place, when the system could tell none: {"instruction", "reason"}

Each story notes in `asked` the digest of what was asked, so that a folder of another exam is not taken for this one's.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from audiostory.disk import sha256, write_text
from audiostory.pipeline import StoryError
from audiostory.story_audio import StoryAudio
from audiostory.story_files import RECORD, save
from audiostory.systems.asked import Asked, System

SETTINGS, FAILURE = "settings.json", "failure.json"


def tell_all(
    system: System, asked: Sequence[Asked], folder: Path, *, rank: int = 0, processes: int = 1, progress: str = ""
) -> None:
    """Tells what is not told yet of asked[rank::processes]; `progress` names the bar, if any.

    The seconds that a story took are those since the one before: the first counts loading, and the first of stories
    that are told together counts them all. ValueError, before anything is told, for a folder that was told with other
    settings or holds other stories under these ids.
    """
    assert 0 <= rank < processes, f"rank {rank} of {processes} processes"
    check_settings(folder, system.settings)
    mine = asked[rank::processes]
    left = [one for one in mine if not _is_told(folder / one.id, one)]
    with tqdm(total=len(mine), initial=len(mine) - len(left), desc=progress, unit="story", disable=not progress) as bar:
        began = time.perf_counter()
        for one, told in zip(left, system.tell(left), strict=True):
            keep_settings(folder, system.settings)
            _write(told, one, folder / one.id, seconds=time.perf_counter() - began)
            bar.update()
            began = time.perf_counter()


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """ValueError, naming what differs, when what lies in `folder` was made with other settings than these."""
    file = folder / SETTINGS
    if not file.exists():
        return
    try:
        held = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); delete {folder} and tell all again") from error
    now = json.loads(json.dumps(settings))
    if different := [name for name in {**now, **held} if held.get(name) != now.get(name)]:
        listed = ", ".join(f"{name} {held.get(name)} (now {now.get(name)})" for name in different)
        raise ValueError(f"what is in {folder} was told otherwise: {listed}; choose another output, or delete it")


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """To be called before the first thing is written: a mistake found until then leaves no folder behind."""
    check_settings(folder, settings)
    if not (folder / SETTINGS).exists():
        write_text(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")


def _is_told(folder: Path, asked: Asked) -> bool:
    file = folder / (FAILURE if (folder / FAILURE).is_file() else RECORD)
    if not file.is_file():
        return False
    try:
        held = json.loads(file.read_text(encoding="utf-8"))["asked"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read ({error!r}); delete {folder} and tell it again") from error
    if held != _digest(asked):
        raise ValueError(
            f"{folder} was told for another instruction, caption or storyline; choose another output, or delete it"
        )
    return True


def _write(told: StoryAudio | StoryError, asked: Asked, folder: Path, seconds: float) -> None:
    record = {"instruction": asked.instruction.text, "asked": _digest(asked), "seconds_to_tell": round(seconds, 3)}
    if isinstance(told, StoryError):
        record["reason"] = str(told)
        write_text(folder / FAILURE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    else:
        record["rendering"] = asdict(told.rendering)
        save(told, folder, record, picture=False)


def _digest(asked: Asked) -> str:
    """Of all that is asked, an opening by its sound: the same wherever its file lies."""
    content = asdict(asked)
    audio = asked.instruction.audio
    content["instruction"]["audio"] = None if audio is None else sha256(audio)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
