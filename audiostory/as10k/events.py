"""What is heard in a clip, and when: three lists (main events, sound effects, music) that a multimodal model writes.

Times are checked against the clip, texts against what a script can hold. Which annotations make a story is decided
afterwards (`check_story`): the paper keeps videos with events that follow each other and can be seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audiostory.as10k.answers import Ask, ask_twice, items, line, seconds
from audiostory.as10k.ledger import Dropped
from audiostory.as10k.settings import EventSettings
from audiostory.model_answers import AnswerError, json_object, with_keys

LISTS = ("main_events", "sound_effects", "music")
KEYS = ("start", "end", "type", "sound", "visual")
SLACK_SECONDS = 0.05  # an end that the model rounded up to beyond the clip is brought back

PROMPT = """\
You {sense} a clip of {seconds:.2f} seconds. Write down what can be heard in it, and when.

Answer with one JSON object and nothing else:
{{"main_events": [...], "sound_effects": [...], "music": [...]}}

- main_events: what happens, as far as it can be heard, from the first to the last. A sound that goes on behind others
  is an event of its own from its beginning to its end.
- sound_effects: short sounds that accompany or accent what happens.
- music: passages of music with the same character.

Each entry of a list is an object
{{"start": 0.00, "end": 0.00, "type": "...", "sound": "...", "visual": "..."}}
- start, end: seconds from the beginning of the clip, with two decimals; 0 <= start < end <= {seconds:.2f}. The entries
  of a list are in the order of their starts.
- type: the kind of sound in one to three words, such as "dog bark".
- sound: how it sounds, vividly, in one sentence of 8 to 25 words, without names of characters.
- visual: {visual}

An empty list is written []. Write in English. Leave out speech's words; say how a voice sounds."""

SEEN = "what is seen while it sounds, in at most 20 words; empty if nothing of it can be seen."
UNSEEN = "always empty, since there is no picture."


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One entry. Times are seconds from the beginning of the clip, with two decimals."""

    start: float
    end: float
    type: str
    sound: str
    visual: str


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """All that is heard in a clip, each list in the order of its starts."""

    main_events: tuple[Heard, ...]
    sound_effects: tuple[Heard, ...]
    music: tuple[Heard, ...]


def annotate(ask: Ask, media: Path, clip_seconds: float, settings: EventSettings, *, sees: bool) -> Annotation:
    """Asks about a clip, once more if the answer cannot be used. `sees` is whether `media` has a picture.

    Dropped when neither answer can be used.
    """
    prompt = PROMPT.format(
        sense="see and hear" if sees else "hear", seconds=clip_seconds, visual=SEEN if sees else UNSEEN
    )
    return ask_twice(ask, prompt, media, lambda answer: read(answer, clip_seconds, settings), "events")


def read(answer: str, clip_seconds: float, settings: EventSettings) -> Annotation:
    """AnswerError, saying which entry of which list is not as it was asked for."""
    data = json_object(answer, LISTS)
    lists = {
        name: tuple(
            _entry(entry, f"{name}[{number}]", clip_seconds)
            for number, entry in enumerate(items(data, name, most=settings.max_items))
        )
        for name in LISTS
    }
    for name, entries in lists.items():
        if any(one.start > other.start for one, other in itertools.pairwise(entries)):
            raise AnswerError(f"{name} is not in the order of the starts")
    return Annotation(**lists)


def check_story(annotation: Annotation, settings: EventSettings, *, sees: bool) -> None:
    """Dropped unless the clip tells a story: enough main events that follow each other, and are seen."""
    main = annotation.main_events
    if len(main) < settings.min_events:
        raise Dropped(f"fewer than {settings.min_events} main events", f"{len(main)}")
    # Sounds that all begin together are one scene, not a sequence.
    if len({event.start for event in main}) < settings.min_events:
        raise Dropped("main events do not follow each other")
    if sees and sum(bool(event.visual) for event in main) < settings.min_events:
        raise Dropped(f"fewer than {settings.min_events} main events are seen")


def to_json(annotation: Annotation) -> dict[str, Any]:
    return asdict(annotation)


def from_json(data: Mapping[str, Any]) -> Annotation:
    return Annotation(**{name: tuple(Heard(**entry) for entry in data[name]) for name in LISTS})


def _entry(data: Any, where: str, clip_seconds: float) -> Heard:
    data = with_keys(data, KEYS, where)
    start, end = seconds(data, "start", where), seconds(data, "end", where)
    if end > clip_seconds + SLACK_SECONDS:
        raise AnswerError(f"{where}: it ends at {end} s, the clip at {clip_seconds:.2f} s")
    end = min(end, round(clip_seconds, 2))
    if not start < end:
        raise AnswerError(f"{where}: end {end} must be after start {start}, within the clip's {clip_seconds:.2f} s")
    return Heard(
        start=start,
        end=end,
        type=line(data, "type", where),
        sound=line(data, "sound", where),
        visual=line(data, "visual", where, empty=True),
    )
