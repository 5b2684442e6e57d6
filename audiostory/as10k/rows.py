"""Rows of the manifest: one story asked for in up to three ways, and the side of the split that its video is on.

text:         the story, from words alone
continuation: its opening is heard, the rest is what follows
dubbing:      the story for a picture, which the row names; of cartoons only, as in the paper
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from random import Random
from typing import Any

from audiostory.as10k.ledger import Dropped
from audiostory.as10k.settings import RowSettings
from audiostory.story import Event, Instruction, Storyline
from audiostory.story.prompts import check, prompt_text

LEAD_INS = (
    "Make a long recording of this scene: ",
    "Tell this story in sounds alone: ",
    "Let me hear what happens here: ",
    "Turn the following scene into sound: ",
    "Build a layered soundscape of this story: ",
    "I want to close my eyes and hear this: ",
    "Compose the sounds of a scene in which this happens: ",
    "Give this short story its sounds, from beginning to end: ",
    "Create one continuous recording in which one can follow this: ",
    "Write the sound track of this scene: ",
    "Please produce detailed sound for what follows: ",
    "Imagine a microphone where this takes place: ",
    "A radio play without words is needed for this: ",
    "Sound out this little story, step by step: ",
    "Record, as it were, the following events: ",
    "Show me with sounds only how this goes: ",
    "Design a scene for the ear after this outline: ",
    "Play me everything that is to be heard in this scene: ",
    "Here is a story; make it audible: ",
    "Bring this scene to life in sound: ",
)
"""What stands before a caption; which of them, a clip's id and the seed tell."""

CONTINUATION_LEAD_INS = (
    "You hear how a scene begins. Go on with it, so that the whole is this: ",
    "This is the opening of a scene. Continue from here; altogether it tells: ",
    "Listen to the beginning and let the rest follow. The story: ",
    "Carry this recording on to its end. What it tells as a whole: ",
    "The first moments are there already; add what comes next in this story: ",
)
DUBBING_LEAD_INS = (
    "Give this video its sounds. It shows: ",
    "The video is silent; dub it. What happens: ",
    "Make the sound track for the pictures, in time with them: ",
    "Let the video be heard as well as seen: ",
    "Add to these pictures the sounds that belong to them: ",
)


def split_of(name: str, settings: RowSettings) -> str:
    """The split of a video, by its name and the seed alone: videos that come later move none.

    >>> split_of("a.mp4", RowSettings(test_share=0))
    'train'
    """
    digest = hashlib.sha256(f"{settings.seed}\n{name}".encode("utf-8", "surrogatepass")).digest()
    return "test" if int.from_bytes(digest[:8], "big") < settings.test_share * 2**64 else "train"


def instruction(caption: str, lead_ins: Sequence[str], clip: str, settings: RowSettings) -> str:
    """A lead-in and the caption as a sentence. `story.prompts.prompt_text` puts the total duration behind it."""
    lead = Random(f"{settings.seed} {clip}").choice(lead_ins)
    return f"{lead}{caption}{'' if caption.endswith(('.', '!', '?')) else '.'}"


def opening_events(storyline: Storyline, settings: RowSettings) -> int:
    """How many events make an opening: the fewest that last `opening_seconds`. Dropped where nothing would follow."""
    for number, event in enumerate(storyline.events[:-1], 1):
        if event.start + event.seconds >= settings.opening_seconds - 1e-6:
            return number
    raise Dropped("nothing follows an opening", f"{len(storyline.events)} events")


def clip_seconds(event: Event, total_seconds: float, settings: RowSettings) -> float:
    """How long an event's recording is: into the next event by the fade, as long as the story goes on."""
    return round(min(event.seconds + settings.fade_seconds, total_seconds - event.start), 6)


def make(
    variant: str,
    clip: str,
    storyline: Storyline,
    files: Mapping[str, str],
    source: Mapping[str, Any],
    settings: RowSettings,
) -> dict[str, Any]:
    """One row in the format of data/README.md, with fields of our own: `variant`, `source`, and of dubbing `video`.

    `files` are paths relative to the manifest: "story", "opening" and "rest", "video" and "0", "1", ... of the events.
    Dropped where a story has no such variant.
    """
    skip, audio, heard, own, lead_ins = 0, files["story"], None, {}, LEAD_INS
    if variant == "continuation":
        skip, lead_ins = opening_events(storyline, settings), CONTINUATION_LEAD_INS
        audio, heard = files["rest"], files["opening"]
    elif variant == "dubbing":
        own, lead_ins = {"video": files["video"]}, DUBBING_LEAD_INS
    begins, total = storyline.events[skip].start, round(storyline.total_seconds, 6)
    events = [
        {
            "caption": event.caption,
            "start": round(event.start - begins, 6),
            "seconds": event.seconds,
            "story_detail": event.story_detail,
            "sound_detail": event.sound_detail,
            "audio": files[str(number)],
            "clip_seconds": clip_seconds(event, total, settings),
        }
        for number, event in enumerate(storyline.events)
        if number >= skip
    ]
    text = instruction(storyline.summary, lead_ins, f"{clip} {variant}", settings)
    row = {
        "id": f"{clip}-{variant}",
        "instruction": text,
        "total_seconds": round(total - begins, 6),
        "summary": storyline.summary,
        "events": events,
        "audio": audio,
        "variant": variant,
        **own,
        "source": dict(source),
    }
    if heard:
        row["heard"] = heard
    _check(row, [replace(event, start=round(event.start - begins, 6)) for event in storyline.events[skip:]])
    return row


def variants_of(domain: str, settings: RowSettings) -> list[str]:
    """The paper dubs cartoons only."""
    return [variant for variant in settings.variants if variant != "dubbing" or domain == "cartoon"]


def _check(row: Mapping[str, Any], events: Sequence[Event]) -> None:
    """What `tiling` and `answers` promise: the row can be written as a script, and its files lie in its folder."""
    check(Storyline(summary=row["summary"], events=tuple(events)))
    prompt_text(Instruction(text=row["instruction"], total_seconds=row["total_seconds"]))
    paths = [PurePosixPath(path) for path in (row["audio"], row.get("heard"), row.get("video")) if path]
    assert not any(path.is_absolute() or ".." in path.parts for path in paths)
    assert abs(sum(event.seconds for event in events) - row["total_seconds"]) < 1e-6
