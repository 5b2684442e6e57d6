"""Scores what any system says of recordings, beside what people said: answers to questions, and captions.

References are lines of JSON, of one or both of these kinds; a row of a manifest with `answer` is one of the first:

    {"id": "rain-1", "answer": "yes", "heard": "rain.wav"}
    {"id": "rain-2", "captions": ["rain falls on tin", "it rains"], "heard": "rain.wav"}

What a system says is a line {"id": "rain-1", "answer": "Yes."} for each. `heard` tells which lines are about the same
recording, and share its fate when intervals are drawn; without it each is about one of its own. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiostory.benchmark.intervals import Score
from audiostory.benchmark.listening import read_any_answers
from audiostory.benchmark.metrics.answers import normalised, score_question_answering
from audiostory.benchmark.metrics.captions import score_captions
from audiostory.benchmark.soundworld import others
from audiostory.lines import read_lines


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What people said of a recording: all of their captions, or the one answer to a question."""

    id: str
    recording: str
    texts: tuple[str, ...]
    is_caption: bool


def read_references(file: Path) -> list[Reference]:
    """ValueError names a line that is none, or an id that comes twice."""
    references: dict[str, Reference] = {}
    for where, row in read_lines(file):
        try:
            reference = _reference(row)
        except (KeyError, TypeError, ValueError) as error:
            expected = '{"id": ..., "answer": TEXT} or {"id": ..., "captions": [TEXT, ...]}'
            raise ValueError(f"{where} is no reference, {expected} ({error})") from error
        if reference.id in references:
            raise ValueError(f"{where}: the id {reference.id!r} stands on an earlier line too; each needs its own")
        references[reference.id] = reference
    if not references:
        raise ValueError(f"{file} holds no references; expected a line of JSON for each question or recording")
    return list(references.values())


def read_said(file: Path, references: Sequence[Reference]) -> dict[str, str]:
    """What a system says to each reference. ValueError for what is missing or not asked for, so that an interrupted run
    is not scored as a bad one; a system without an answer says so with an empty text."""
    said, asked = read_any_answers(file), {reference.id for reference in references}
    if stray := asked ^ said.keys():
        missing = len(asked - said.keys())
        raise ValueError(
            f"{missing} of {len(asked)} answers are missing in {file}, and {len(stray) - missing} were not asked for "
            f'(such as {min(stray, key=str)!r}); give a line for each reference, with "answer": "" where there is none'
        )
    return said


def shuffled(references: Sequence[Reference], seed: int = 0) -> dict[str, str]:
    """Chance: each answered with what a person said to another reference of its kind, if there is another."""
    said = {}
    for is_caption in (False, True):
        asked = [one for one in references if one.is_caption == is_caption]
        partners = others(len(asked), seed) if len(asked) > 1 else []
        said |= {one.id: asked[partner].texts[0] for one, partner in zip(asked, partners, strict=False)}
    return {reference.id: said.get(reference.id, "") for reference in references}


def score(
    references: Sequence[Reference],
    said: Mapping[str, str],
    *,
    tools: Path | None = None,
    java: str = "java",
    seed: int = 0,
) -> dict[str, Score]:
    """Accuracy and balanced accuracy of answers (metrics/answers.py), and what `tools` and `java` allow of CIDEr-D,
    ROUGE-L, METEOR, SPICE and SPIDEr of captions (metrics/captions.py). ValueError for what is to be installed."""
    asked = [reference for reference in references if not reference.is_caption]
    captioned = [reference for reference in references if reference.is_caption]
    scores: dict[str, Score] = {}
    if asked:
        truths, about = [one.texts[0] for one in asked], [one.recording for one in asked]
        scores |= score_question_answering(truths, [said[one.id] for one in asked], about, seed)
    if captioned:
        captions, about = [said[one.id] for one in captioned], [one.recording for one in captioned]
        scores |= score_captions(captions, [one.texts for one in captioned], about, tools=tools, java=java)
    return scores


def _reference(row: Mapping[str, Any]) -> Reference:
    id, is_caption = row["id"], "captions" in row
    texts = row["captions"] if is_caption else [row["answer"]]
    recording = row.get("heard") or id
    if not isinstance(id, str) or not isinstance(recording, str):
        raise TypeError("id and heard are texts")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"there should be texts, not {texts!r}")
    if bare := [text for text in texts if not (text.strip() if is_caption else normalised(text))]:
        raise ValueError(f"{bare[0]!r} has no words to compare")
    return Reference(id=id, recording=recording, texts=tuple(texts), is_caption=is_caption)
