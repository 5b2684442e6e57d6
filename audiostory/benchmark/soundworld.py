"""Scores stories of the sound world, where the truth is known: what was planned, and what is heard.

Every measure goes through the events of the truth, so that all systems are asked the same number of questions: an event
that was not told is wrong wherever it is asked for. Events are compared by position; one too many makes count and order
wrong. No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from audiostory.benchmark.intervals import Score, bootstrap
from audiostory.benchmark.items import PITCHLESS, Heard, ToldStory, TrueEvent, TrueStory
from audiostory.soundworld.stories import class_in_text

LENGTH_TOLERANCE = 0.1  # seconds
Answers = Sequence[Sequence[Heard]]  # answers[i][k]: what was heard in the k-th clip of the i-th story


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How one sound fared: of `num` clips, `right` were heard as it; `mistaken_for` counts the others, most first."""

    name: str
    num: int
    right: int
    mistaken_for: Mapping[str, int]


def score_plans(truths: Sequence[TrueStory], told: Sequence[ToldStory]) -> dict[str, Score]:
    """The number of events, the order of sounds, captions to the letter, and the story's length where one was asked."""
    pairs = list(zip(truths, told, strict=True))
    asked = [(truth.instruction.total_seconds, story.seconds) for truth, story in pairs]
    missed = [abs(seconds - wanted) for wanted, seconds in asked if wanted is not None]
    return {
        "event count right": bootstrap([len(story.captions) == len(truth.events)] for truth, story in pairs),
        "order of sounds right": bootstrap(
            [[class_in_text(caption) for caption in story.captions] == [event.name for event in truth.events]]
            for truth, story in pairs
        ),
        "captions right to the letter": bootstrap(
            [list(story.captions) == [event.caption for event in truth.events]] for truth, story in pairs
        ),
        "length within 0.1 s": bootstrap([seconds <= LENGTH_TOLERANCE + 1e-6] for seconds in missed),
        "length error (s)": bootstrap([seconds] for seconds in missed),
    }


def score_sounds(truths: Sequence[TrueStory], answers: Answers) -> dict[str, Score]:
    """The share of events whose sound, place and register (of those that have one) is what the truth says."""
    return {
        "sound right": _over_events(truths, answers, lambda event, heard: heard.name == event.name),
        "place right": _over_events(truths, answers, lambda event, heard: heard.place == event.place),
        "register right": _over_events(
            truths,
            answers,
            lambda event, heard: heard.register == event.register,
            asked=lambda event: event.register != PITCHLESS,
        ),
    }


def score_cast(truths: Sequence[TrueStory], answers: Answers) -> dict[str, Score]:
    """Does a story keep its cast, right or wrong: the share of pairs of its events that agree. The place is asked of
    all pairs, the register of those that are the same pitched sound."""
    return {
        "place stays the same": _over_pairs(truths, answers, lambda heard: heard.place, lambda one, other: True),
        "register stays the same": _over_pairs(
            truths,
            answers,
            lambda heard: heard.register,
            lambda one, other: one.name == other.name and one.register != PITCHLESS,
        ),
    }


def shuffled_scores(
    truths: Sequence[TrueStory], told: Sequence[ToldStory], answers: Answers, seed: int = 0
) -> dict[str, Score]:
    """The floor. Plans and sounds: each story is scored against another one's truth. Cast: each event is answered as
    one of the same sound in another story, for a whole story keeps its cast whatever truth it is held against."""
    partners = others(len(truths), seed)
    return {
        **score_plans(truths, [told[partner] for partner in partners]),
        **score_sounds(truths, [answers[partner] for partner in partners]),
        **score_cast(truths, _recast(truths, answers, seed)),
    }


def others(num: int, seed: int = 0) -> list[int]:
    """A partner for each of `num` stories, never itself (a random order, shifted). ValueError for fewer than 2."""
    if num < 2:
        raise ValueError(f"to shuffle stories takes at least 2 of them, got {num}; raise --num, or leave out shuffled")
    order = np.random.default_rng(seed).permutation(num)
    return np.roll(order, 1)[np.argsort(order)].tolist()


def hardest(told: Sequence[ToldStory], answers: Answers, num: int = 10) -> list[Confusion]:
    """The sounds that are heard worst, by what each clip's own caption says: the rendering's fault, not the plan's."""
    heard_as: dict[str, Counter[str]] = {}
    for story, heard in zip(told, answers, strict=True):
        for caption, answer in zip(story.captions, heard, strict=True):
            if name := class_in_text(caption):
                heard_as.setdefault(name, Counter())[answer.name] += 1
    confusions = [
        Confusion(
            name=name,
            num=counts.total(),
            right=counts[name],
            mistaken_for={other: count for other, count in counts.most_common() if other != name},
        )
        for name, counts in heard_as.items()
    ]
    return sorted(confusions, key=lambda entry: (entry.right / entry.num, -entry.num, entry.name))[:num]


def _over_events(
    truths: Sequence[TrueStory],
    answers: Answers,
    right: Callable[[TrueEvent, Heard], bool],
    asked: Callable[[TrueEvent], bool] = lambda event: True,
) -> Score:
    return bootstrap(
        [k < len(heard) and right(event, heard[k]) for k, event in enumerate(truth.events) if asked(event)]
        for truth, heard in zip(truths, answers, strict=True)
    )


def _over_pairs(
    truths: Sequence[TrueStory],
    answers: Answers,
    answer: Callable[[Heard], str],
    asked: Callable[[TrueEvent, TrueEvent], bool],
) -> Score:
    return bootstrap(
        [
            last < len(heard) and answer(heard[first]) == answer(heard[last])
            for first, last in combinations(range(len(truth.events)), 2)
            if asked(truth.events[first], truth.events[last])
        ]
        for truth, heard in zip(truths, answers, strict=True)
    )


def _recast(truths: Sequence[TrueStory], answers: Answers, seed: int) -> list[list[Heard]]:
    """Every event's answer exchanged for that of an event of the same sound from another story, at random; of any sound
    if no other story has that one. Events that were not told stay so."""
    rng = np.random.default_rng(seed)
    pool = [
        (story, event.name, heard)
        for story, (truth, told) in enumerate(zip(truths, answers, strict=True))
        for event, heard in zip(truth.events, told, strict=False)
    ]
    recast = []
    for story, (truth, told) in enumerate(zip(truths, answers, strict=True)):
        strangers = [(name, heard) for where, name, heard in pool if where != story]
        row = []
        for event, _ in zip(truth.events, told, strict=False):
            alike = [heard for name, heard in strangers if name == event.name] or [heard for _, heard in strangers]
            row.append(alike[rng.integers(len(alike))])
        recast.append(row)
    return recast
