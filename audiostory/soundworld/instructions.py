"""How a person asks for a story of the sound world: mentions of the sounds, joined by a frame, set in a place.

Frames and mention styles marked `unseen` are for the test split alone, and made of words that the others have too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from audiostory.soundworld.phrases import Form, mention, phrase_openers, phrase_pieces, pick
from audiostory.soundworld.sounds import Cast, Sound

PLAIN_WORDS, WORDS_PER_EVENT = 25, 9  # an instruction has at most so many words, and so many more for each event


@dataclass(frozen=True, kw_only=True)
class Frame:
    """How the mentions of a story are joined, for `least` to `most` events.

    With bars, `pattern` holds what leads to the first mention, to each one between (in turn), and to the last. Without,
    it is a sentence with the slots {first}, {last}, {between}, {before} (all but the last) and {back} (last to first).
    """

    form: Form
    pattern: str
    least: int = 2
    most: int = 6
    unseen: bool = False


def _frames(form: Form, *patterns: str, least: int = 2, most: int = 6, unseen: bool = False) -> tuple[Frame, ...]:
    return tuple(Frame(form=form, pattern=pattern, least=least, most=most, unseen=unseen) for pattern in patterns)


FRAMES = (
    *_frames(
        "clause",
        "first {}|, then {}|, after that {}|, and finally {}",
        "first {}|. then {}|. next {}|. finally {}",
        "{}|, then {}|, then {}",
        "{}|; after that {}|; later {}|; and at last {}",
        "at first {}|, next {}|, soon after {}|, and in the end {}",
        "it starts when {}|, goes on when {}|, and ends when {}",
        "to begin, {}|. a moment later {}|. to end, {}",
        "{}|, and when that stops {}",
        "1: {}|, 2: {}|, 3: {}|, 4: {}|, 5: {}|, last: {}",
        "the first thing one can hear: {}|. the next: {}|. the last: {}",
        "{}|, and then {}",
        "in the beginning {}|, then {}|, and at the end {}",
    ),
    *_frames(
        "noun",
        "begin with {}|, after that {}|, then {}|, end with {}",
        "{}|, followed by {}|, and then {}",
        "start with {}|, add {}|, then add {}|, and finish with {}",
        "{}|, {}|, and {}, in that order",
        "these sounds in order: {}|, {}",
        "open with {}|; next comes {}|; then comes {}|; close with {}",
        "the first sound is {}|, the second is {}|, the third {}|, the fourth {}|, the fifth {}|, and the last is {}",
        "we hear {}|, next {}|, later {}|, and finally {}",
        "let me hear {}|, then {}|, and then {}",
        "i want {}|, after it {}|, and in the end {}",
        "play {}|. then play {}|. at the end play {}",
        "the story has {}|, then {}|, and finally {}",
        "first of all {}|, second {}|, third {}|, fourth {}|, fifth {}|, last {}",
        "{}| and after it {}|, followed by {}|, with {} at the end",
    ),
    *_frames("noun", "{}| gives way to {}|, then to {}|, and at last to {}", least=3),
    # Here the order of the sounds is not the order of the words.
    *_frames("noun", "end with {last}; before that {before}", "the last sound is {last}, and before it come {before}"),
    *_frames("noun", "start with {first} and end with {last}, with {between} between them", least=3),
    *_frames("noun", "last comes {back}", most=3),
    *_frames("clause", "{last}; before that, {first}", "{first}, and only then {last}", most=2),
    *_frames(
        "noun",
        "after {first} comes {last}",
        "before {last} comes {first}",
        "{last}, but only after {first}",
        "{last}, with {first} before it",
        most=2,
    ),
    *_frames(
        "noun",
        "{first}",
        "only {first}",
        "{first} and that is all",
        "i want to hear {first}",
        "play this sound: {first}",
        "let me hear {first}",
        "one sound: {first}",
        least=1,
        most=1,
    ),
    *_frames("clause", "{first}", "all the time {first}", "this happens: {first}", least=1, most=1),
    # Only in the test split.
    *_frames(
        "clause",
        "to start, {}|, next {}|, and at the very end {}",
        "{}|. after that {}|. in the end {}",
        "the story starts when {}|; then {}|; it ends when {}",
        unseen=True,
    ),
    *_frames(
        "noun",
        "begin with {}|, go on with {}|, and let it end with {}",
        "play in this order: {}|, then {}|, last {}",
        "first comes {}|, second comes {}|, then {}|, and at last comes {}",
        "{}|, next {}|, and {} to finish",
        "end with {last}, after {before}",
        unseen=True,
    ),
    *_frames("noun", "after {first} we hear {last}", most=2, unseen=True),
    *_frames("noun", "we hear only {first}", "one can hear {first}", least=1, most=1, unseen=True),
    *_frames("clause", "this is the story: {first}", least=1, most=1, unseen=True),
)

# Of what mixed frames are made in which the order of the words is not the order of the sounds.
ENDS_FIRST = ("end with {last}", "finish with {last}", "close with {last}", "the last sound is {last}", "{last}")
COME_BEFORE = (
    "; before that {before}",
    ", and before it come {before}",
    ", but only after {before}",
    ", with {before} before it",
    ". before that play {before}",
    ", and it comes after {before}",
)
COMES_AFTER = ("{last} comes after {before}", "after {before} comes {last}")
MIXED_CHANCE, SENTENCE_CHANCE, ALIKE_CHANCE, BABBLE_CHANCE = 0.8, 0.4, 0.5, 0.4
STOPS = (", ", "; ", ". ", ", and ", " and ", ", then ")
ORDERING = {"before", "after", "only", "second", "third", "fourth", "fifth"}  # words that no babble has

# Two neighbours may be asked for as one.
MERGES = ("{0} and then {1}", "{0} before {1}", "{1} right after {0}", "{1} but only after {0}")

LEADS = (
    "make a story in sound: ",
    "tell me a story. ",
    "a calm scene. ",
    "a short story: ",
    "please make this: ",
    "a busy day. ",
    "i need a sound story. ",
    "this is how it goes: ",
    "here we go: ",
)
BEFORE = ("{where}: ", "{where}, ", "the place is {noun}. ", "picture {noun}: ", "a scene {where}: ")
AFTER = (", all {where}", ". all of this happens {where}", ". we are {where}", ", and all of it is {where}")
UNSEEN_AFTER = (". the scene is {noun}", ". it all happens {where}")
PLACES = {
    "open air": (("outdoors", "outside", "in the open air", "under the open sky"), "the open air"),
    "room": (("in a small room", "in a room", "inside a little room"), "a small room"),
    "hall": (("in a large hall", "in a hall", "inside a big hall"), "a large hall"),
    "church": (("in a church", "inside a church", "in an old church"), "a church"),
    "tunnel": (("in a tunnel", "inside a tunnel", "in a long tunnel"), "a tunnel"),
}  # where, and as a noun


def write_instruction(
    rng: np.random.Generator, sounds: Sequence[Sound], cast: Cast, *, unseen_allowed: bool, mixed: bool = False
) -> tuple[str, tuple[str, ...]]:
    """The instruction's text, and which of "frame" and "mention" are unseen in it (none unless allowed).

    With `mixed`, most frames are put together from pieces of several, or of words of theirs in any order, so that there
    are thousands instead of some forty. None of them is an unseen one.
    """
    frames = _fitting_frames(len(sounds), unseen_allowed and rng.random() < 0.5)
    mixed = mixed and len(sounds) > 1 and rng.random() < MIXED_CHANCE
    while True:
        frame = _mixed_frame(rng, len(sounds)) if mixed else pick(rng, frames)
        mentions, unseen_mention = _mentions(rng, sounds, cast, frame.form, unseen_allowed)
        body = _lay_out(rng, frame, mentions)
        text = _set_scene(rng, body, cast.place, frame.unseen)
        if len(text.split()) <= PLAIN_WORDS + WORDS_PER_EVENT * len(sounds):
            return text, ("frame",) * frame.unseen + ("mention",) * unseen_mention


def instruction_words() -> set[str]:
    """Every word that instructions have; those that may open a sentence with a capital too."""
    places = [text for wheres, noun in PLACES.values() for text in (*wheres, noun)]
    patterns = [*(frame.pattern for frame in FRAMES), *MERGES, *LEADS, *BEFORE, *AFTER, *UNSEEN_AFTER, *places]
    texts = [_bare(pattern) for pattern in patterns]
    opening = {word for text in (*texts, *phrase_openers()) for word in re.findall(r"(?:^|\. )([a-z]+)", text)}
    texts += phrase_pieces()
    return _plain_words(texts) | {word.capitalize() for word in opening}


def _bare(pattern: str) -> str:
    """Without its slots."""
    return re.sub(r"\{\w*\}", "", pattern)


def _plain_words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"[a-z]+", text)}


@cache
def _fitting_frames(num_events: int, unseen: bool) -> tuple[Frame, ...]:
    return tuple(frame for frame in FRAMES if frame.unseen == unseen and frame.least <= num_events <= frame.most)


def _mixed_frame(rng: np.random.Generator, num_events: int) -> Frame:
    """Where there is babble between mentions, only their order is left to go by."""
    form: Form = pick(rng, ("clause", "noun"))
    babbles = rng.random() < BABBLE_CHANCE
    if form == "noun" and rng.random() < SENTENCE_CHANCE:
        tail = f"{pick(rng, STOPS)}{_babble(rng, 1, 2)} after {{before}}" if babbles else pick(rng, COME_BEFORE)
        return Frame(form=form, pattern=pick(rng, (pick(rng, ENDS_FIRST) + tail, pick(rng, COMES_AFTER))))
    first, between, last = _pieces(form)
    if babbles:
        first = (*first, f"{_babble(rng, 1, 3)} {{}}")
        between = tuple(f"{pick(rng, STOPS)}{_babble(rng, 1, 3)} {{}}" for _ in range(num_events))
        last = (*last, f"{pick(rng, STOPS)}{_babble(rng, 1, 4)} {{}}")
    if rng.random() < ALIKE_CHANCE:
        between = (pick(rng, between),)
    pieces = [pick(rng, first), *(pick(rng, between) for _ in range(num_events - 2)), pick(rng, last)]
    return Frame(form=form, pattern="|".join(pieces))


def _babble(rng: np.random.Generator, least: int, most: int) -> str:
    """Words of frames that only training has, in any order."""
    return " ".join(pick(rng, _words_of_frames()) for _ in range(int(rng.integers(least, most + 1))))


@cache
def _words_of_frames() -> tuple[str, ...]:
    return tuple(sorted(_plain_words(_bare(frame.pattern) for frame in FRAMES if not frame.unseen) - ORDERING))


@cache
def _pieces(form: Form) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """What leads to the first mention, to one between and to the last, in frames for any number of events. Those that
    count their events lend the ends alone."""
    first, between, last = [], [], []
    for frame in FRAMES:
        if frame.form == form and "|" in frame.pattern and frame.least == 2 and not frame.unseen:
            start, *middle, end = frame.pattern.split("|")
            first.append(start)
            between += middle if len(middle) <= 2 else []
            last.append(end)
    return tuple(dict.fromkeys(first)), tuple(dict.fromkeys(between)), tuple(dict.fromkeys(last))


def _mentions(
    rng: np.random.Generator, sounds: Sequence[Sound], cast: Cast, form: Form, unseen_allowed: bool
) -> tuple[list[str], bool]:
    written, met, any_unseen = [], set(), False
    for sound in sounds:
        again = sound.name in met
        unseen = unseen_allowed and not again and rng.random() < 0.3
        register = None if again and rng.random() < 0.5 else cast.pitches.get(sound.name)
        written.append(mention(sound, register, form, rng, again=again, unseen=unseen))
        met.add(sound.name)
        any_unseen |= unseen
    return written, any_unseen


def _lay_out(rng: np.random.Generator, frame: Frame, mentions: list[str]) -> str:
    if "|" not in frame.pattern:
        return frame.pattern.format(
            first=mentions[0],
            last=mentions[-1],
            between=" and ".join(mentions[1:-1]),
            before=", then ".join(mentions[:-1]),
            back=", before it ".join(reversed(mentions)),
        )
    if frame.form == "noun" and len(mentions) > frame.least and rng.random() < 0.2:
        at = int(rng.integers(len(mentions) - 1))
        merged = pick(rng, MERGES).format(*mentions[at : at + 2])
        mentions = [*mentions[:at], merged, *mentions[at + 2 :]]
    first, *between, last = frame.pattern.split("|")
    between = between or [last]
    leading = [first, *(between[index % len(between)] for index in range(len(mentions) - 2)), last]
    return "".join(leading).format(*mentions)


def _set_scene(rng: np.random.Generator, body: str, place: str, unseen: bool) -> str:
    """Adds the place, a lead now and then, and in most cases capitals and a full stop."""
    wheres, noun = PLACES[place]
    before, after = pick(rng, BEFORE), pick(rng, UNSEEN_AFTER if unseen else AFTER)
    body = f"{before}{body}" if not unseen and rng.random() < 0.5 else f"{body}{after}"
    body = body.format(where=pick(rng, wheres), noun=noun)
    if rng.random() < 0.25:
        body = pick(rng, LEADS) + body
    if rng.random() < 0.3:
        return body
    return ". ".join(sentence[0].upper() + sentence[1:] for sentence in body.split(". ")) + "."
