"""Stories of the sound world: what is heard, how a person asks for it, and the plan that answers.

`make_story(seed, split, kind)` draws sounds and a cast, lays them out in time, and writes instruction and plan. The
instruction tells everything, place and pitch too; the captions tell class, count, pace, level and distance; place and
pitch stand in the sound details. But for a small jitter of the durations, the plan of a "story" follows from its
instruction: each sound has one canonical caption. A "clip" is a single event, captioned in any of its paraphrases.

Only the test split holds
- some combinations: of each class a tenth or so of its sounds (class, count, pace, level, distance), and 8 % of the
  ordered pairs of classes that may follow each other. A hash of their names picks them, so they never change.
- some phrasings: the frames and the mention style that `instructions.py` and `phrases.py` call unseen.
Every test story holds such a combination or pair, and about half of them such a frame. Train and val hold none.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

import numpy as np

from audiostory.soundworld.instructions import instruction_words, write_instruction
from audiostory.soundworld.phrases import (
    REGISTERS,
    WORDS,
    all_sounds,
    canonical_caption,
    captions,
    class_in_text,
    pick,
    sounds_in_caption,
)
from audiostory.soundworld.sounds import CLASSES, Cast, Register, Sound
from audiostory.story.types import Event, Instruction, Storyline

__all__ = [
    "KINDS",
    "SPLITS",
    "WorldStory",
    "canonical_caption",
    "captions",
    "class_in_text",
    "held_out_pairs",
    "held_out_sounds",
    "make_story",
    "sounds_in_caption",
    "texts",
    "words",
]

SPLITS = ("train", "val", "test")
KINDS = ("clip", "story")
HELD_OUT = 0.08
NUM_EVENTS_CHANCES = (0.06, 0.14, 0.22, 0.24, 0.20, 0.14)  # of 1, 2, ... events
RETURN_CHANCE = 0.36  # of three events and more; about 30 % of all stories bring a class back
NO_TOTAL_CHANCE = 0.12
JITTER = 0.04

# Durations are counted in tenths of a second, so that they add up exactly. Each pair is the least and the most.
STORY_TENTHS, EVENT_TENTHS, CLIP_TENTHS = (40, 600), (20, 110), (15, 120)

PLACE_DETAILS = {
    "open air": "in the open air",
    "room": "in a small room",
    "hall": "in a large hall",
    "church": "in a church",
    "tunnel": "in a tunnel",
}
PITCH_DETAILS = {"low": "deep", "middle": "medium", "high": "high"}
RETURN_DETAIL = "it happens once more"


@dataclass(frozen=True, kw_only=True)
class WorldStory:
    """A story and the truth about it: `sounds` has one entry per event. `unseen` names what of it train never shows,
    any of "combination", "pair", "frame" and "mention"."""

    instruction: Instruction
    storyline: Storyline
    sounds: tuple[Sound, ...]
    cast: Cast
    unseen: tuple[str, ...]


def make_story(seed: int, split: str = "train", kind: str = "story", mixed: bool = False) -> WorldStory:
    """The story of this seed; another split or kind gives an unrelated one, `mixed` the same one, asked for in a frame
    that is put together from several. ValueError for a negative seed, or an unknown split or kind."""
    if seed < 0 or split not in SPLITS or kind not in KINDS:
        raise ValueError(
            f"a story needs a seed of 0 or more, a split of {', '.join(SPLITS)} and a kind of {', '.join(KINDS)}; "
            f"got seed {seed}, split {split!r}, kind {kind!r}"
        )
    rng = np.random.default_rng(np.random.SeedSequence((SPLITS.index(split), KINDS.index(kind), seed)))
    sounds = _draw_sounds(rng, split, kind)
    pitches: dict[str, Register] = {s.name: pick(rng, REGISTERS) for s in sounds if CLASSES[s.name].has_pitch}
    cast = Cast(place=pick(rng, tuple(PLACE_DETAILS)), pitches=pitches, seed=int(rng.integers(2**31)))
    total_told = rng.random() >= NO_TOTAL_CHANCE
    tenths = durations(rng, sounds, kind, total_told)
    text, unseen_phrasing = write_instruction(rng, sounds, cast, unseen_allowed=split == "test", mixed=mixed)
    wordings = [pick(rng, captions(sound)) if kind == "clip" else canonical_caption(sound) for sound in sounds]
    return WorldStory(
        instruction=Instruction(text=text, total_seconds=sum(tenths) / 10 if total_told else None),
        storyline=write_storyline(sounds, cast, tenths, wordings),
        sounds=sounds,
        cast=cast,
        unseen=(*unseen_content(sounds), *unseen_phrasing),
    )


@cache
def held_out_sounds() -> frozenset[Sound]:
    """The combinations of class and attributes that only test holds. A sound without any attribute is never one."""
    held_out = []
    for name in CLASSES:
        sounds = [sound for sound in all_sounds(name) if sound != Sound(name=name)]
        sounds.sort(key=lambda sound: _hash(repr(sound)))
        held_out += sounds[: max(1, round(HELD_OUT * len(sounds)))]
    return frozenset(held_out)


@cache
def held_out_pairs() -> frozenset[tuple[str, str]]:
    """The ordered pairs of classes that follow each other only in test."""
    return frozenset((a, b) for a in CLASSES for b in CLASSES if a != b and _hash(f"{a}, {b}") < HELD_OUT)


def texts(split: str, num: int, seed: int = 0) -> Iterator[str]:
    """Every text of `num` stories and `num` clips, one by one: what a tokenizer is trained on."""
    for index in range(seed, seed + num):
        for kind in KINDS:
            story = make_story(index, split, kind)
            yield from (story.instruction.text, story.storyline.summary)
            for event in story.storyline.events:
                yield from (event.caption, event.story_detail, event.sound_detail)


@cache
def words() -> tuple[str, ...]:
    """Every word that texts of this world have, sorted; numbers and punctuation are not words. Words that may open a
    sentence of an instruction come with a capital too."""
    plan = [*PLACE_DETAILS.values(), *PITCH_DETAILS.values(), RETURN_DETAIL, "and at last"]
    plan += [text for entry in WORDS.values() for text in (entry.short, entry.why)]
    return tuple(sorted(instruction_words() | set(" ".join(plan).split())))


def _draw_sounds(rng: np.random.Generator, split: str, kind: str) -> tuple[Sound, ...]:
    """Draws until the sounds suit the split: test stories hold something unseen, the others nothing."""
    while True:
        num_events = 1 if kind == "clip" else 1 + chance(rng, NUM_EVENTS_CHANCES)
        names = [_NAMES[index] for index in rng.permutation(len(_NAMES))[:num_events]]
        if num_events >= 3 and rng.random() < RETURN_CHANCE:
            position = int(rng.integers(2, num_events))
            names[position] = names[int(rng.integers(position - 1))]
        sounds = tuple(draw_sound(rng, name, unseen=split == "test" and rng.random() < 0.25) for name in names)
        if bool(unseen_content(sounds)) == (split == "test"):
            return sounds


_NAMES = tuple(CLASSES)


def draw_sound(rng: np.random.Generator, name: str, *, unseen: bool) -> Sound:
    """A sound of this class, one of the held-out combinations or none of them."""
    sounds, chances = _sounds_and_chances(name, unseen)
    return sounds[chance(rng, chances)]


@cache
def _sounds_and_chances(name: str, unseen: bool) -> tuple[tuple[Sound, ...], tuple[float, ...]]:
    sounds = tuple(sound for sound in all_sounds(name) if (sound in held_out_sounds()) == unseen)
    by_distance = {None: 0.5, "near": 0.2, "far": 0.3}
    by_count = {None: 0.15, 1: 0.17, 2: 0.17, 3: 0.15, 4: 0.11, 5: 0.1}
    return sounds, tuple(by_distance[sound.distance] * by_count[sound.count] for sound in sounds)


def unseen_content(sounds: Sequence[Sound]) -> tuple[str, ...]:
    """Which of "combination" and "pair" these sounds in a row hold of what is held out."""
    combination = any(sound in held_out_sounds() for sound in sounds)
    pair = any((one.name, other.name) in held_out_pairs() for one, other in pairwise(sounds))
    return ("combination",) * combination + ("pair",) * pair


def _natural_tenths(sound: Sound) -> float:
    """How long a sound lasts when nobody asks for a length; otherwise its weight when the length is shared out."""
    more = 7 * (sound.count - 1) if sound.count else {"slow": 25, "quick": 15, None: 0}[sound.pace]
    return 10 * WORDS[sound.name].seconds + more


def _least_tenths(sound: Sound) -> int:
    """Strokes need room to be told apart."""
    return 30 if sound.pace else 5 + 6 * (sound.count or 1)


def durations(rng: np.random.Generator, sounds: Sequence[Sound], kind: str, total_told: bool) -> list[int]:
    """Each event's length in tenths of a second: shares of the total by nature, give or take `JITTER`."""
    natural = [_natural_tenths(sound) for sound in sounds]
    (least, most), (low, high) = (EVENT_TENTHS, STORY_TENTHS) if kind == "story" else (CLIP_TENTHS, CLIP_TENTHS)
    floors = [max(least, _least_tenths(sound)) for sound in sounds]
    low, high = max(low, sum(floors)), min(high, most * len(sounds))
    if not total_told:
        total = round(sum(natural))
    elif kind == "story":
        total = 5 * round(sum(natural) * rng.uniform(0.65, 1.4) / 5)
    else:
        total = int(rng.integers(low, high + 1))
    total = min(max(total, low), high)
    weights = [weight * rng.uniform(1 - JITTER, 1 + JITTER) for weight in natural]
    return _whole(_shares(total, weights, floors, most), total)


