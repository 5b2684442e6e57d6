"""Main events, which overlap and leave gaps, become a story's events, which tile its whole duration.

What began last is what one listens to: it has the foreground until it ends, then what began before it comes back. A gap
belongs to the event before it, the time before the first event to the first. Boundaries are tenths of a second, as
scripts tell time.

    rain 0.0 - 10.0, a dog 4.0 - 6.0, clip of 12 s   ->   rain 0.0 - 4.0, a dog 4.0 - 6.0, rain 6.0 - 12.0
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from audiostory.as10k.events import Annotation, Heard
from audiostory.as10k.settings import EventSettings

HEARD_SHARE = 0.5  # of a tile: an event behind it that lasts so long is told in its caption
MAX_BEHIND = 1  # such events; a caption of more is too long for a text encoder that reads 64 tokens


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One event of a story: `start` and `end` in whole tenths of a second; `event` counts main events from 0."""

    start: int
    end: int
    event: int

    @property
    def length(self) -> int:
        return self.end - self.start


def tile(events: Sequence[Heard], total_seconds: float, settings: EventSettings) -> tuple[Tile, ...]:
    """Tiles of `min_event_seconds` to `max_event_seconds` from 0 to the total's last whole tenth.

    A tile that is too short goes to its longer neighbour; one that is too long is cut into equal parts. `events` are in
    the order of their starts, at least one. The total may be shorter than the shortest event: then there is one tile.
    """
    total = int(total_seconds * 10 + 1e-6)
    tiles = _foreground(events, total)
    shortest = math.ceil(settings.min_event_seconds * 10 - 1e-6)
    while len(tiles) > 1 and min(tile.length for tile in tiles) < shortest:
        tiles = _joined(_without(tiles, min(range(len(tiles)), key=lambda number: tiles[number].length)))
    longest = int(settings.max_event_seconds * 10 + 1e-6)
    return tuple(part for tile in tiles for part in _parts(tile, longest))


def caption(tile: Tile, events: Sequence[Heard]) -> str:
    """What is heard in a tile: its event, and what else lasts through at least half of it."""
    others = [
        event.sound
        for number, event in enumerate(events)
        if number != tile.event and _overlap(event, tile) >= HEARD_SHARE * tile.length
    ]
    sounds = list(dict.fromkeys([events[tile.event].sound, *others]))  # each once, in order
    return "; ".join(sound.rstrip(" .;") or sound for sound in sounds[: 1 + MAX_BEHIND])


def behind(tile: Tile, annotation: Annotation) -> list[str]:
    """The sound effects and the music of a tile, for the model that writes how it sounds."""
    entries = [*annotation.sound_effects, *annotation.music]
    return [entry.sound for entry in entries if _overlap(entry, tile) > 0]


def _foreground(events: Sequence[Heard], total: int) -> list[Tile]:
    places = [(round(event.start * 10), round(event.end * 10)) for event in events]
    bounds = sorted({0, total, *(place for pair in places for place in pair if 0 < place < total)})
    tiles: list[Tile] = []
    current = 0
    for start, end in itertools.pairwise(bounds):
        sounding = [number for number, (first, last) in enumerate(places) if first <= start < last]
        # Of those that began together the one that ends first: the others are still to be heard afterwards.
        current = max(sounding, key=lambda number: (places[number][0], -places[number][1]), default=current)
        tiles.append(Tile(start=start, end=end, event=current))
    return _joined(tiles)


def _joined(tiles: Sequence[Tile]) -> list[Tile]:
    """Neighbours of the same event become one."""
    joined: list[Tile] = []
    for tile in tiles:
        if joined and joined[-1].event == tile.event:
            joined[-1] = replace(joined[-1], end=tile.end)
        else:
            joined.append(tile)
    return joined


def _without(tiles: Sequence[Tile], number: int) -> list[Tile]:
    """One tile less; its longer neighbour (of equal ones the earlier) takes its time."""
    before = tiles[number - 1] if number else None
    after = tiles[number + 1] if number + 1 < len(tiles) else None
    left, right = list(tiles[:number]), list(tiles[number + 1 :])
    if before is not None and (after is None or before.length >= after.length):
        left[-1] = replace(before, end=tiles[number].end)
    else:
        right[0] = replace(right[0], start=tiles[number].start)
    return [*left, *right]


def _parts(tile: Tile, longest: int) -> list[Tile]:
    num = -(-tile.length // longest)
    bounds = [tile.start + tile.length * place // num for place in range(num + 1)]
    return [replace(tile, start=first, end=last) for first, last in itertools.pairwise(bounds)]


def _overlap(event: Heard, tile: Tile) -> float:
    """In tenths of a second."""
    return max(0.0, min(event.end * 10, tile.end) - max(event.start * 10, tile.start))
