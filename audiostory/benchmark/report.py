"""Puts scores side by side: one column per system, as Markdown for people and JSON for programs. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from audiostory.benchmark import paper
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

The "ear" measures compare with the true clips, by what the ear goes by, and of these less is better. FD and KAD are
distances between all clips of a system and all true ones, whatever story they belong to; n counts the true ones, and
there is no interval. Against themselves the true clips have an FD of 0, and a KAD a little below 0, for 0 is what
another sample of the same source has on average. KL says, event by event and in nats, how little of what is heard in
the true clip is heard in the one that was told; an event that was not told counts as the worst there is, 13.8. None of
them compares with the paper's figures, whose networks are others.
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

BESIDE_PAPER = """\
Rows marked *reported* are the paper's own, the others were measured here, on other stories and by other listeners. A
column has figures of both only where the measure is the same; otherwise compare the order of the rows.
"""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table of the paper, and what was measured here by row and measure: our own rows under our own names, and a
    measure under the paper's name only if it is the same one."""

    table: paper.Table
    measured: Columns


@dataclass(frozen=True, kw_only=True)
class Report:
    """`columns` in the order of the table; `about` says in a line what each of them is, `how_to_read` what the measures
    are. `beside_paper` are tables of the paper with ours in them. `facts` make it repeatable."""

    title: str
    columns: Columns
    about: Mapping[str, str]
    how_to_read: str = HOW_TO_READ_STORIES
    notes: Sequence[str] = ()
    hardest: Mapping[str, Sequence[Confusion]] = field(default_factory=dict)
    beside_paper: Sequence[Comparison] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def markdown(report: Report) -> str:
    """The whole page: the table, how to read it, the sounds heard worst, the paper's tables, the facts."""
    about = "".join(f"- {system}: {words}\n" for system, words in report.about.items())
    parts = [f"# {report.title}\n", table(report.columns), about, report.how_to_read]
    if report.notes:
        parts.append("".join(f"- {note}\n" for note in report.notes))
    for system, confusions in report.hardest.items():
        parts.append(f"## Sounds heard worst: {system}\n")
        parts.append(paper.in_markdown(confusion_rows(confusions)))
    if report.beside_paper:
        parts.append(f"## Beside the paper\n\n{BESIDE_PAPER}")
    parts += [paper.beside(entry.table, in_words(entry.measured)) for entry in report.beside_paper]
    parts.append("## Facts\n")
    parts.append(f"```json\n{json.dumps(report.facts, indent=1)}\n```\n")
    return "\n".join(parts)


def table(columns: Columns) -> str:
    """A row per measure, in the order in which measures first appear, a column per system."""
    return paper.in_markdown(rows(columns))


def rows(columns: Columns) -> list[list[str]]:
    """The cells of `table`, the head first: measure, number of questions, a cell per system.

    Where systems differ in the number, as they do when each is asked about its own plan, it stands in the cells.
    """
    measures = list(dict.fromkeys(measure for scores in columns.values() for measure in scores))
    found = [["measure", "n", *columns]]
    for measure in measures:
        scores = [column.get(measure) for column in columns.values()]
        nums = {score.num for score in scores if score is not None and score.num}
        if len(nums) > 1:
            found.append([measure, "", *(f"{_cell(score)}, n {score.num}" if score else "-" for score in scores)])
        else:
            found.append([measure, str(max(nums, default=0)), *map(_cell, scores)])
    return found


def confusion_rows(confusions: Sequence[Confusion]) -> list[list[str]]:
    """The cells of a table of the sounds that are heard worst, the head first."""
    found = [["sound", "clips", "heard right", "mistaken for"]]
    for entry in confusions:
        others = ", ".join(f"{name} {count}" for name, count in list(entry.mistaken_for.items())[:4])
        found.append([entry.name, str(entry.num), f"{entry.right / entry.num:.2f}", others or "-"])
    return found


def in_words(columns: Columns) -> dict[str, dict[str, str]]:
    """Each score as it stands in a table."""
    return {system: {measure: _cell(score) for measure, score in scores.items()} for system, scores in columns.items()}


def write(folder: Path, report: Report) -> None:
    """Writes `report.md` and `report.json`, each whole or not at all."""
    content = {
        "title": report.title,
        "scores": _figures(report.columns),
        "about": dict(report.about),
        "notes": list(report.notes),
        "hardest": {system: [asdict(entry) for entry in entries] for system, entries in report.hardest.items()},
        "beside_paper": [_comparison(entry) for entry in report.beside_paper],
        "facts": dict(report.facts),
    }
    pages = {"report.md": markdown(report), "report.json": json.dumps(_without_nan(content), indent=1) + "\n"}
    for name, text in pages.items():
        write_text(folder / name, text)


def _figures(columns: Columns) -> dict[str, dict[str, dict[str, float]]]:
    return {system: {name: asdict(score) for name, score in scores.items()} for system, scores in columns.items()}


def _comparison(entry: Comparison) -> dict[str, Any]:
    table = entry.table
    return {
        "table": table.number,
        "title": table.title,
        "reported": {row: dict(zip(table.better, values, strict=True)) for row, values in table.rows.items()},
        "measured": _figures(entry.measured),
    }


def _cell(score: Score | None) -> str:
    if score is None or math.isnan(score.mean):
        return "-"
    if math.isnan(score.low):  # a distance between two sets
        return f"{score.mean:.3f}"
    return f"{score.mean:.3f} ({score.low:.3f} to {score.high:.3f})"


def _without_nan(content: Any) -> Any:
    """NaN is not JSON; a score of nothing is null."""
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and content != content else content
