"""The words for one sound: captions, mentions in an instruction, and the way back from a caption to its sound.

A caption tells a sound's class, count, pace, level and distance; a mention in an instruction may tell its pitch as
well. Both are put together from the same few pieces, in the order "subject verb manner distance". Every word is plain
and lower-case, so that a tokenizer with one token per word, and a planner of a few million parameters, can learn all.
`instructions.py` joins mentions to instructions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Literal, TypeVar

import numpy as np

from audiostory.soundworld.sounds import CLASSES, Register, Sound

MAX_CAPTION_WORDS = 10

Form = Literal["clause", "noun"]  # something happens ("a dog barks"), or something to be heard ("a dog barking")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ClassWords:
    """How one class is put in words.

    `wordings` are (subject, verb, "-ing" form); canonical captions use the first. `short` names the class in a summary,
    `why` is its story detail. `strokes` names one and several strokes of a countable class, `source` is what follows
    "the sound of" for any other. `keys` are the words that give the class away in free text; no other class has them.
    `seconds` is how long it lasts by nature. `pitch_words` says which adjectives its subject takes ("none": none fits).
    """

    short: str
    wordings: tuple[tuple[str, str, str], ...]
    keys: str
    why: str
    seconds: float
    strokes: tuple[str, str] | None = None
    source: str = ""
    pitch_words: str = "thing"


WORDS: dict[str, ClassWords] = {
    "rain": ClassWords(
        short="rain", source="rain", seconds=8.0, why="clouds have gathered", keys="rain rainfall",
        wordings=(("rain", "comes down", "coming down"), ("rain", "pours down", "pouring down")),
    ),
    "wind": ClassWords(
        short="wind", source="the wind", seconds=7.5, why="the weather is changing", keys="wind winds",
        wordings=(("a wind", "blows", "blowing"), ("the wind", "rushes by", "rushing by")),
    ),
    "waves": ClassWords(
        short="waves", source="sea waves", seconds=9.0, why="the tide comes in", keys="waves wave",
        wordings=(("sea waves", "roll in", "rolling in"), ("sea waves", "wash up", "washing up")),
    ),
    "stream": ClassWords(
        short="a stream", source="a stream", seconds=8.0, why="water runs down the hill", keys="stream streams",
        wordings=(("a stream", "flows", "flowing"), ("a stream of water", "runs along", "running along")),
    ),
    "fire": ClassWords(
        short="a fire", source="a fire", seconds=7.5, why="dry wood is burning", keys="fire",
        wordings=(("a fire", "crackles", "crackling"), ("a fire", "burns", "burning")),
    ),
    "crickets": ClassWords(
        short="crickets", source="crickets", seconds=7.0, why="a warm night falls", keys="crickets cricket",
        wordings=(("night crickets", "chirp", "chirping"), ("some crickets", "chirp", "chirping")),
    ),
    "thunder": ClassWords(
        short="thunder", strokes=("roll of thunder", "rolls of thunder"), seconds=5.0, why="a storm is coming",
        keys="thunder", wordings=(("thunder", "rolls", "rolling"), ("thunder", "rumbles", "rumbling")),
    ),
    "dog": ClassWords(
        short="a dog", strokes=("bark of a dog", "barks of a dog"), seconds=3.0, why="a stranger is at the gate",
        keys="dog dogs bark barks barking", pitch_words="animal",
        wordings=(("a dog", "barks", "barking"), ("a dog", "calls out", "calling out")),
    ),
    "bird": ClassWords(
        short="a bird", source="a bird", seconds=5.5, why="it greets the morning", keys="bird birds",
        pitch_words="animal", wordings=(("a bird", "sings", "singing"), ("a bird", "whistles", "whistling")),
    ),
    "owl": ClassWords(
        short="an owl", strokes=("hoot of an owl", "hoots of an owl"), seconds=4.0, why="it hunts in the dark",
        keys="owl owls hoot hoots hooting", pitch_words="animal",
        wordings=(("an owl", "hoots", "hooting"), ("an owl", "calls", "calling")),
    ),
    "frog": ClassWords(
        short="a frog", strokes=("croak of a frog", "croaks of a frog"), seconds=3.5, why="it waits by the pond",
        keys="frog frogs croak croaks croaking", pitch_words="animal",
        wordings=(("a frog", "croaks", "croaking"), ("a frog", "calls", "calling")),
    ),
    "footsteps": ClassWords(
        short="footsteps", strokes=("step of a person", "steps of a person"), seconds=4.5,
        why="somebody is on the way", keys="footsteps footstep steps step stepping walks walking",
        wordings=(("someone", "steps", "stepping"), ("a person", "walks", "walking")),
    ),
    "knock": ClassWords(
        short="a knock", strokes=("knock on a door", "knocks on a door"), seconds=3.0, why="a guest wants to enter",
        keys="knock knocks knocking", wordings=(("someone", "knocks", "knocking"),
                                                ("someone", "knocks on a door", "knocking on a door")),
    ),
    "creak": ClassWords(
        short="a creak", strokes=("creak of a door", "creaks of a door"), seconds=3.5, why="an old hinge moves",
        keys="creak creaks creaking", pitch_words="none",
        wordings=(("a door", "creaks", "creaking"), ("an old door", "creaks", "creaking")),
    ),
    "bell": ClassWords(
        short="a bell", strokes=("ring of a bell", "rings of a bell"), seconds=5.0, why="the hour has come",
        keys="bell bells", wordings=(("a bell", "rings", "ringing"), ("someone", "strikes a bell", "striking a bell")),
    ),
    "siren": ClassWords(
        short="a siren", source="a siren", seconds=7.0, why="help is on the way", keys="siren sirens",
        wordings=(("a siren", "wails", "wailing"), ("a siren", "howls", "howling")),
    ),
    "beep": ClassWords(
        short="a beep", strokes=("beep of a machine", "beeps of a machine"), seconds=2.5, why="the timer has run out",
        keys="beep beeps beeping", pitch_words="none",
        wordings=(("a machine", "beeps", "beeping"), ("a small machine", "beeps", "beeping")),
    ),
    "horn": ClassWords(
        short="a horn", strokes=("blast of a horn", "blasts of a horn"), seconds=3.5, why="it gives a warning",
        keys="horn horns", wordings=(("a horn", "blows", "blowing"), ("someone", "blows a horn", "blowing a horn")),
    ),
    "engine": ClassWords(
        short="an engine", source="an engine", seconds=7.0, why="a car is ready", keys="engine engines",
        wordings=(("an engine", "runs", "running"), ("an engine", "hums", "humming")),
    ),
    "train": ClassWords(
        short="a train", source="a train", seconds=9.0, why="it heads for the city", keys="train trains",
        wordings=(("a train", "passes", "passing"), ("a train", "rolls along", "rolling along")),
    ),
    "clock": ClassWords(
        short="a clock", source="a clock", seconds=6.0, why="time goes by", keys="clock clocks tick ticks ticking",
        wordings=(("a clock", "ticks", "ticking"), ("a wall clock", "ticks", "ticking")),
    ),
    "applause": ClassWords(
        short="applause", source="applause", seconds=6.0, why="the people are pleased",
        keys="applause claps clap clapping crowd",
        wordings=(("a crowd", "claps", "clapping"), ("a crowd", "gives applause", "giving applause")),
    ),
    "guitar": ClassWords(
        short="a guitar", strokes=("note of a guitar", "notes of a guitar"), seconds=4.5, why="a friend makes music",
        keys="guitar guitars", wordings=(("a guitar", "plays", "playing"),
                                         ("someone", "plucks a guitar", "plucking a guitar")),
    ),
    "piano": ClassWords(
        short="a piano", strokes=("note of a piano", "notes of a piano"), seconds=4.5, why="a child is practicing",
        keys="piano pianos", wordings=(("a piano", "plays", "playing"),
                                       ("someone", "strikes a piano", "striking a piano")),
    ),
    "drum": ClassWords(
        short="a drum", strokes=("beat of a drum", "beats of a drum"), seconds=3.0, why="a march begins",
        keys="drum drums", wordings=(("a drum", "beats", "beating"), ("someone", "hits a drum", "hitting a drum")),
    ),
    "flute": ClassWords(
        short="a flute", strokes=("note of a flute", "notes of a flute"), seconds=4.5, why="a player feels alone",
        keys="flute flutes", wordings=(("a flute", "plays", "playing"),
                                       ("someone", "plays a flute", "playing a flute")),
    ),
}  # fmt: skip

# In each tuple the first form is the one that canonical captions use.
TIMES = {1: ("once",), 2: ("twice", "two times"), 3: ("three times",), 4: ("four times",), 5: ("five times",)}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
PACE = {"slow": ("slowly", "at a slow pace"), "quick": ("quickly", "at a quick pace", "fast")}
PACE_ADJECTIVES = {"slow": ("slow",), "quick": ("quick", "fast")}
LEVEL = {"soft": ("softly", "quietly"), "loud": ("loudly", "very loudly")}
LEVEL_ADJECTIVES = {"soft": ("soft", "quiet"), "loud": ("loud",)}
WHERE = {"far": ("far away", "in the distance", "far off"), "near": ("close by", "up close", "right here"), None: ("",)}
WHERE_ADJECTIVES = {"far": "distant", "near": "nearby"}

# How an instruction tells the pitch. Where it says nothing of the pitch, "middle" is meant.
REGISTERS: tuple[Register, ...] = ("low", "middle", "high")
PITCH_ADJECTIVES = {
    "thing": {"low": ("deep", "low", "low-pitched"), "middle": ("medium-pitched",), "high": ("high", "high-pitched")},
    "animal": {"low": ("deep-voiced", "low-pitched"), "middle": ("medium-pitched",),
               "high": ("high-voiced", "high-pitched")},
}  # fmt: skip
PITCH_TAILS = {"low": ("at a low pitch", "with a deep tone"), "middle": ("at a medium pitch", "with a medium tone"),
               "high": ("at a high pitch", "with a high tone")}  # fmt: skip
STROKE_PITCH = {"low": ("deep", "low"), "middle": ("medium",), "high": ("high",)}


def canonical_caption(sound: Sound) -> str:
    """What a story's plan writes for this sound: "a dog barks three times far away" for `Sound(name="dog", count=3,
    distance="far")`."""
    return captions(sound)[0]


@cache
def captions(sound: Sound) -> tuple[str, ...]:
    """Every caption of this sound, the canonical one first: at least 3, of 3 to 10 words, and of no other sound."""
    return tuple(dict.fromkeys(text for text in _all_captions(sound) if len(text.split()) <= MAX_CAPTION_WORDS))


def sounds_in_caption(caption: str) -> Sound | None:
    """The sound that a caption tells, or None when no sound of this world is captioned so. Case, spaces and punctuation
    do not matter; for looser text there is `class_in_text`."""
    return _sound_of_caption().get(" ".join(_spoken_words(caption)))


def class_in_text(text: str) -> str | None:
    """The class that a text names first, or None: "two dogs, then rain" is about "dog"."""
    return next((_class_of_key()[word] for word in _spoken_words(text) if word in _class_of_key()), None)


@cache
def all_sounds(name: str) -> tuple[Sound, ...]:
    """Every sound of one class that stories use: with a count or a pace if countable, else with a level or none."""
    if CLASSES[name].kind == "countable":
        plain = [Sound(name=name, count=count) for count in TIMES]
        plain += [Sound(name=name, pace="slow"), Sound(name=name, pace="quick")]
    else:
        plain = [Sound(name=name), Sound(name=name, level="soft"), Sound(name=name, level="loud")]
    return tuple(sound for one in plain for sound in (one, replace(one, distance="near"), replace(one, distance="far")))


def mention(
    sound: Sound,
    register: str | None,
    form: Form,
    rng: np.random.Generator,
    *,
    again: bool = False,
    unseen: bool = False,
) -> str:
    """One of many ways to ask for a sound within an instruction.

    `register` is the pitch to tell, None for none. `again` refers to a sound that was heard before; `unseen` takes the
    style that only the test split may use.
    """
    style = "unseen" if unseen else pick(rng, ("plain", "plain", "nearness", "strokes"))
    if register == "middle" and rng.random() < 0.5:
        register = None
    if style == "strokes":
        return _strokes_mention(sound, register, form, rng, again)
    words = WORDS[sound.name]
    subject, verb, gerund = pick(rng, words.wordings)
    tail, adjectives = "", []
    if register and subject != "someone" and words.pitch_words != "none" and rng.random() < 0.6:
        adjectives = [pick(rng, PITCH_ADJECTIVES[words.pitch_words][register])]
    elif register:
        tail = pick(rng, PITCH_TAILS[register])
    where = pick(rng, WHERE[sound.distance])
    if style == "nearness" and sound.distance and subject != "someone":
        adjectives, where = [WHERE_ADJECTIVES[sound.distance], *adjectives], ""
    again_word = "again" if again and not subject.startswith(("a ", "an ")) else ""
    noun = _noun_phrase(subject, *adjectives, same=again)
    rest = (_mention_manner(sound, rng), again_word, tail, where)
    if style == "unseen":
        return _join(noun, "that", verb, *rest) if form == "noun" else _join("one can hear", noun, gerund, *rest)
    return _join(noun, verb if form == "clause" else gerund, *rest)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of `options`, each as likely. (`rng.choice` is some twenty times slower.)"""
    return options[int(rng.random() * len(options))]


def phrase_pieces() -> Iterator[str]:
    """Every piece that the words for one sound are put together from."""
    for words in WORDS.values():
        yield from (words.short, words.source, words.why, *(words.strokes or ()))
        for wording in words.wordings:
            yield from wording
    for table in (TIMES, PACE, PACE_ADJECTIVES, LEVEL, LEVEL_ADJECTIVES, WHERE, PITCH_TAILS, STROKE_PITCH,
                  *PITCH_ADJECTIVES.values()):  # fmt: skip
        for forms in table.values():
            yield from forms
    yield from (*NUMBERS.values(), *WHERE_ADJECTIVES.values(), "a", "an", "the same", "again", "more", "times", "that",
                "there is the sound of", "there are", "one can hear")  # fmt: skip


def phrase_openers() -> Iterator[str]:
    """Every piece that a mention may begin with."""
    yield from ("a", "an", "the", "there", *NUMBERS.values(), *WHERE_ADJECTIVES.values())
    yield from (adjective for adjectives in PACE_ADJECTIVES.values() for adjective in adjectives)
    yield from (wording[0] for words in WORDS.values() for wording in words.wordings)


def _all_captions(sound: Sound) -> Iterator[str]:
    words = WORDS[sound.name]
    manners, places = _manners(sound), WHERE[sound.distance]
    for subject, verb, gerund in words.wordings:
        for manner, where in product(manners, places):
            yield _join(subject, verb, manner, where)
            yield _join(subject, gerund, manner, where)
    for named, where in product(_named_strokes(sound), places):
        yield _join(named, where)
    if sound.distance is None:
        return
    for subject, verb, gerund in words.wordings:
        nearby = _noun_phrase(subject, WHERE_ADJECTIVES[sound.distance])
        for manner in manners:
            yield _join(places[1], subject, verb, manner)
            if subject != "someone":
                yield from (_join(nearby, verb, manner), _join(nearby, gerund, manner))


def _manners(sound: Sound) -> tuple[str, ...]:
    if sound.count:
        return TIMES[sound.count]
    if sound.pace:
        return PACE[sound.pace]
    return LEVEL[sound.level] if sound.level else ("",)


def _mention_manner(sound: Sound, rng: np.random.Generator) -> str:
    if sound.count and sound.count > 1 and rng.random() < 0.15:
        return f"{sound.count} times"
    return pick(rng, _manners(sound))


def _named_strokes(sound: Sound, pitch: str = "", again: bool = False) -> list[str]:
    """Such as "three deep barks of a dog", "slow barks of a dog" or "the soft sound of rain"."""
    words = WORDS[sound.name]
    more = "more" if again else ""
    if sound.count and words.strokes:
        return [_join(NUMBERS[sound.count], more, pitch, words.strokes[sound.count > 1])]
    if sound.pace and words.strokes:
        return [_join(more, adjective, pitch, words.strokes[1]) for adjective in PACE_ADJECTIVES[sound.pace]]
    source = _noun_phrase(words.source, pitch, same=again)
    if again and source == words.source:
        source = f"{source} again"
    levels = LEVEL_ADJECTIVES[sound.level] if sound.level else ("",)
    return [_join("the", level, "sound of", source) for level in levels]


def _strokes_mention(sound: Sound, register: str | None, form: Form, rng: np.random.Generator, again: bool) -> str:
    words = WORDS[sound.name]
    pitch = ""
    if register:
        table = STROKE_PITCH if words.strokes else PITCH_ADJECTIVES[words.pitch_words]
        pitch = pick(rng, table[register])
    named = pick(rng, _named_strokes(sound, pitch, again))
    if sound.count and rng.random() < 0.2:
        named = named.replace(NUMBERS[sound.count], str(sound.count), 1)
    there = "" if form == "noun" else ("there are" if sound.pace or (sound.count or 1) > 1 else "there is")
    return _join(there, named, pick(rng, WHERE[sound.distance]))


def _noun_phrase(subject: str, *adjectives: str, same: bool = False) -> str:
    """("an owl", "distant") -> "a distant owl"; a subject without article only gets the adjectives."""
    article, _, noun = subject.partition(" ")
    if article not in ("a", "an"):
        return _join(*adjectives, subject)
    noun = _join(*adjectives, noun)
    if same:
        return f"the same {noun}"
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _spoken_words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


@cache
def _sound_of_caption() -> dict[str, Sound]:
    return {caption: sound for name in CLASSES for sound in all_sounds(name) for caption in captions(sound)}


@cache
def _class_of_key() -> dict[str, str]:
    return {key: name for name, words in WORDS.items() for key in words.keys.split()}
