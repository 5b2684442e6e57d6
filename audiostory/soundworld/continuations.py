"""Stories that go on from what was heard: an opening, and a request that speaks of it.

`make_continuation(seed, split)` draws one to three sounds that are heard, and one to three that follow in the same
place, with the same voices. Most requests refer to what was heard ("the first sound again", "the same sounds
backwards"), so that only who listened knows what is meant; the summary then names what was heard before it goes on.
The opening holds only what an ear can tell: no nearness, no pace that could be a count. The request tells the place in
half of the cases, and always after an opening without strokes, whose echo hardly shows.

Splits differ as those of stories do: opening and continuation taken as one row of sounds hold a held-out combination or
pair in test and none elsewhere, and frames and references marked unseen are for the test split alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from audiostory.soundworld.instructions import PLACES
from audiostory.soundworld.phrases import REGISTERS, Form, canonical_caption, mention, pick
from audiostory.soundworld.questions import is_told_by_ear
from audiostory.soundworld.sounds import CLASSES, Cast, Register, Sound
from audiostory.soundworld.stories import (
    NO_TOTAL_CHANCE,
    PLACE_DETAILS,
    SPLITS,
    WorldStory,
    chance,
    draw_sound,
    durations,
    unseen_content,
    words,
    write_storyline,
)
from audiostory.story.types import Instruction

CONTINUATIONS_SEED = 3  # beside the stories' own kinds and the questions
REFERRING_SHARE = 0.85
NUM_HEARD_CHANCES = (0.2, 0.4, 0.4)  # of 1, 2, 3 sounds in the opening
NUM_FOLLOWING_CHANCES = (0.3, 0.4, 0.3)
RETURN_CHANCE = 0.2  # of an opening of three
WHOLE_CHANCE = 0.4  # of an opening of two and more: it is referred to as a whole
NAMED_CHANCE = 0.6  # of each sound beside the one that is referred to; after a whole of two, of a third sound
PLACE_CHANCE = 0.5
LEAD_CHANCE = 0.3
PLAIN_CHANCE = 0.3  # without capitals and full stop


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """`opening` is heard, and nobody asks for it: its instruction is empty. `story` is what follows, its first event at
    0. `references` has one entry per event of it: which of the opening's events comes again, None for a sound that is
    named. `story.unseen` is about both: any of "combination", "pair", "frame", "reference" and "mention"."""

    opening: WorldStory
    story: WorldStory
    references: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing that a request asks for: a sound by its name (`refers` is None), or what was heard, by a key of
    POSITION_NAMES or WHOLES. `events` has the opening's events that come again, (None,) for a sound by its name."""

    refers: str | None
    events: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """Ways to say something as a noun and as a clause; what stands under unseen is for test alone."""

    noun: tuple[str, ...]
    clause: tuple[str, ...]
    unseen_noun: tuple[str, ...]
    unseen_clause: tuple[str, ...]


# The sound of the opening that each way of referring means, by the number of sounds in it, and its name. Behind other
# sounds of the request the name says whose first or last it is.
POSITIONS = {
    1: {"only": 0},
    2: {"first": 0, "last": 1, "before last": 0},
    3: {"first": 0, "second": 1, "middle": 1, "last": 2, "before last": 1},
}
POSITION_NAMES = {
    "only": "the sound{of}",
    "first": "the first sound{of}",
    "second": "the second sound{of}",
    "middle": "the middle sound{of}",
    "last": "the last sound{of}",
    "before last": "the sound before the last one{of}",
}
OF = (" you heard", " of the opening")
AGAIN = Phrases(
    noun=("{} again", "{} once more"),
    clause=("{} comes again", "{} comes once more", "we hear {} again"),
    unseen_noun=("{} one more time",),
    unseen_clause=("we hear {} once more",),
)
WHOLES = {
    "whole": Phrases(
        noun=(
            "the same sounds again in the same order",
            "all the sounds once more in the same order",
            "the whole opening again",
            "all of it once more",
        ),
        clause=(
            "the same sounds come again in the same order",
            "the whole opening comes once more",
            "we hear all of it again",
        ),
        unseen_noun=("all of it again in the same order",),
        unseen_clause=("we hear the whole opening once more",),
    ),
    "backwards": Phrases(
        noun=(
            "the same sounds backwards",
            "all the sounds again from the last to the first",
            "the whole opening backwards",
            "the same sounds again but backwards",
        ),
        clause=(
            "the same sounds come again backwards",
            "all the sounds come again but from the last to the first",
            "we hear the whole opening backwards",
        ),
        unseen_noun=("the same sounds once more from the last to the first",),
        unseen_clause=("the whole opening comes again but backwards",),
    ),
}

