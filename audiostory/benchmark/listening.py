"""Scores what a model makes of what it hears: answers to questions about stories, and stories that go on from there.

Both have known truths in the sound world, and beside them stand guesses that do not listen: what training has most
often, and what is right for another recording. An answer is right when its words are those of the truth; case, space
and punctuation do not matter. No torch here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from audiostory.benchmark.intervals import Score, bootstrap, grouped
from audiostory.benchmark.items import ToldStory, TrueStory, as_told
from audiostory.benchmark.metrics.answers import balanced_accuracy, normalised
from audiostory.benchmark.soundworld import others, score_plans
from audiostory.lines import read_lines
from audiostory.soundworld.questions import KINDS
from audiostory.soundworld.stories import class_in_text


@dataclass(frozen=True, kw_only=True)
class Question:
    """A row of a manifest of questions. Those about one `story`, known by its seed, share its recording and its fate.
    `unseen` is about the wording alone."""

    id: str
    kind: str
    text: str
    answer: str
    recording: Path | None
    story: int
    unseen: bool


def read_questions(manifest: Path) -> list[Question]:
    """The rows of a manifest of questions (data/README.md). ValueError names the line that is not such a row."""
    if not manifest.is_file():
        raise ValueError(f"no manifest at {manifest}; scripts/make_soundworld.py --kind question writes one")
    questions: dict[str, Question] = {}
    for where, row in read_lines(manifest):
        try:
            question = _question(row, manifest.parent)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} is no question of the sound world ({error!r}); write it again") from error
        if question.id in questions or question.kind not in KINDS:
            raise ValueError(f"{where}: the id {question.id!r} is not new, or there is no kind {question.kind!r}")
        questions[question.id] = question
    if not questions:
        raise ValueError(f"{manifest} holds no questions; scripts/make_soundworld.py --kind question writes some")
    return list(questions.values())


def read_answers(file: Path, questions: Sequence[Question]) -> list[str]:
    """The answers to these questions from lines of {"id", "answer"}, which may stand in any order.

    ValueError for a line that is none, an answer given twice, or one that is missing or not asked for, so that an
    interrupted run is not scored as a bad one. A system that has no answer says so with an empty text.
    """
    answers = read_any_answers(file)
    asked = {question.id for question in questions}
    if stray := asked ^ answers.keys():
        missing = len(asked - answers.keys())
        raise ValueError(
            f"{missing} of {len(asked)} answers are missing in {file}, and {len(stray) - missing} were not asked for "
            f"(such as {min(stray, key=str)!r}); answer the questions of the same manifest, to the end"
        )
    return [answers[question.id] for question in questions]


def read_any_answers(file: Path) -> dict[str, str]:
    """The answers in a file by their questions' ids, whatever was asked. ValueError for a line that is none, and an
    answer given twice."""
    answers: dict[str, str] = {}
    for where, row in read_lines(file):
        try:
            id, answer = row["id"], row["answer"]
        except (KeyError, TypeError) as error:
            raise ValueError(f'{where} is no answer, {{"id": ..., "answer": ...}} ({error!r})') from error
        if not isinstance(answer, str) or id in answers:
            raise ValueError(f"{where}: the answer to {id!r} is no text, or not the first one")
        answers[id] = answer
    return answers


def read_plans(file: Path) -> dict[str, ToldStory]:
    """Stories that were planned and not rendered, by their ids, from lines of {"id", "captions", "seconds"}.

    A story without captions could not be planned. ValueError for a line that is no plan, and a story planned twice.
    """
    plans: dict[str, ToldStory] = {}
    for where, row in read_lines(file):
        try:
            plan = ToldStory(id=row["id"], captions=tuple(row["captions"]), seconds=float(row["seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{where} is no plan, {{"id": ..., "captions": [...], "seconds": ...}} ({error!r})'
            ) from error
        if plan.id in plans or not all(isinstance(caption, str) for caption in plan.captions):
            raise ValueError(f"{where}: the captions of {plan.id!r} are no texts, or not the first ones")
        plans[plan.id] = plan
    return plans


def score_answers(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Score]:
    """The share of right answers: of all, of those that are no captions, by wording, and by kind. A caption is right to
    the letter or wrong, so question answering in the field's sense is the second figure. Where yes or no is asked also
    the mean of the shares among the yes and among the no, to which one and the same answer is worth 0.5; of captions
    also what of the sounds and their order is right, however they are put."""
    truths, stories = [question.answer for question in questions], [question.story for question in questions]
    right = [normalised(answer) == normalised(truth) for truth, answer in zip(truths, answers, strict=True)]
    scores = {"answers right": _over_stories(questions, right)}
    scores["answers right, captions apart"] = _over_stories(questions, right, [q.kind != "caption" for q in questions])
    for unseen, wording in ((False, "known"), (True, "unseen")):
        of_wording = [question.unseen == unseen for question in questions]
        scores[f"answers right, {wording} wording"] = _over_stories(questions, right, of_wording)
    for kind in KINDS:
        asked = [question.kind == kind for question in questions]
        scores[f"{kind} right"] = _over_stories(questions, right, asked)
        if {question.answer for question in questions if question.kind == kind} <= {"yes", "no"} and any(asked):
            scores[f"{kind} right, yes and no alike"] = balanced_accuracy(
                list(compress(truths, asked)), list(compress(right, asked)), list(compress(stories, asked))
            )
    asked = [question.kind == "caption" for question in questions]
    both = [(_classes(question.answer), _classes(answer)) for question, answer in zip(questions, answers, strict=True)]
    scores["caption: order of sounds right"] = _over_stories(questions, [truth == told for truth, told in both], asked)
    scores["caption: sounds in the right order"] = _over_stories(questions, [_in_order(*pair) for pair in both], asked)
    return scores


def most_frequent_answers(training: Sequence[Question], questions: Sequence[Question]) -> list[str]:
    """A guess without listening: what questions of the same kind are answered with most often in training."""
    best = {
        kind: _most_frequent(question.answer for question in training if question.kind == kind)
        for kind in {question.kind for question in questions}
    }
    return [best[question.kind] for question in questions]


def shuffled_answers(questions: Sequence[Question], seed: int = 0) -> list[str]:
    """Another guess: the right answer to a question of the same kind about another story, empty where there is none."""
    rng = np.random.default_rng(seed)
    answers = []
    for question in questions:
        strangers = [
            other.answer for other in questions if other.kind == question.kind and other.story != question.story
        ]
        answers.append(strangers[rng.integers(len(strangers))] if strangers else "")
    return answers


def score_continuations(truths: Sequence[TrueStory], told: Sequence[ToldStory]) -> dict[str, Score]:
    """As `score_plans`, and what the instruction leaves to the ear: the order of sounds where it refers to any of the
    opening, beside where it names them all; and event by event the sounds that captions name, of both sorts."""
    pairs = list(zip(truths, told, strict=True))
    refers = [any(reference is not None for reference in truth.references) for truth, _ in pairs]
    order = [list(map(class_in_text, story.captions)) == [e.name for e in truth.events] for truth, story in pairs]
    return {
        **score_plans(truths, told),
        "order of sounds right, some referred to": bootstrap(
            [x] for x, refer in zip(order, refers, strict=True) if refer
        ),
        "order of sounds right, all named": bootstrap([x] for x, refer in zip(order, refers, strict=True) if not refer),
        "sound planned right, referred to": bootstrap(_sounds_right(*pair, referred=True) for pair in pairs),
        "sound planned right, named": bootstrap(_sounds_right(*pair, referred=False) for pair in pairs),
        "caption right to the letter, referred to": bootstrap(_captions_right(truth, story) for truth, story in pairs),
    }


def guessed_continuations(training: Sequence[TrueStory], truths: Sequence[TrueStory]) -> list[ToldStory]:
    """What can be reached without listening: named sounds are right, and for each that is referred to stands the one
    most often heard in the openings of training, as it is captioned most often. The number of events is given away,
    which "the same sounds" does not tell, so this is rather more than can be reached. ValueError if training has no
    openings."""
    heard = [caption for truth in training for caption in truth.opening]
    if not heard:
        raise ValueError("the training stories have no openings; give a manifest of continuations")
    name = _most_frequent(map(class_in_text, heard))
    guess = _most_frequent(caption for caption in heard if class_in_text(caption) == name)
    return [_answered(truth, [guess] * len(truth.opening)) for truth in truths]


def shuffled_continuations(truths: Sequence[TrueStory], seed: int = 0) -> list[ToldStory]:
    """Another guess: what is referred to is taken from another story's opening of as many sounds, and is missing where
    no other opening has as many."""
    openings: dict[int, Sequence[str]] = {}
    for count in {len(truth.opening) for truth in truths}:
        alike = [index for index, truth in enumerate(truths) if len(truth.opening) == count]
        if len(alike) > 1:
            openings |= {
                index: truths[alike[other]].opening
                for index, other in zip(alike, others(len(alike), seed), strict=True)
            }
    return [_answered(truth, openings.get(index, [""] * len(truth.opening))) for index, truth in enumerate(truths)]


def _question(row: Mapping[str, Any], folder: Path) -> Question:
    world = row["world"]
    return Question(
        id=row["id"],
        kind=world["question"],
        text=row["instruction"],
        answer=row["answer"],
        recording=folder / row["heard"] if row["heard"] else None,
        story=world["seed"],
        unseen="wording" in world["unseen"],
    )


def _over_stories(questions: Sequence[Question], values: Sequence[float], asked: Sequence[bool] | None = None) -> Score:
    """The mean of the values of the questions that are asked (all of them), whole stories resampled."""
    chosen, stories = asked or [True] * len(values), [question.story for question in questions]
    return bootstrap(grouped(list(compress(values, chosen)), list(compress(stories, chosen))))


def _classes(caption: str) -> list[str | None]:
    """The class that each part of a caption names: "rain comes down; then a dog barks" has two."""
    parts = re.split(r"[;,.\n]| then ", caption.lower())
    return [class_in_text(part) for part in parts if normalised(part) not in ("", "then")]


def _in_order(truth: Sequence[str | None], told: Sequence[str | None]) -> float:
    """The longest row of sounds that both have in the same order, as a share of the longer of the two."""
    longest = np.zeros((len(truth) + 1, len(told) + 1), dtype=int)
    for i, one in enumerate(truth):
        for j, other in enumerate(told):
            longest[i + 1, j + 1] = longest[i, j] + 1 if one == other else max(longest[i, j + 1], longest[i + 1, j])
    return float(longest[-1, -1]) / max(len(truth), len(told))


def _sounds_right(truth: TrueStory, story: ToldStory, *, referred: bool) -> list[bool]:
    told = list(map(class_in_text, story.captions))
    return [
        index < len(told) and told[index] == event.name
        for index, (event, reference) in enumerate(zip(truth.events, truth.references, strict=True))
        if (reference is not None) == referred
    ]


def _captions_right(truth: TrueStory, story: ToldStory) -> list[bool]:
    return [
        index < len(story.captions) and story.captions[index] == event.caption
        for index, (event, reference) in enumerate(zip(truth.events, truth.references, strict=True))
        if reference is not None
    ]


def _most_frequent(texts: Iterable[str | None]) -> str:
    """The first in the alphabet of the most frequent ones; empty when there are none."""
    counts = Counter(filter(None, texts))
    return min(counts, key=lambda text: (-counts[text], text), default="")


def _answered(truth: TrueStory, opening: Sequence[str]) -> ToldStory:
    """The truth as if this had been the opening."""
    captions = tuple(
        event.caption if reference is None else opening[reference]
        for event, reference in zip(truth.events, truth.references, strict=True)
    )
    return replace(as_told(truth, ()), captions=captions)
