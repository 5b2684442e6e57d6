"""The story of a clip in words, by a text model, in the paper's two steps: one caption of at most 20 words for all,
then for each of the N events a story detail and the sounds that follow from it, at most 15 words each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from audiostory.as10k.answers import Ask, ask_twice, items, line
from audiostory.as10k.events import Annotation
from audiostory.as10k.settings import StorySettings
from audiostory.as10k.tiling import Tile, behind, caption
from audiostory.model_answers import AnswerError, json_object, with_keys
from audiostory.story import Event, Storyline

CAPTION_PROMPT = """\
The sounds of one scene, in the order in which they are heard:
{events}

Say in one English sentence of at most {words} words what happens in the scene, from beginning to end. Name what makes
the sounds and keep their order; give no times.
Answer with one JSON object and nothing else: {{"caption": "..."}}"""

POINTS_PROMPT = """\
A story in sounds: {caption}
It has {num} events, which follow each other:
{events}

For each event write two short English texts of at most {words} words each:
- story: what happens in the story at this point, and why.
- sounds: the sounds that follow from it, and how they sound.
Answer with one JSON object and nothing else, with exactly {num} points in the order of the events:
{{"number_of_points": {num}, "points": [{{"story": "...", "sounds": "..."}}, ...]}}"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of the reasoning."""

    story: str
    sounds: str


def write_caption(ask: Ask, annotation: Annotation, settings: StorySettings) -> str:
    """The whole story in a sentence. Dropped when neither of two answers keeps to the limit."""
    told = [{"type": event.type, "sound": event.sound} for event in annotation.main_events]
    prompt = CAPTION_PROMPT.format(events=_lines(told), words=settings.caption_words)

    def read(answer: str) -> str:
        return line(json_object(answer, ["caption"]), "caption", "the answer", words=settings.caption_words)

    return ask_twice(ask, prompt, None, read, "caption")


def write_points(
    ask: Ask, story: str, annotation: Annotation, tiles: Sequence[Tile], settings: StorySettings
) -> tuple[Point, ...]:
    """A point for each tile. Dropped when neither of two answers has as many, within the limits."""
    told = []
    for tile in tiles:
        event = annotation.main_events[tile.event]
        entry = {"seconds": [tile.start / 10, tile.end / 10], "heard": caption(tile, annotation.main_events)}
        told.append({**entry, "seen": event.visual, "also heard": behind(tile, annotation)})
    prompt = POINTS_PROMPT.format(caption=story, num=len(tiles), events=_lines(told), words=settings.point_words)
    return ask_twice(ask, prompt, None, lambda answer: _read_points(answer, len(tiles), settings), "reasoning")


def storyline(summary: str, annotation: Annotation, tiles: Sequence[Tile], points: Sequence[Point]) -> Storyline:
    """The story as the project tells stories; its reasoning text is `story.prompts.reasoning_text` of it."""
    events = tuple(
        Event(
            caption=caption(tile, annotation.main_events),
            seconds=tile.length / 10,
            start=tile.start / 10,
            story_detail=point.story,
            sound_detail=point.sounds,
        )
        for tile, point in zip(tiles, points, strict=True)
    )
    return Storyline(summary=summary, events=events)


def _read_points(answer: str, num: int, settings: StorySettings) -> tuple[Point, ...]:
    data = json_object(answer, ["number_of_points", "points"])
    points = items(data, "points", most=num)
    if type(data["number_of_points"]) is not int or data["number_of_points"] != num or len(points) != num:
        raise AnswerError(f"exactly {num} points are wanted, one for each event")
    read = []
    for number, point in enumerate(points):
        where = f"points[{number}]"
        point = with_keys(point, ["story", "sounds"], where)
        texts = {name: line(point, name, where, words=settings.point_words) for name in ("story", "sounds")}
        read.append(Point(**texts))
    return tuple(read)


def _lines(entries: Sequence[dict]) -> str:
    """One JSON object a line: whatever an annotation says, it stays inside its quotation marks."""
    return "\n".join(f"{number}. {json.dumps(entry, ensure_ascii=False)}" for number, entry in enumerate(entries, 1))