# As in instructions.py, the bars part what leads to the first mention, to each one between and to the last.
FRAMES: dict[Form, tuple[str, ...]] = {
    "noun": (
        "go on with {}|, then {}|, and finally {}",
        "continue with {}|, then {}|, and end with {}",
        "let me hear {}|, next {}|, and at last {}",
        "now play {}|. then play {}|. at the end play {}",
        "after this i want {}|, then {}|, and in the end {}",
        "it goes on with {}|, followed by {}|, and ends with {}",
        "add {}|, after that {}|, and then {}",
        "what follows: {}|, {}|, and {}, in that order",
        "now i want {}|, next {}|, and finally {}",
    ),
    "clause": (
        "then {}|, after that {}|, and finally {}",
        "now {}|, next {}|, and at the end {}",
        "it goes on when {}|, then {}|, and ends when {}",
        "after this {}|, later {}|, and in the end {}",
        "next {}|. then {}|. finally {}",
        "this is how it goes on: {}|, soon after {}|, and at last {}",
    ),
}
UNSEEN_FRAMES: dict[Form, tuple[str, ...]] = {
    "noun": (
        "after this let me hear {}|, then {}|, and at the end {}",
        "play {} now|, next {}|, and finally {}",
        "the story goes on with {}|, after that {}|, and in the end {}",
    ),
    "clause": (
        "what follows: {}|, next {}|, and finally {}",
        "from now on {}|, then {}|, and at last {}",
    ),
}
LEADS = (
    "this is how it starts. ",
    "here is the beginning. ",
    "you hear the beginning of a story. ",
    "this was the first part. ",
    "please continue. ",
    "listen to this. ",
)
BEFORE = ("still {where}, ", "we are still {where}. ")
AFTER = (", still {where}", ". all of it happens {where} as before", ". we are still {where}")


def make_continuation(seed: int, split: str = "train") -> Continuation:
    """The continuation of this seed; another split gives an unrelated one. ValueError for a negative seed or an unknown
    split."""
    if seed < 0 or split not in SPLITS:
        raise ValueError(
            f"a continuation needs a seed of 0 or more and a split of {', '.join(SPLITS)}; got seed {seed}, "
            f"split {split!r}"
        )
    rng = np.random.default_rng(np.random.SeedSequence((SPLITS.index(split), CONTINUATIONS_SEED, seed)))
    heard, tenths_heard, items, sounds = _draw(rng, split, refers=rng.random() < REFERRING_SHARE)
    both = (*heard, *sounds)
    pitches: dict[str, Register] = {s.name: pick(rng, REGISTERS) for s in both if CLASSES[s.name].has_pitch}
    cast = Cast(place=pick(rng, tuple(PLACE_DETAILS)), pitches=pitches, seed=int(rng.integers(2**31)))
    total_told = rng.random() >= NO_TOTAL_CHANCE
    tenths = durations(rng, sounds, "story", total_told)
    place_told = rng.random() < PLACE_CHANCE or all(CLASSES[sound.name].kind == "continuous" for sound in heard)
    text, unseen_phrasing = _write(rng, items, sounds, cast, place_told=place_told, unseen_allowed=split == "test")
    return Continuation(
        opening=WorldStory(
            instruction=Instruction(text=""),
            storyline=write_storyline(heard, cast, tenths_heard, list(map(canonical_caption, heard))),
            sounds=heard,
            cast=cast,
            unseen=unseen_content(heard),
        ),
        story=WorldStory(
            instruction=Instruction(text=text, total_seconds=sum(tenths) / 10 if total_told else None),
            storyline=write_storyline(sounds, cast, tenths, list(map(canonical_caption, sounds)), before=heard),
            sounds=sounds,
            cast=cast,
            unseen=(*unseen_content(both), *unseen_phrasing),
        ),
        references=tuple(event for item in items for event in item.events),
    )


def continuation_words() -> tuple[str, ...]:
    """Every word that requests and summaries of continuations have, sorted, those of stories included. Words that may
    open a sentence come with a capital too."""
    frames = [pattern for table in (FRAMES, UNSEEN_FRAMES) for patterns in table.values() for pattern in patterns]
    tables = [text for phrases in (AGAIN, *WHOLES.values()) for texts in vars(phrases).values() for text in texts]
    patterns = [*frames, *LEADS, *BEFORE, *AFTER, *tables, *POSITION_NAMES.values(), *OF, "the same sound"]
    texts = [re.sub(r"\{\w*\}", "", pattern) for pattern in patterns]
    opening = {word for text in texts for word in re.findall(r"(?:^|\. )([a-z]+)", text)}
    plain = {word for text in texts for word in re.findall(r"[a-z]+", text)}
    return tuple(sorted({*words(), *plain} | {word.capitalize() for word in opening}))