def _shares(total: int, weights: list[float], floors: list[int], most: int) -> list[float]:
    """Parts of `total` in proportion to `weights`, none below its floor or above `most`; bisection finds the scale."""
    low, high, parts = 0.0, total / min(weights), [float(floor) for floor in floors]
    for _ in range(40):
        scale = (low + high) / 2
        parts = [min(max(weight * scale, floor), most) for weight, floor in zip(weights, floors, strict=True)]
        low, high = (scale, high) if sum(parts) < total else (low, scale)
    return parts


def _whole(parts: list[float], total: int) -> list[int]:
    """Whole numbers that add up to `total`: those with the largest remainders are rounded up."""
    whole = [int(part) for part in parts]
    order = sorted(range(len(parts)), key=lambda index: whole[index] - parts[index])
    for index in order[: total - sum(whole)]:
        whole[index] += 1
    return whole


def write_storyline(
    sounds: Sequence[Sound],
    cast: Cast,
    tenths: Sequence[int],
    wordings: Sequence[str],
    before: Sequence[Sound] = (),
) -> Storyline:
    """The plan of these sounds, each as long as `tenths` of a second say; `before` was heard already."""
    earlier, names = [sound.name for sound in before], [sound.name for sound in sounds]
    starts = accumulate(tenths, initial=0)
    events = (
        Event(
            caption=caption,
            seconds=length / 10,
            start=start / 10,
            story_detail=RETURN_DETAIL if name in (*earlier, *names[:index]) else WORDS[name].why,
            sound_detail=_sound_detail(name, cast),
        )
        for index, (name, caption, start, length) in enumerate(zip(names, wordings, starts, tenths, strict=False))
    )
    return Storyline(summary=_summary(names, earlier), events=tuple(events))


def _sound_detail(name: str, cast: Cast) -> str:
    place = PLACE_DETAILS[cast.place]
    return f"{PITCH_DETAILS[cast.pitches[name]]}, {place}" if name in cast.pitches else place


def _summary(names: Sequence[str], earlier: Sequence[str] = ()) -> str:
    """["rain", "dog", "rain"] is "rain, a dog, and at last rain again"; ["rain", "bell"] is "after rain, a dog: rain
    again, and at last a bell" where rain and a dog were heard earlier."""
    met = [*earlier, *names]
    shorts = [WORDS[name].short + " again" * (name in met[:index]) for index, name in enumerate(met)]
    heard, told = shorts[: len(earlier)], shorts[len(earlier) :]
    lead = f"after {', '.join(heard)}: " if heard else ""
    return lead + (told[0] if len(told) == 1 else f"{', '.join(told[:-1])}, and at last {told[-1]}")


def _hash(text: str) -> float:
    """A number in [0, 1) that is the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def chance(rng: np.random.Generator, chances: Sequence[float]) -> int:
    """An index, as likely as its chance says (they need not sum to 1)."""
    limits = list(accumulate(chances))
    return min(bisect(limits, rng.random() * limits[-1]), len(limits) - 1)
