"""What was measured of an ablation's rows, beside the paper's: intervals over seeds, both orders, and where they differ
in plain words. No torch here.

Figures of the two never share a column. What is compared is the order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from audiostory.benchmark.distribution import FD, KL
from audiostory.benchmark.intervals import Score
from audiostory.benchmark.paper import Table, beside
from audiostory.benchmark.report import in_words

# Which measures of the sound world stand for which of the paper's, and whether more of them is better. For the paper's
# others (CLAP, coherence, the longest story) there is none.
STANDS_FOR: dict[str, dict[str, bool]] = {
    "consistency": {"place stays the same": True, "register stays the same": True},
    "instruction": {"sound right": True, "order of sounds right": True},
    "reasoning": {"event count right": True, "captions right to the letter": True},
    **{name: {FD: False} for name in ("FD", "FAD", "FD single", "FAD single", "FAD story")},
    "KL single": {KL: False},
    **{name: {"answers right": True} for name in ("CIDEr", "SPIDEr")},
}

Measured = Mapping[str, Mapping[str, Score]]  # by row and measure


@dataclass(frozen=True, kw_only=True)
class Turned:
    """Two rows of which the paper has `better` before `worse`, and here it is the other way round. `apart` is whether
    the intervals leave each other free; None where there is no interval."""

    better: str
    worse: str
    apart: bool | None


@dataclass(frozen=True, kw_only=True)
class Order:
    """The rows from best to worst by a measure of the paper, and by one of ours that stands for it. Rows that only one
    of them has are left out. `tau` is Kendall's, 1 for the same order, -1 for the opposite; NaN where it says nothing:
    with fewer than two rows, or all alike."""

    paper_measure: str
    our_measure: str
    paper: tuple[str, ...]
    ours: tuple[str, ...]
    tau: float
    turned: tuple[Turned, ...]
    alike: tuple[tuple[str, str], ...]  # pairs with one and the same figure here, and different ones in the paper


def over_seeds(scores: Sequence[Score]) -> Score:
    """One row's measure over its seeds: the mean, its 95 % interval by Student's t, and the number of seeds as `num`.
    With one seed the interval is the score's own, over stories."""
    values = np.array([score.mean for score in scores], dtype=np.float64)
    if len(scores) < 2:
        return Score(mean=float(values[0]), low=scores[0].low, high=scores[0].high, num=1)
    from scipy.stats import t

    mean, reach = float(values.mean()), float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    return Score(mean=mean, low=mean - reach, high=mean + reach, num=len(values))


def standing(table: Table, measured: Measured, also: Sequence[str] = ()) -> dict[str, dict[str, Score]]:
    """Of what was measured, the measures that stand for one of the table's, and `also`. Where the paper leaves a cell
    empty, as the sound of a model that learnt to listen alone, so do we."""
    found: dict[str, dict[str, Score]] = {}
    for row, scores in measured.items():
        cells = dict(zip(table.better, table.rows[row], strict=True))
        told = [ours for name, value in cells.items() if value is not None for ours in STANDS_FOR.get(name, ())]
        found[row] = {name: scores[name] for name in dict.fromkeys([*told, *also]) if name in scores}
    return found


def orders(table: Table, measured: Measured) -> list[Order]:
    """One for each measure of ours that stands for one of the table's and was measured in a row at least."""
    return [
        _order(table, name, ours, more, column)
        for name in table.better
        for ours, more in STANDS_FOR.get(name, {}).items()
        if (column := {row: scores[ours] for row, scores in measured.items() if ours in scores})
    ]


def section(table: Table, measured: Measured, left_out: Mapping[str, str], also: Sequence[str] = ()) -> str:
    """The table in Markdown: the paper's rows and ours, the orders in words, and which rows are missing and why."""
    shown = standing(table, measured, also)
    missing = {row: left_out.get(row, "not measured yet") for row in table.rows if row not in measured}
    lines = [f"## Table {table.number}: {table.title}", "", beside(table, in_words(shown))]
    lines += [f"- {in_plain_words(order)}" for order in orders(table, shown)]
    lines += [f"- *{row}* is missing here: {reason}." for row, reason in missing.items()]
    return "\n".join(lines) + "\n"


def in_plain_words(order: Order) -> str:
    """Both orders in a line, Kendall's tau, and each pair that stands the other way round."""
    named = f"**{order.paper_measure}**, here *{order.our_measure}*"
    if len(order.ours) < 2:
        return f"{named}: {len(order.ours)} row measured, so there is no order yet."
    tau = "not defined" if math.isnan(order.tau) else f"{order.tau:.2f}"
    told = [f"{named}: best to worst in the paper {_listed(order.paper)}; here {_listed(order.ours)}."]
    told.append(f"Kendall's tau is {tau} over {len(order.ours)} rows.")
    if not order.turned and not order.alike:
        told.append("The order is the paper's.")
    for pair in order.turned:
        sure = {
            True: "and the intervals do not touch",
            False: "but the intervals overlap, so chance may have turned them",
            None: "without an interval to say how sure that is",
        }[pair.apart]
        told.append(f"The paper has *{pair.better}* before *{pair.worse}*, here it is the other way round, {sure}.")
    told += [f"*{one}* and *{other}* are alike here." for one, other in order.alike]
    return " ".join(told)


def _order(table: Table, name: str, ours: str, more: bool, column: Mapping[str, Score]) -> Order:
    reported = table.column(name)
    rows = [row for row in reported if row in column and not math.isnan(column[row].mean)]
    # Both as "more is better", so that one comparison serves every measure.
    theirs = {row: reported[row] if table.better[name] else -reported[row] for row in rows}
    here = {row: column[row].mean if more else -column[row].mean for row in rows}
    turned, alike = [], []
    for pair in combinations(rows, 2):
        better, worse = sorted(pair, key=theirs.__getitem__, reverse=True)
        if theirs[better] == theirs[worse]:
            continue
        if here[better] == here[worse]:
            alike.append((better, worse))
        elif here[better] < here[worse]:
            turned.append(Turned(better=better, worse=worse, apart=_are_apart(column[better], column[worse])))
    return Order(
        paper_measure=name,
        our_measure=ours,
        paper=tuple(sorted(rows, key=theirs.__getitem__, reverse=True)),
        ours=tuple(sorted(rows, key=here.__getitem__, reverse=True)),
        tau=_tau(list(theirs.values()), list(here.values())),
        turned=tuple(turned),
        alike=tuple(alike),
    )


def _tau(one: Sequence[float], other: Sequence[float]) -> float:
    if min(len(set(one)), len(set(other))) < 2:
        return float("nan")
    from scipy.stats import kendalltau

    return float(kendalltau(one, other).statistic)  # type: ignore[attr-defined]


def _are_apart(one: Score, other: Score) -> bool | None:
    if math.isnan(one.low) or math.isnan(other.low):
        return None
    return one.high < other.low or other.high < one.low


def _listed(rows: Sequence[str]) -> str:
    return ", ".join(f"*{row}*" for row in rows)