def _draw(
    rng: np.random.Generator, split: str, *, refers: bool
) -> tuple[tuple[Sound, ...], list[int], tuple[Item, ...], tuple[Sound, ...]]:
    """The opening's sounds and their tenths of a second, what is asked for, and the sounds that this means. Draws until
    an ear can tell the opening, no sound follows itself, and all of it suits the split."""

    def sound_of(name: str) -> Sound:
        return draw_sound(rng, name, unseen=split == "test" and rng.random() < 0.25)

    while True:
        names = [_NAMES[index] for index in rng.permutation(len(_NAMES))]
        num_heard = 1 + chance(rng, NUM_HEARD_CHANCES)
        opening, fresh = names[:num_heard], iter(names[num_heard:])
        if num_heard == 3 and rng.random() < RETURN_CHANCE:
            opening[2] = opening[0]
        heard = tuple(map(sound_of, opening))
        tenths = durations(rng, heard, "story", True)
        items = _draw_items(rng, num_heard, refers)
        events = [event for item in items for event in item.events]
        sounds = tuple(sound_of(next(fresh)) if event is None else heard[event] for event in events)
        is_plain = all(
            sound.distance != "near" and is_told_by_ear(sound, length / 10)
            for sound, length in zip(heard, tenths, strict=True)
        )
        in_turn = all(one.name != other.name for one, other in pairwise(sounds))
        if is_plain and in_turn and bool(unseen_content((*heard, *sounds))) == (split == "test"):
            return heard, tenths, items, sounds


_NAMES = tuple(CLASSES)


def _draw_items(rng: np.random.Generator, num_heard: int, refers: bool) -> tuple[Item, ...]:
    named = Item(refers=None, events=(None,))
    if refers and num_heard > 1 and rng.random() < WHOLE_CHANCE:
        order = tuple(range(num_heard))
        whole = pick(rng, (Item(refers="whole", events=order), Item(refers="backwards", events=order[::-1])))
        return (whole, named) if num_heard == 2 and rng.random() < NAMED_CHANCE else (whole,)
    items = [named] * (1 + chance(rng, NUM_FOLLOWING_CHANCES))
    if not refers:
        return tuple(items)
    surely = int(rng.integers(len(items)))
    for index in range(len(items)):
        if index == surely or rng.random() >= NAMED_CHANCE:
            position, event = pick(rng, tuple(POSITIONS[num_heard].items()))
            items[index] = Item(refers=position, events=(event,))
    return tuple(items)


def _write(
    rng: np.random.Generator,
    items: Sequence[Item],
    sounds: Sequence[Sound],
    cast: Cast,
    *,
    place_told: bool,
    unseen_allowed: bool,
) -> tuple[str, tuple[str, ...]]:
    """The request, and which of "frame", "reference" and "mention" are unseen in it."""
    unseen_frame = unseen_allowed and rng.random() < 0.5
    form: Form = pick(rng, ("noun", "noun", "clause"))
    frame = pick(rng, (UNSEEN_FRAMES if unseen_frame else FRAMES)[form])
    mentions, unseen_phrasing, following = [], set(), iter(sounds)
    for item in items:
        meant = [next(following) for _ in item.events]
        unseen = unseen_allowed and rng.random() < 0.3
        if item.refers is None:
            register = cast.pitches.get(meant[0].name)
            mentions.append(mention(meant[0], register, form, rng, unseen=unseen))
        else:
            mentions.append(_refer(rng, item.refers, form, is_first=not mentions, unseen=unseen))
        if unseen:
            unseen_phrasing.add("mention" if item.refers is None else "reference")
    text = _lay_out(frame, mentions)
    if place_told:
        wheres, _ = PLACES[cast.place]
        text = (pick(rng, BEFORE) + text if rng.random() < 0.5 else text + pick(rng, AFTER)).format(
            where=pick(rng, wheres)
        )
    if rng.random() < LEAD_CHANCE:
        text = pick(rng, LEADS) + text
    if rng.random() >= PLAIN_CHANCE:
        text = ". ".join(sentence[0].upper() + sentence[1:] for sentence in text.split(". ")) + "."
    return text, ("frame",) * unseen_frame + tuple(sorted(unseen_phrasing))


def _refer(rng: np.random.Generator, refers: str, form: Form, *, is_first: bool, unseen: bool) -> str:
    """One of many ways to ask for what was heard."""
    phrases = WHOLES.get(refers, AGAIN)
    said = pick(rng, getattr(phrases, f"unseen_{form}" if unseen else form))
    if refers in WHOLES:
        return said
    of = pick(rng, ("", *OF)) if is_first else pick(rng, OF)
    if refers == "only" and not of:
        return said.format("the same sound")
    return said.format(POSITION_NAMES[refers].format(of=of))


def _lay_out(frame: str, mentions: Sequence[str]) -> str:
    first, between, last = frame.split("|")
    leading = [first, *[between] * (len(mentions) - 2), last]
    return "".join(leading[: len(mentions)]).format(*mentions)
