"""From tables to runs: what `configs/ablations/` says becomes commands to carry out, each of them once. No torch here.

A row is a chain of stages, each of which starts from the one before. Chains that begin alike share their beginnings, in
one table or in several: a run's name ends in a digest of all that it depends on, its start included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audiostory import composing
from audiostory.benchmark.paper import TABLES as PAPER

SYSTEM = "mini"  # the name under which evaluate/benchmark.py measures a row's model
SUITE = ("suite=soundworld", f"system={SYSTEM}", "suite.controls=[]")
SHORTENED, SCORES = "shortened.yaml", "scores.json"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: the stages in their order, each with what is changed in it, or a system of a report."""

    changes: str
    stages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    system: str | None = None
    benchmark: tuple[str, ...] = ()  # how it is measured otherwise than the other rows


@dataclass(frozen=True, kw_only=True)
class Table:
    """One file of configs/ablations. Rows of `headline` are trained with every seed, the others with the first."""

    table: int
    rows: Mapping[str, Row]
    headline: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)  # the paper's rows that cannot be had, and why
    also: tuple[str, ...] = ()  # measures to show that stand for none of the paper's

    @property
    def is_trained(self) -> bool:
        return any(row.stages for row in self.rows.values())


@dataclass(frozen=True, kw_only=True)
class Shortened:
    """What every run is told, and what each of a stage. Stages of `once` are trained with the first seed alone."""

    every: tuple[str, ...]
    stages: Mapping[str, tuple[str, ...]]
    once: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all rows of a call share. `base` is a folder of runs, `corpora` one of data sets; `overrides` are more
    settings of train.py, `benchmark` of evaluate/benchmark.py."""

    base: str
    corpora: str
    output: Path
    num: int
    seeds: tuple[int, ...]
    all_seeds: bool = False
    overrides: tuple[str, ...] = ()
    benchmark: tuple[str, ...] = ()
    runtime: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to run in a folder of its own, once `after` is done. It is done when `result` is there.

    `arguments` are those of train.py for a stage, else of evaluate/benchmark.py. `chosen` are those that decide what a
    stage learns, the same for every seed.
    """

    name: str
    folder: Path
    result: Path
    arguments: tuple[str, ...]
    after: Job | None = None
    stage: str | None = None
    chosen: tuple[str, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.result.exists()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One seed of a row; `job` measures it."""

    table: int
    row: str
    seed: int
    job: Job


def read_table(folder: Path, number: int) -> Table:
    """ValueError for a number that has no file, and for a file that says something unknown."""
    path = folder / f"table_{number:02d}.yaml"
    if not path.is_file():
        known = ", ".join(str(int(file.stem.removeprefix("table_"))) for file in sorted(folder.glob("table_*.yaml")))
        raise ValueError(f"there is no {path.name} in {folder}; tables that can be repeated are {known}")
    table = _read(Table, path)
    rows = PAPER[table.table].rows
    if unknown := [row for row in (*table.rows, *table.left_out, *table.headline) if row not in rows]:
        raise ValueError(f"{path}: the paper's table {table.table} has no row {unknown[0]!r}; it has {', '.join(rows)}")
    return table


def plan(folder: Path, tables: Mapping[int, Table], settings: Settings) -> list[Cell]:
    """Every seed of every row that is trained, with the chain of runs that leads to its measurement."""
    shortened = _read(Shortened, folder / SHORTENED)
    cells = []
    for seed in dict.fromkeys(settings.seeds):
        for number, table in tables.items():
            for name, row in table.rows.items():
                first_alone = bool(table.headline) and name not in table.headline and not settings.all_seeds
                if not row.stages or (first_alone and seed != settings.seeds[0]):
                    continue
                job = None
                for stage, changes in row.stages.items():
                    if stage not in shortened.stages:
                        raise ValueError(f"table {number}, row {name!r}: {SHORTENED} does not shorten a stage {stage}")
                    chosen = (*shortened.every, *shortened.stages[stage], *changes, *settings.overrides)
                    job = training(stage, chosen, job, settings.seeds[0] if stage in shortened.once else seed, settings)
                assert job is not None
                asked = (*row.benchmark, *settings.benchmark)
                cells.append(Cell(table=number, row=name, seed=seed, job=measurement(job, asked, settings)))
    return cells


def training(stage: str, chosen: Sequence[str], after: Job | None, seed: int, settings: Settings) -> Job:
    """One run of train.py. Equal ones have equal names; where it runs is not part of what it is."""
    chosen = (f"stage={stage}", *chosen)
    what = (*chosen, f"seed={seed}", f"runs={settings.base}", f"data.folder={settings.corpora}")
    words = [override.removeprefix("ablation=").strip("[]") for override in chosen if override.startswith("ablation=")]
    name = "-".join([stage, *words, f"seed{seed}", _digest(what, after.name if after else "")]).replace(",", "-")
    folder = settings.output / "runs" / name
    start = f"stage.start_from={after.result if after else 'null'}"
    return Job(
        name=name,
        folder=folder,
        result=folder / "export",
        arguments=(*what, start, f"runtime={settings.runtime}", f"output={folder}"),
        after=after,
        stage=stage,
        chosen=chosen,
    )


def measurement(after: Job, asked: Sequence[str], settings: Settings) -> Job:
    what = (*SUITE, f"suite.num={settings.num}", *asked)
    name = f"{after.name}-{_digest(what)}"
    folder = settings.output / "measured" / name
    model = f"systems.{SYSTEM}.model_path={after.result}"
    arguments = (*what, model, f"output={folder}")
    return Job(name=f"measure {name}", folder=folder, result=folder / SCORES, arguments=arguments, after=after)


def ordered(cells: Sequence[Cell]) -> list[Job]:
    """Each job once, behind the one it needs; rows in the order of their tables, one seed after the other."""
    jobs: dict[str, Job] = {}
    for cell in cells:
        chain, job = [], cell.job
        while job is not None:
            chain.append(job)
            job = job.after
        jobs |= {job.name: job for job in reversed(chain)}
    return list(jobs.values())


def to_do(jobs: Sequence[Job]) -> list[Job]:
    """In their order. A model whose scores are there is not needed any more, and not trained again for them."""
    wanted: set[str] = set()
    for job in jobs:
        one: Job | None = job if job.stage is None else None
        while one is not None and not one.is_done:
            wanted.add(one.name)
            one = one.after
    return [job for job in jobs if job.name in wanted]


def _read(cls: type, path: Path) -> Any:
    import yaml

    try:
        return composing.build(cls, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def _digest(*what: Any) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
