"""What was asked, what was told, and what was heard: one truth per line of a manifest, one folder per told story. A
truth may be a continuation: what follows an opening that is heard.

A told story is what `evaluate/inference.py` writes: `storyline.json`, `story.wav` and one WAV per event. Any other
system takes part by writing the same files. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from audiostory.benchmark.audio_files import ENDINGS, checked, inside
from audiostory.soundworld.phrases import canonical_caption
from audiostory.soundworld.sounds import Sound
from audiostory.story.types import Event, Instruction, Storyline

PITCHLESS = "none"  # the register of a sound that has no pitch
RECORD = "storyline.json"
FAILURE = "failure.json"  # stands in place of the record when a system could tell nothing: {"reason": "..."}


@dataclass(frozen=True, kw_only=True)
class TrueEvent:
    """One event as the world made it; `audio` is its true clip (with the cross-fade's tail), if the corpus has it."""

    name: str
    register: str
    place: str
    caption: str
    audio: Path | None


@dataclass(frozen=True, kw_only=True)
class TrueStory:
    """A row of the manifest: what a person asks, the storyline that answers it, and what is heard in its events.

    Of a continuation, `opening` has the captions of what is heard before, and `references` tells for each event which
    of these comes again; None for one that the instruction names. `audio` is the whole story, if the corpus has it.
    """

    id: str
    instruction: Instruction
    storyline: Storyline
    events: tuple[TrueEvent, ...]
    opening: tuple[str, ...] = ()
    references: tuple[int | None, ...] = ()
    audio: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ToldStory:
    """`captions` and `clips` in the order told; `seconds` is the length of the whole story. One that could not be told
    has neither, and lasts 0 seconds."""

    id: str
    captions: tuple[str, ...] = ()
    clips: tuple[Path, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a listener says of one clip. Every clip is given a register; that of a sound without pitch means nothing.

    `features` are what the answers were drawn from, and `logits` weigh the names, in the listener's own order. Both
    change a little with the company in which a clip is heard, so they do not tell two answers apart.
    """

    name: str
    place: str
    register: str
    features: Float[np.ndarray, D] = field(compare=False, repr=False)
    logits: Float[np.ndarray, O] = field(compare=False, repr=False)


def read_truth(manifest: Path) -> list[TrueStory]:
    """The rows of a sound-world manifest (data/README.md). ValueError names the line that is not such a row."""
    if not manifest.is_file():
        raise ValueError(f"no manifest at {manifest}; scripts/make_soundworld.py writes one")
    stories: dict[str, TrueStory] = {}
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            story = _truth(json.loads(line), manifest.parent)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{manifest}, line {number} is no sound-world row ({error!r}); write it again") from error
        if story.id in stories or Path(story.id).name != story.id:
            raise ValueError(f"{manifest}, line {number}: the id {story.id!r} is not new, or is no name for a folder")
        stories[story.id] = story
    if not stories:
        raise ValueError(f"{manifest} holds no rows; scripts/make_soundworld.py writes some")
    return list(stories.values())


def read_told(folder: Path) -> ToldStory:
    """One told story, its files read once. ValueError names what is missing or damaged, so that an interrupted run is
    not scored as a bad one."""
    if (folder / FAILURE).is_file():
        return ToldStory(id=folder.name)
    flat = [file for ending in ENDINGS if (file := folder.parent / f"{folder.name}{ending}").is_file()]
    if flat and not folder.exists():
        raise ValueError(
            f"{flat[0]} comes without a plan, which is scored here too; expected a folder {folder} with {RECORD}, "
            "story.wav and a clip of each event, as evaluate/inference.py writes it"
        )
    for name in (RECORD, "story.wav"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}: the story was not finished; run the same command again")
    try:
        events = json.loads((folder / RECORD).read_text(encoding="utf-8"))["events"]
        captions, clips = zip(
            *((str(event["caption"]), inside(folder, event["audio"])) for event in events), strict=True
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder} holds no told story ({error!r}); delete it and run the same command") from error
    _, seconds = checked(folder / "story.wav")
    for clip in clips:
        checked(clip)
    return ToldStory(id=folder.name, captions=captions, clips=clips, seconds=seconds)


def as_told(truth: TrueStory, clips: Sequence[Path]) -> ToldStory:
    """The truth as if a system had told it, with these clips for its events."""
    captions = tuple(event.caption for event in truth.events)
    return ToldStory(id=truth.id, captions=captions, clips=tuple(clips), seconds=truth.storyline.total_seconds)


def _truth(row: Mapping[str, Any], folder: Path) -> TrueStory:
    if "answer" in row:
        raise ValueError("it asks a question: benchmark.listening.read_questions reads those")
    world, rows = row["world"], row["events"]
    total, heard = row["total_seconds"], row.get("heard")
    words = ("caption", "story_detail", "sound_detail")
    planned = (
        Event(seconds=float(event["seconds"]), start=float(event["start"]), **{word: event[word] for word in words})
        for event in rows
    )
    return TrueStory(
        id=row["id"],
        instruction=Instruction(
            text=row["instruction"],
            total_seconds=None if total is None else float(total),
            audio=folder / heard if heard else None,
        ),
        storyline=Storyline(summary=row["summary"], events=tuple(planned)),
        events=tuple(
            TrueEvent(
                name=sound["name"],
                register=world["cast"]["pitches"].get(sound["name"], PITCHLESS),
                place=world["cast"]["place"],
                caption=event["caption"],
                audio=folder / event["audio"] if event["audio"] else None,
            )
            for event, sound in zip(rows, world["sounds"], strict=True)
        ),
        opening=tuple(canonical_caption(Sound(**sound)) for sound in world.get("opening", ())),
        references=tuple(world.get("references", ())),
        audio=folder / row["audio"] if row.get("audio") else None,
    )
