"""Questions about a story that is heard, and their answers: what the sound world knows of understanding.

`make_quiz(seed, split, num)` asks about `make_story(seed, split, "story")`. Whoever hears the story can answer; who
does not can only guess, and yes is as likely as no. An answer is short, lower-case and the only right one: canonical
captions, the short names of sounds ("a dog"), a number in digits, yes or no. What could be meant in two ways is not
asked, such as what comes after a sound that comes twice; nor what no ear can tell, such as how often a sound strikes
that has a pace in place of a count, or captions where that pace could as well be a count. Nearness, which is not
rendered, is left out of captions.

Wordings marked unseen are for the test split alone (half of its questions), and made of words that the others have too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from audiostory.soundworld.phrases import WORDS, canonical_caption, pick
from audiostory.soundworld.sounds import CLASSES, MAX_COUNT, PACE_RATE, Sound
from audiostory.soundworld.stories import SPLITS, WorldStory, chance, make_story, words

MAX_QUESTIONS = 12  # of one story; a single sound has no more to ask for than whether each class is heard
QUESTIONS_SEED = 2  # beside the stories' own kinds, whose seeds have 0 and 1 in this place
PLAIN_SHARE = 0.3  # written without capital and question mark
LEAD_SHARE = 0.25
UNSEEN_SHARE = 0.5

Drawn = tuple[tuple[str, ...], str]  # what a question is about, and the answer

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


@dataclass(frozen=True, kw_only=True)
class Question:
    """`about` is what the text asks for: names of classes, an ordinal, or a class, "before" or "after", and a class."""

    kind: str
    about: tuple[str, ...]
    text: str
    answer: str
    unseen: bool


@dataclass(frozen=True, kw_only=True)
class Quiz:
    """Questions about one story, no two of the same kind about the same."""

    story: WorldStory
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`draw(rng, story)` gives what a question is about and its answer, None where a story has nothing to ask for.

    Patterns have the slots {0}, {1}, {2} for what the question is about, its classes by their short names; {one} and
    {many} are the strokes of the first class: "bark of a dog", "barks of a dog".
    """

    share: float
    draw: Callable[[np.random.Generator, WorldStory], Drawn | None]
    patterns: tuple[str, ...]
    unseen: tuple[str, ...]


def make_quiz(seed: int, split: str = "train", num: int = 4) -> Quiz:
    """The first `num` questions about the story of this seed; more of them leave the first ones as they are.

    ValueError as `make_story` raises it, and for a number outside 1 .. MAX_QUESTIONS.
    """
    if not 1 <= num <= MAX_QUESTIONS:
        raise ValueError(f"expected 1 to {MAX_QUESTIONS} questions per story, got {num}")
    story = make_story(seed, split, "story")
    rng = np.random.default_rng(np.random.SeedSequence((SPLITS.index(split), QUESTIONS_SEED, seed)))
    kinds, shares = tuple(KINDS), tuple(kind.share for kind in KINDS.values())
    questions: dict[tuple[str, ...], Question] = {}
    while len(questions) < num:
        name = kinds[chance(rng, shares)]
        drawn = KINDS[name].draw(rng, story)
        if drawn is None or (name, *drawn[0]) in questions:
            continue
        about, answer = drawn
        unseen = split == "test" and rng.random() < UNSEEN_SHARE
        text = _write(rng, KINDS[name], about, unseen)
        questions[(name, *about)] = Question(kind=name, about=about, text=text, answer=answer, unseen=unseen)
    return Quiz(story=story, questions=tuple(questions.values()))


def reasoning(story: WorldStory, question: Question) -> str:
    """What is written down before the answer: a line for each event that is heard, and where the question names a sound
    or a place in the order, a line of what was found there.

    A line has what can be told by ear; that a sound is near, or its pace in a short clip, cannot. Its number stands on
    both sides of the sound's short name, so that each can be looked up by the other: "2. a frog 2, a frog croaks once".
    Between them a sound is marked that the question names ("asked for", of two the second as "the other") or that was
    heard before ("again"): that is told most easily when the sound is met.
    """
    names, lines = _names(story), []
    named = [word for word in question.about if word in WORDS]
    for number, (name, caption) in enumerate(zip(names, _captions(story), strict=True), 1):
        marks = {"asked for": name in named[:1], "the other": name in named[1:], "again": name in names[: number - 1]}
        words = [WORDS[name].short, *(mark for mark, holds in marks.items() if holds)]
        met = f"{', '.join(words)}," if len(words) > 1 else words[0]
        lines.append(f"{number}. {met} {number}, {caption}")

    def found(name: str) -> str:
        return f"{WORDS[name].short} {names.index(name) + 1 if name in names else 'none'}"

    def place(number: int) -> str:
        return f"{number}. {WORDS[names[number - 1]].short}"

    match question.kind, question.about:
        case "position", (ordinal,):
            lines.append(f"asked: {place(_numbers(names)[ordinal])}")
        case "presence" | "strokes", (name,):
            lines.append(f"asked: {found(name)}")
        case "next" | "previous", (name,):
            step = 1 if question.kind == "next" else -1
            lines.append(f"asked: {found(name)}, {place(names.index(name) + 1 + step)}")
        case "order", (one, _, other):
            lines.append(f"asked: {found(one)}, {found(other)}")
    return "\n".join(lines)


