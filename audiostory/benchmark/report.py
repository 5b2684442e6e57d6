"""Puts scores side by side: one column per system, as Markdown for people and JSON for programs. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from audiostory.benchmark.intervals import Score
from audiostory.benchmark.soundworld import Confusion
from audiostory.disk import write_text

Columns = Mapping[str, Mapping[str, Score]]  # system -> measure -> score

HOW_TO_READ_STORIES = """\
Every system is asked the same questions about the same stories; n says how many. Shares lie between 0 and 1; in
brackets stands the 95 % bootstrap interval over stories. An event that was not told, and every event of a story that
could not be told, is wrong in every measure. Sound, place and register are what the ear hears in the single clips;
"stays the same" is the share of pairs of a story's events that agree, right or wrong: all pairs for the place, those of
the same pitched sound for the register.
"""
HOW_TO_READ_CONTINUATIONS = (
    HOW_TO_READ_STORIES
    + """
A story is here what follows its opening. "Some referred to" are the stories whose instruction calls at least one sound
by its place in the opening ("the last sound again"), so that only who listened knows what is meant; "all named" are the
others. Count, order, captions and "sound planned right" are read off the captions, and a system that only plans, or
guesses, has no clips for the ear.
"""
)
HOW_TO_READ_ANSWERS = """\
Every system answers the same questions about the same recordings; n says how many. An answer is right when its words
are those of the truth; case, space and punctuation do not matter. Shares lie between 0 and 1; in brackets stands the
95 % bootstrap interval over recordings, whose questions are drawn together. "Yes and no alike" is the mean of the
shares among the questions whose answer is yes and among those whose answer is no: who always says the same has 0.5.
"Known" and "unseen" are wordings that training has and has not. Of captions, "order of sounds" compares the classes
that they name, "sounds in the right order" is the longest row of classes that both have in the same order, as a share
of the longer of the two.
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """`columns` in the order of the table; `about` says in a line what each of them is, `how_to_read` what the measures
    are. `facts` make it repeatable."""

    title: str
    columns: Columns
    about: Mapping[str, str]
    how_to_read: str = HOW_TO_READ_STORIES
    notes: Sequence[str] = ()
    hardest: Mapping[str, Sequence[Confusion]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def markdown(report: Report) -> str:
    """The whole page: the table, how to read it, the sounds heard worst, the facts."""
    about = "".join(f"- {system}: {words}\n" for system, words in report.about.items())
    parts = [f"# {report.title}\n", table(report.columns), about, report.how_to_read]
    if report.notes:
        parts.append("".join(f"- {note}\n" for note in report.notes))
    for system, confusions in report.hardest.items():
        parts.append(f"## Sounds heard worst: {system}\n")
        parts.append(_confusion_table(confusions))
    parts.append("## Facts\n")
    parts.append(f"```json\n{json.dumps(report.facts, indent=1)}\n```\n")
    return "\n".join(parts)


def table(columns: Columns) -> str:
    """A row per measure, in the order in which measures first appear, a column per system.

    Assertion error when systems were asked different numbers of questions: such figures do not belong side by side.
    """
    measures = list(dict.fromkeys(measure for scores in columns.values() for measure in scores))
    lines = ["| measure | n | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for measure in measures:
        scores = [column.get(measure) for column in columns.values()]
        nums = {score.num for score in scores if score is not None}
        assert len(nums) == 1, f"{measure}: unequal numbers of questions, {sorted(nums)}"
        lines.append(f"| {measure} | {nums.pop()} | " + " | ".join(map(_cell, scores)) + " |")
    return "\n".join(lines) + "\n"


def write(folder: Path, report: Report) -> None:
    """Writes `report.md` and `report.json`, each whole or not at all."""
    content = {
        "title": report.title,
        "scores": {system: {name: asdict(score) for name, score in c.items()} for system, c in report.columns.items()},
        "about": dict(report.about),
        "notes": list(report.notes),
        "hardest": {system: [asdict(entry) for entry in entries] for system, entries in report.hardest.items()},
        "facts": dict(report.facts),
    }
    pages = {"report.md": markdown(report), "report.json": json.dumps(_without_nan(content), indent=1) + "\n"}
    for name, text in pages.items():
        write_text(folder / name, text)


def _cell(score: Score | None) -> str:
    if score is None or not score.num:
        return "-"
    return f"{score.mean:.3f} ({score.low:.3f} to {score.high:.3f})"


def _confusion_table(confusions: Sequence[Confusion]) -> str:
    lines = ["| sound | clips | heard right | mistaken for |", "|---|---|---|---|"]
    for entry in confusions:
        others = ", ".join(f"{name} {count}" for name, count in list(entry.mistaken_for.items())[:4])
        lines.append(f"| {entry.name} | {entry.num} | {entry.right / entry.num:.2f} | {others or '-'} |")
    return "\n".join(lines) + "\n"


def _without_nan(content: Any) -> Any:
    """NaN is not JSON; a score of nothing is null."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and content != content else content
