"""The tables of the AudioStory paper (arXiv 2508.20088v2), to stand beside what is measured here.

The paper's absolute figures cannot be had again: its test set, judge's prompt and CLAP checkpoint are unpublished, and
its FD is not on the scale of PANNs. What can be compared is the order of the rows. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

REPORTED, MEASURED = "*reported*", "*measured here*"
BAR = "\\|"


@dataclass(frozen=True, kw_only=True)
class Table:
    """`better` says of each measure whether more of it is better; `rows` are the paper's, in its order, None for a cell
    that it leaves empty."""

    number: int
    title: str
    better: Mapping[str, bool]
    rows: Mapping[str, Sequence[float | None]]

    def __post_init__(self) -> None:
        wrong = [name for name, values in self.rows.items() if len(values) != len(self.better)]
        assert not wrong, f"table {self.number}: {wrong} have another number of cells than {len(self.better)}"

    def column(self, measure: str) -> dict[str, float]:
        """What the paper reports of a measure, by row; rows without it are left out."""
        at = list(self.better).index(measure)
        return {name: value for name, values in self.rows.items() if (value := values[at]) is not None}

    def order(self, measure: str) -> list[str]:
        """The rows from best to worst."""
        column = self.column(measure)
        return sorted(column, key=column.__getitem__, reverse=self.better[measure])


def _table(number: int, title: str, measures: str, rows: Mapping[str, Sequence[float | None]]) -> Table:
    """Measures in one line, "+" behind those of which more is better."""
    better = {measure.rstrip("+"): measure.endswith("+") for measure in measures.split(", ")}
    return Table(number=number, title=title, better=better, rows=rows)


TABLES = {
    table.number: table
    for table in (
        _table(
            1,
            "long stories",
            "instruction+, CLAP+, reasoning+, consistency+, coherence+, FD, FAD, longest (s)+",
            {
                "AudioLDM2": (2.8, 0.296, None, 4.6, 4.4, 3.43, 4.49, 10),
                "TangoFlux": (3.2, 0.317, None, 4.1, 4.2, 2.48, 3.49, 30),
                "true captions + TangoFlux": (4.0, 0.348, None, 2.4, 2.0, 1.79, 3.59, 30),
                "LLM + TangoFlux": (3.5, 0.322, 3.5, 2.1, 1.9, 2.55, 3.82, 30),
                "LLM + CoDi": (3.2, 0.286, 3.5, 1.4, 1.4, 3.39, 4.04, 10),
                "LLM + NExT-GPT": (3.3, 0.299, 3.5, 1.8, 1.7, 3.47, 3.99, 10),
                "AudioStory": (4.1, 0.392, 4.2, 4.1, 3.9, 1.43, 3.00, 150),
            },
        ),
        _table(
            2,
            "understanding",
            "Clotho SPIDEr+, Clotho CIDEr+, ClothoAQA accuracy+, ClothoAQA B-ACC+, AudioCaps SPIDEr+, AudioCaps CIDEr+",
            {
                "UIO-2 XXL": (5.7, 6.5, None, None, None, 48.9),
                "CoDi": (6.2, 7.3, None, None, 48.0, 78.9),
                "NExT-GPT": (13.8, 20.3, 26.4, 39.5, 53.4, 80.7),
                "Spider": (None, None, None, None, 53.7, 81.9),
                "AudioStory-Base": (24.1, 37.7, 42.8, 60.6, 54.8, 83.2),
            },
        ),
        _table(
            3,
            "single clips, AudioCaps",
            "FDopenl3, KLpasst, FD, FAD, KL, CLAP+",
            {
                "Make-An-Audio": (128.49, 1.16, 1.65, 3.16, 0.63, 0.256),
                "Stable Audio Open": (103.68, 1.12, 1.63, 2.98, 0.61, 0.298),
                "AudioLDM2": (87.74, 1.01, 1.59, 2.63, 0.57, 0.252),
                "TangoFlux": (83.58, 0.95, 1.57, 2.34, 0.52, 0.385),
                "CoDi": (121.66, 1.17, 1.69, 9.61, 0.60, 0.228),
                "NExT-GPT": (107.18, 1.13, 1.64, 5.69, 0.59, 0.265),
                "AudioStory-Base": (83.39, 0.91, 1.52, 2.29, 0.51, 0.383),
            },
        ),
        _table(
            4,
            "reasoning",
            "consistency+, instruction+, FAD, CLAP+",
            {
                "no reasoning": (3.1, 3.1, 4.13, 0.34),
                "no interleaved captions": (1.6, 1.2, 16.03, 0.14),
                "full": (4.0, 4.1, 3.06, 0.39),
            },
        ),
        _table(
            5,
            "who teaches the bridge",
            "FAD single, FAD story",
            {
                "semantic by AudioMAE": (9.55, 11.39),
                "semantic by Whisper": (10.26, 12.31),
                "residual by AudioMAE": (9.24, 10.06),
                "residual by Whisper": (11.06, 11.21),
                "residual weakly by AudioMAE": (3.60, 4.21),
                "residual weakly by Whisper": (3.71, 4.39),
                "semantic by Flan-T5, residual by none": (2.29, 3.12),
            },
        ),
        _table(
            6,
            "joint training",
            "FD single, FAD single, KL single, consistency+, FAD story",
            {
                "semantic alone, apart": (1.57, 2.33, 0.52, 3.2, 5.23),
                "semantic alone, together, all of the DiT": (2.16, 4.66, 0.84, 3.4, 4.98),
                "semantic alone, together, DiT at rest": (4.86, 11.04, 0.89, 1.3, 12.97),
                "both, single blocks alone": (2.37, 5.84, 0.64, 2.1, 6.28),
                "both, double blocks alone": (1.98, 3.21, 0.67, 3.5, 3.64),
                "both, all of the DiT": (1.53, 2.29, 0.51, 4.3, 3.00),
            },
        ),
        _table(
            7,
            "the order of the stages",
            "FAD single, FAD story, CIDEr+, SPIDEr+",
            {
                "understanding alone": (None, None, 35.7, 23.1),
                "understanding, bridge": (7.42, 9.53, 36.9, 23.8),
                "understanding, bridge, together": (6.50, 7.26, 38.6, 24.9),
                "bridge alone": (2.37, 5.23, None, None),
                "bridge, understanding": (2.35, 4.98, 31.5, 19.5),
                "bridge, understanding, together": (3.61, 6.50, 24.6, 16.4),
                "bridge, together, understanding": (2.29, 3.00, 37.7, 24.1),
                "all at once": (5.70, 8.74, 27.3, 18.2),
            },
        ),
        _table(
            8,
            "thirty listeners",
            "instruction+, consistency+, fidelity+, reasoning+",
            {
                "LLM + TangoFlux": (3.52, 3.22, 3.58, 3.19),
                "LLM + NExT-GPT": (3.10, 2.56, 2.87, 3.14),
                "AudioStory": (4.23, 4.68, 4.37, 4.22),
            },
        ),
        _table(
            11,
            "the number of residual tokens",
            "FD single, FAD single, KL single, consistency+",
            {
                "1": (4.01, 5.02, 0.93, 3.2),
                "4": (3.64, 3.95, 0.96, 3.9),
                "8": (1.53, 2.29, 0.51, 4.1),
                "16": (3.51, 3.75, 0.94, 3.9),
            },
        ),
    )
}


def beside(table: Table, measured: Mapping[str, Mapping[str, str]]) -> str:
    """The paper's rows and ours in one Markdown table, each marked as what it is; `measured` as for `rows_beside`."""
    return in_markdown(rows_beside(table, measured))


def rows_beside(table: Table, measured: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """The same as rows of cells, the head first; a row's second cell says whether it is reported or measured.

    `measured` has our cells by row and measure, as words (a figure with its interval). A measure of ours that the paper
    has not comes behind the paper's, under its own name: figures of different scales never share a column.
    """
    added = list(dict.fromkeys(name for cells in measured.values() for name in cells if name not in table.better))
    rows = [[f"table {table.number}: {table.title}", "", *table.better, *added]]
    for row, values in table.rows.items():
        rows.append([row, REPORTED, *("-" if value is None else f"{value:g}" for value in values), *["-"] * len(added)])
    for row, cells in measured.items():
        rows.append([row, MEASURED, *(cells.get(name, "-") for name in (*table.better, *added))])
    return rows


def in_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of words, the head first. A bar in a cell, as in KL(a || b), would end it, and is written as one that
    does not."""
    head, *lines = (f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *lines]) + "\n"