def as_heard(story: WorldStory) -> str:
    """What can be told of a story by ear, in words: the captions of its sounds, in their order."""
    return "; then ".join(_captions(story))


def question_words() -> tuple[str, ...]:
    """Every word that questions and answers have, sorted, those of stories included; numbers are not words. Words that
    may open a sentence come with a capital too."""
    patterns = [text for kind in KINDS.values() for text in (*kind.patterns, *kind.unseen)]
    texts = [re.sub(r"\{\w*\}", "", text) for text in (*patterns, *LEADS)]
    opening = {word for text in texts for word in re.findall(r"(?:^|[.:] )([a-z]+)", text)}
    openers = {entry.short.split()[0] for entry in WORDS.values()}
    plain = {word for text in texts for word in re.findall(r"[a-z]+", text)} | {*ORDINALS, "yes", "no"}
    return tuple(sorted({*words(), *plain} | {word.capitalize() for word in opening | openers}))


def is_told_by_ear(sound: Sound, seconds: float) -> bool:
    """Whether a clip of this length tells the sound's pace from a count: it has more strokes than any count."""
    if sound.pace is None:
        return True
    gap = 1.08 * CLASSES[sound.name].gap / PACE_RATE[sound.pace]  # at most; `sounds.render` draws around it
    return int((seconds - 0.1) / gap) > MAX_COUNT


def _as_heard(sound: Sound, seconds: float) -> Sound:
    """The sound without what the ear cannot tell: that it is near, or its pace in a clip that is too short for it."""
    return replace(
        sound,
        distance=None if sound.distance == "near" else sound.distance,
        pace=sound.pace if is_told_by_ear(sound, seconds) else None,
    )


def _captions(story: WorldStory) -> list[str]:
    """Of each event, what can be told by ear."""
    events = zip(story.sounds, story.storyline.events, strict=True)
    return [canonical_caption(_as_heard(sound, event.seconds)) for sound, event in events]


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """The numbers of a story's events by the words that ask for them."""
    return {**dict(zip(ORDINALS, range(1, len(names) + 1), strict=False)), "last": len(names)}


def _caption(rng: np.random.Generator, story: WorldStory) -> Drawn | None:
    if not all(map(is_told_by_ear, story.sounds, (event.seconds for event in story.storyline.events))):
        return None
    return (), as_heard(story)


def _sounds(rng: np.random.Generator, story: WorldStory) -> Drawn:
    return (), ", ".join(dict.fromkeys(WORDS[name].short for name in _names(story)))


def _events(rng: np.random.Generator, story: WorldStory) -> Drawn:
    return (), str(len(story.sounds))


def _position(rng: np.random.Generator, story: WorldStory) -> Drawn:
    names = _names(story)
    numbers = _numbers(names)
    ordinal = pick(rng, tuple(numbers))
    return (ordinal,), WORDS[names[numbers[ordinal] - 1]].short


def _next(rng: np.random.Generator, story: WorldStory) -> Drawn | None:
    names = _names(story)
    return _neighbour(rng, names, names[1:])


def _previous(rng: np.random.Generator, story: WorldStory) -> Drawn | None:
    names = _names(story)[::-1]
    return _neighbour(rng, names, names[1:])


def _neighbour(rng: np.random.Generator, names: Sequence[str], neighbours: Sequence[str]) -> Drawn | None:
    asked = [(name, other) for name, other in zip(names, neighbours, strict=False) if names.count(name) == 1]
    if not asked:
        return None
    name, other = pick(rng, asked)
    return (name,), WORDS[other].short


def _presence(rng: np.random.Generator, story: WorldStory) -> Drawn:
    present = tuple(dict.fromkeys(_names(story)))
    if rng.random() < 0.5:
        return (pick(rng, present),), "yes"
    return (pick(rng, tuple(name for name in CLASSES if name not in present)),), "no"


def _strokes(rng: np.random.Generator, story: WorldStory) -> Drawn | None:
    names = _names(story)
    counted = [sound for sound in story.sounds if sound.count and names.count(sound.name) == 1]
    if not counted:
        return None
    sound = pick(rng, counted)
    return (sound.name,), str(sound.count)


