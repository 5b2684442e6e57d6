"""What the tables of configs/ablations ask for, and what of it is shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from audiostory.benchmark.ablations.plan import Cell, Job, Settings, ordered, plan, read_table, to_do
from audiostory.benchmark.paper import TABLES as PAPER

FOLDER = Path(__file__).parents[3] / "configs" / "ablations"
NUMBERS = [int(file.stem.removeprefix("table_")) for file in sorted(FOLDER.glob("table_*.yaml"))]
TABLES = {number: read_table(FOLDER, number) for number in NUMBERS}
SETTINGS = Settings(base="runs/v1", corpora="corpora/v1", output=Path("out"), num=100, seeds=(0, 1, 2), all_seeds=True)


def cells(*numbers: int, settings: Settings = SETTINGS) -> dict[tuple[int, str, int], Cell]:
    planned = plan(FOLDER, {number: TABLES[number] for number in numbers}, settings)
    return {(cell.table, cell.row, cell.seed): cell for cell in planned}


def chain(job: Job | None) -> list[Job]:
    """The runs that lead to it, the first one first."""
    return [] if job is None else [*chain(job.after), job]


def names(cell: Cell) -> list[str]:
    return [job.name for job in chain(cell.job)]


@pytest.mark.parametrize("number", NUMBERS)
def test_each_row_of_the_paper_is_there_in_its_order_or_left_out_for_a_reason(number):
    table = TABLES[number]
    assert table.table == number
    assert [row for row in PAPER[number].rows if row not in table.left_out] == list(table.rows)
    assert not {*table.rows} & {*table.left_out}


def test_the_tables_that_are_asked_for_are_there():
    assert NUMBERS == [1, 4, 5, 6, 7, 11]


def test_the_full_system_is_trained_once_for_all_tables():
    found = cells(4, 5, 6, 7, 11)
    full = names(found[4, "full", 1])
    for row in ((5, "semantic by Flan-T5, residual by none"), (6, "both, all of the DiT"), (11, "8")):
        assert names(found[(*row, 1)]) == full
    assert names(found[7, "bridge, together, understanding", 1])[:3] == full[:3]


def test_rows_part_where_they_begin_to_differ():
    found = cells(4, 6, 11)
    full = names(found[4, "full", 0])
    for row, shared in (
        ((4, "no reasoning"), 0),
        ((11, "4"), 1),
        ((6, "semantic alone, apart"), 2),
        ((6, "both, single blocks alone"), 2),
    ):
        own = names(found[(*row, 0)])
        assert [one == other for one, other in zip(own, full, strict=True)] == [place < shared for place in range(5)]


def test_another_seed_base_or_setting_is_another_run_and_another_place_to_run_is_not():
    """But for the planner's pre-training, which all seeds start from."""
    first = names(cells(4)[4, "full", 0])
    second = names(cells(4)[4, "full", 1])
    assert [one == other for one, other in zip(second, first, strict=True)] == [True, *4 * [False]]
    for other in (
        cells(4, settings=replace(SETTINGS, base="runs/v2"))[4, "full", 0],
        cells(4, settings=replace(SETTINGS, overrides=("stage.steps=3",)))[4, "full", 0],
    ):
        assert not {*names(other)} & {*first}
    assert names(cells(4, settings=replace(SETTINGS, runtime="single_gpu"))[4, "full", 0]) == first
    more_stories = names(cells(4, settings=replace(SETTINGS, num=200))[4, "full", 0])
    assert (more_stories[:-1], more_stories[-1] == first[-1]) == (first[:-1], False)


def test_each_stage_starts_from_what_the_one_before_exported_and_the_last_is_measured():
    *stages, measured = chain(cells(11)[11, "4", 2].job)
    starts = [next(a for a in job.arguments if a.startswith("stage.start_from=")) for job in stages]
    assert starts == ["stage.start_from=null", *(f"stage.start_from={job.folder}/export" for job in stages[:-1])]
    assert f"systems.mini.model_path={stages[-1].folder}/export" in measured.arguments
    assert "suite.num=100" in measured.arguments
    assert [job.stage for job in (*stages, measured)] == ["planner", "stage1_warmup", "stage1", "stage3", None]


def test_jobs_come_once_and_behind_what_they_need():
    jobs = ordered(list(cells(4, 5, 6, 7, 11).values()))
    assert len({job.name for job in jobs}) == len({job.folder for job in jobs}) == len(jobs)
    places = {job.name: place for place, job in enumerate(jobs)}
    assert all(job.after is None or places[job.after.name] < places[job.name] for job in jobs)


def test_what_only_a_finished_measurement_needs_is_not_trained_again(tmp_path):
    planned = cells(4, settings=replace(SETTINGS, output=tmp_path, seeds=(0,)))
    jobs = ordered(list(planned.values()))
    assert to_do(jobs) == jobs
    done = planned[4, "no reasoning", 0].job
    done.folder.mkdir(parents=True)
    done.result.touch()
    assert [job for job in jobs if job not in to_do(jobs)] == chain(done)
    planner = chain(planned[4, "full", 0].job)[0]
    planner.result.mkdir(parents=True)
    assert [job for job in jobs if job not in to_do(jobs)] == [*chain(done), planner]


def test_rows_that_are_no_headline_take_the_first_seed():
    found = cells(6, settings=replace(SETTINGS, seeds=(5, 6, 7), all_seeds=False))
    assert [seed for _, row, seed in found if row == "both, all of the DiT"] == [5, 6, 7]
    assert [seed for _, row, seed in found if row == "both, single blocks alone"] == [5]


def test_a_table_of_systems_trains_nothing():
    assert cells(1) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("table: 4\nrows: {fulll: {changes: nothing}}", "no row 'fulll'; it has no reasoning"),
        ("table: 4\nrows: {full: {chanes: nothing}}", "did you mean changes"),
        ("table: 4\nrows: [", "table_04.yaml"),
    ],
)
def test_a_slip_in_a_table_is_named(tmp_path, text, message):
    (tmp_path / "table_04.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path, 4)


def test_a_table_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(ValueError, match="can be repeated are 1, 4, 5, 6, 7, 11"):
        read_table(FOLDER, 2)
