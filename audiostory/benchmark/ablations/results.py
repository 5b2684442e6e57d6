"""What came of an ablation: the scores of its rows, seed by seed, and the page that puts the paper's rows beside. No
torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audiostory.benchmark.ablations import orders
from audiostory.benchmark.ablations.plan import SYSTEM, Cell, Table
from audiostory.benchmark.intervals import Score
from audiostory.benchmark.paper import TABLES as PAPER
from audiostory.disk import write_text

BySeed = Mapping[str, Sequence[Mapping[str, Score]]]  # by row; of each seed the scores by measure

HOW_TO_READ = """\
Each figure is a mean over seeds with its 95 % interval by Student's t; with one seed the interval is over stories, and
a distance between sets has none. Measures of ours stand for the paper's in kind, not in scale, so only the order of
rows can be compared (docs/ABLATIONS.md).
"""


def collect(folder: Path) -> dict[str, Any]:
    """The model's scores in all reports of a measurement, as `of_seeds` reads them: of stories, and of each other task.

    ValueError when there are none.
    """
    found: dict[str, Any] = {}
    for file in sorted([*folder.glob("report.json"), *folder.glob("*/report.json")]):
        found |= _report(file).get(SYSTEM, {})
    if not found:
        raise ValueError(f"{folder} holds no report with scores of {SYSTEM}")
    return found


def of_seeds(number: int, cells: Sequence[Cell]) -> BySeed:
    """What is measured so far of a table that is trained. ValueError for scores that cannot be read."""
    found: dict[str, list[Mapping[str, Score]]] = {}
    for cell in cells:
        if cell.table == number and cell.job.is_done:
            told = json.loads(cell.job.result.read_text(encoding="utf-8"))
            found.setdefault(cell.row, []).append(_scores(told, cell.job.result))
    return found


def of_systems(table: Table, report: Path) -> BySeed:
    """The rows of a table of systems, from the benchmark's report.json. ValueError when it has none of them."""
    told = _report(report)
    rows = {name: row.system for name, row in table.rows.items() if row.system in told}
    if not rows:
        wanted = ", ".join(str(row.system) for row in table.rows.values())
        raise ValueError(f"{report} has none of the systems {wanted}; it has {', '.join(told)}")
    return {name: [_scores(told[str(system)], report)] for name, system in rows.items()}


def write(folder: Path, tables: Mapping[int, Table], found: Mapping[int, BySeed], facts: Mapping[str, Any]) -> None:
    """`folder`/ablations.md and ablations.json, each whole or not at all; `facts` are kept in the second."""
    parts, content = ["# Ablations in miniature\n", HOW_TO_READ], {}
    for number, table in tables.items():
        paper, by_seed = PAPER[table.table], found[number]
        measured = {row: over_seeds(seeds) for row, seeds in by_seed.items()}
        shown = orders.standing(paper, measured, table.also)
        parts.append(orders.section(paper, measured, table.left_out, table.also))
        parts.append("".join(f"- *{name}*: {row.changes}.\n" for name, row in table.rows.items()))
        content[str(number)] = {
            "title": paper.title,
            "left_out": dict(table.left_out),
            "measured": {row: _figures(scores) for row, scores in measured.items()},
            "by_seed": {row: [_figures(scores) for scores in seeds] for row, seeds in by_seed.items()},
            "orders": [asdict(order) for order in orders.orders(paper, shown)],
        }
    write_text(folder / "ablations.md", "\n".join(parts))
    data = _without_nan({"tables": content, "facts": facts})
    write_text(folder / "ablations.json", json.dumps(data, indent=1) + "\n")


def over_seeds(seeds: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Of the measures that every seed has."""
    names = [name for name in seeds[0] if all(name in scores for scores in seeds)]
    return {name: orders.over_seeds([scores[name] for scores in seeds]) for name in names}


def _figures(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: asdict(score) for name, score in scores.items()}


def _scores(told: Mapping[str, Any], path: Path) -> dict[str, Score]:
    try:
        return {
            name: Score(
                mean=_figure(one["mean"]), low=_figure(one["low"]), high=_figure(one["high"]), num=int(one["num"])
            )
            for name, one in told.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no scores of ours ({error!r}); delete it and measure again") from error


def _figure(told: float | None) -> float:
    return math.nan if told is None else float(told)


def _report(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["scores"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no report of evaluate/benchmark.py ({error!r})") from error


def _without_nan(content: Any) -> Any:
    """NaN is not JSON; what there is none of is null."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