def _order(rng: np.random.Generator, story: WorldStory) -> Drawn | None:
    names = _names(story)
    single = [name for name in names if names.count(name) == 1]
    if len(single) < 2:
        return None
    earlier, later = (single[index] for index in sorted(rng.permutation(len(single))[:2]))
    relation, answer = pick(rng, ("before", "after")), pick(rng, ("yes", "no"))
    in_order = (relation == "before") == (answer == "yes")
    return (earlier, relation, later) if in_order else (later, relation, earlier), answer


def _names(story: WorldStory) -> list[str]:
    return [sound.name for sound in story.sounds]


LEADS = (
    "listen: ",
    "listen to this. ",
    "a question: ",
    "here is a story in sound. ",
    "please tell me: ",
    "listen well. ",
)

KINDS = {
    "caption": Kind(
        share=5.0,
        draw=_caption,
        patterns=(
            "describe what you hear.",
            "describe the sounds in order.",
            "what do you hear?",
            "what happens here?",
            "tell me what happens, sound by sound.",
            "say what happens from the first sound to the last.",
            "describe this story.",
            "what is going on here?",
        ),
        unseen=(
            "tell me what you hear, in order.",
            "describe what happens here.",
            "say what you hear, sound by sound.",
        ),
    ),
    "sounds": Kind(
        share=2.0,
        draw=_sounds,
        patterns=(
            "which sounds are there?",
            "which sounds do you hear?",
            "name the sounds.",
            "name every sound once.",
            "list the sounds that you hear.",
            "which sounds make up this story?",
            "list the different sounds.",
        ),
        unseen=("list every sound once.", "which different sounds are there?", "name the sounds that you hear."),
    ),
    "events": Kind(
        share=1.0,
        draw=_events,
        patterns=(
            "how many events are there?",
            "how many events do you hear?",
            "count the events.",
            "how many events does this story have?",
            "what is the number of events?",
        ),
        unseen=("how many events make up this story?", "tell me the number of events."),
    ),
    "position": Kind(
        share=3.0,
        draw=_position,
        patterns=(
            "what comes {0}?",
            "which sound comes {0}?",
            "what is the {0} sound?",
            "what do you hear {0}?",
            "name the {0} sound.",
            "which sound is the {0} one?",
            "what is the {0} thing that you hear?",
        ),
        unseen=("which sound do you hear {0}?", "say which sound comes {0}.", "which is the {0} sound?"),
    ),
    "next": Kind(
        share=1.5,
        draw=_next,
        patterns=(
            "what comes right after {0}?",
            "which sound comes right after {0}?",
            "what do you hear right after {0}?",
            "what follows {0}?",
            "which sound follows {0}?",
            "what is the next sound after {0}?",
        ),
        unseen=("which sound do you hear right after {0}?", "name the sound that follows {0}."),
    ),
    "previous": Kind(
        share=1.5,
        draw=_previous,
        patterns=(
            "what comes right before {0}?",
            "which sound comes right before {0}?",
            "what do you hear right before {0}?",
            "which sound is followed by {0}?",
            "what is the last sound before {0}?",
        ),
        unseen=("which sound do you hear right before {0}?", "name the sound that comes right before {0}."),
    ),
    "presence": Kind(
        share=2.5,
        draw=_presence,
        patterns=(
            "can you hear {0}?",
            "do you hear {0}?",
            "is there the sound of {0}?",
            "do you hear {0} at any time?",
            "does this story have the sound of {0}?",
            "did you hear {0}?",
        ),
        unseen=("can you hear the sound of {0} here?", "is the sound of {0} in this story?"),
    ),
    "strokes": Kind(
        share=2.0,
        draw=_strokes,
        patterns=(
            "how many {many} are there?",
            "how many {many} do you hear?",
            "count the {many}.",
            "how often do you hear the {one}?",
            "what is the number of {many}?",
        ),
        unseen=("how many {many} does this story have?", "tell me how often you hear the {one}."),
    ),
    "order": Kind(
        share=1.5,
        draw=_order,
        patterns=(
            "did {0} come {1} {2}?",
            "do you hear {0} {1} {2}?",
            "does the sound of {0} come {1} {2}?",
            "is it true that {0} came {1} {2}?",
            "{0} came {1} {2}: is that true?",
        ),
        unseen=("did the sound of {0} come {1} {2}?", "is it true that you hear {0} {1} {2}?"),
    ),
}


def _write(rng: np.random.Generator, kind: Kind, about: tuple[str, ...], unseen: bool) -> str:
    pattern = pick(rng, kind.unseen if unseen else kind.patterns)
    shorts = [WORDS[word].short if word in WORDS else word for word in about]
    one, many = (WORDS[about[0]].strokes if about and about[0] in WORDS else None) or ("", "")
    text = pattern.format(*shorts, one=one, many=many)
    if rng.random() < LEAD_SHARE:
        text = pick(rng, LEADS) + text
    if rng.random() < PLAIN_SHARE:
        return text[:-1]
    return ". ".join(sentence[0].upper() + sentence[1:] for sentence in text.split(". "))
