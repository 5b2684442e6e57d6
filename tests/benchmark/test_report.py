"""The report: one table for people, one file for programs."""

import json
from dataclasses import replace

import pytest

from audiostory.benchmark.intervals import Score, bootstrap
from audiostory.benchmark.paper import TABLES
from audiostory.benchmark.report import Comparison, Report, markdown, table, write
from audiostory.benchmark.soundworld import Confusion

GOOD, POOR, NOTHING = bootstrap([[1.0], [1.0]]), bootstrap([[0.0], [0.0]]), bootstrap([])
REPORT = Report(
    title="2 stories",
    columns={"told": {"sound right": POOR, "register": NOTHING}, "truth": {"sound right": GOOD, "register": NOTHING}},
    about={"told": "the model", "truth": "the clips"},
    notes=["one story could not be told"],
    hardest={"told": [Confusion(name="owl", num=4, right=1, mistaken_for={"flute": 2, "dog": 1})]},
    facts={"seed": 3},
)


def test_the_table_has_a_row_per_measure_and_a_column_per_system():
    lines = table(REPORT.columns).splitlines()
    assert lines[0] == "| measure | n | told | truth |"
    assert lines[2] == "| sound right | 2 | 0.000 (0.000 to 0.000) | 1.000 (1.000 to 1.000) |"
    assert lines[3] == "| register | 0 | - | - |"
    assert len({line.count("|") for line in lines}) == 1


def test_a_distance_between_sets_has_no_interval_and_none_is_no_figure():
    nan = float("nan")
    distance, none = Score(mean=1.25, low=nan, high=nan, num=8), Score(mean=nan, low=nan, high=nan, num=8)
    columns = {"told": {"ear FD": distance}, "mute": {"ear FD": none}, "shuffled": {}}
    assert table(columns).splitlines()[2] == "| ear FD | 8 | 1.250 | - | - |"


def test_our_rows_stand_beside_the_papers(tmp_path):
    report = replace(REPORT, beside_paper=[Comparison(table=TABLES[4], measured={"told": {"FAD": GOOD, "mine": POOR}})])
    page = markdown(report)
    assert "| no reasoning | *reported* | 3.1 | 3.1 | 4.13 | 0.34 | - |" in page
    assert "| told | *measured here* | - | - | 1.000 (1.000 to 1.000) | - | 0.000 (0.000 to 0.000) |" in page
    write(tmp_path, report)
    (entry,) = json.loads((tmp_path / "report.json").read_text())["beside_paper"]
    assert (entry["table"], entry["title"]) == (4, "reasoning")
    assert entry["reported"]["full"] == {"consistency": 4.0, "instruction": 4.1, "FAD": 3.06, "CLAP": 0.39}
    assert entry["measured"]["told"]["mine"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "num": 2}


def test_figures_over_different_numbers_of_questions_say_each_its_own():
    lines = table({"told": {"x": GOOD}, "truth": {"x": Score(mean=1.0, low=1.0, high=1.0, num=3)}, "mute": {}})
    assert lines.splitlines()[2] == "| x |  | 1.000 (1.000 to 1.000), n 2 | 1.000 (1.000 to 1.000), n 3 | - |"


def test_the_page_says_what_the_columns_are_and_what_is_heard_worst():
    page = markdown(REPORT)
    for words in (
        "# 2 stories",
        "told: the model",
        "one story could not be told",
        "| owl | 4 | 0.25 | flute 2, dog 1 |",
    ):
        assert words in page
    assert '"seed": 3' in page


def test_the_files_are_whole_and_strict_json(tmp_path):
    write(tmp_path / "out", REPORT)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.json", "report.md"]
    content = json.loads(
        (tmp_path / "out" / "report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON")
    )
    assert content["scores"]["truth"]["sound right"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "num": 2}
    assert content["scores"]["told"]["register"]["mean"] is None
    assert content["hardest"]["told"][0]["mistaken_for"] == {"flute": 2, "dog": 1}
