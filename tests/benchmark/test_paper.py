import pytest

from audiostory.benchmark.paper import MEASURED, REPORTED, TABLES, Table, beside, rows_beside


def test_the_papers_own_system_is_best_where_it_says_so():
    assert TABLES[1].order("FAD")[0] == TABLES[1].order("CLAP")[0] == "AudioStory"
    assert TABLES[1].order("consistency")[0] == "AudioLDM2"  # one clip of ten seconds agrees with itself
    assert TABLES[4].order("consistency") == ["full", "no reasoning", "no interleaved captions"]
    assert TABLES[11].order("FAD single")[0] == "8"
    assert TABLES[3].order("CLAP")[0] == "TangoFlux"


def test_an_empty_cell_is_no_zero():
    assert "AudioLDM2" not in TABLES[1].column("reasoning")
    assert "understanding alone" not in TABLES[7].order("FAD story")


def test_rows_are_marked_as_reported_or_measured_and_new_measures_have_columns_of_their_own():
    page = beside(TABLES[4], {"full": {"FAD": "2.1", "sound heard right": "0.9 (0.8 to 1.0)"}}).splitlines()
    assert page[0].endswith("| consistency | instruction | FAD | CLAP | sound heard right |")
    assert page[2] == f"| no reasoning | {REPORTED} | 3.1 | 3.1 | 4.13 | 0.34 | - |"
    assert page[-1] == f"| full | {MEASURED} | - | - | 2.1 | - | 0.9 (0.8 to 1.0) |"
    assert len({line.count("|") for line in page}) == 1


def test_the_rows_are_those_of_the_markdown():
    measured = {"full": {"FAD": "2.1", "sound heard right": "0.9"}}
    rows = rows_beside(TABLES[4], measured)
    assert rows[0] == ["table 4: reasoning", "", *TABLES[4].better, "sound heard right"]
    assert [row[:2] for row in rows[1:]] == [*([name, REPORTED] for name in TABLES[4].rows), ["full", MEASURED]]
    assert len({len(row) for row in rows}) == 1
    assert all(f"| {' | '.join(row)} |" in beside(TABLES[4], measured) for row in rows)


def test_a_bar_in_a_cell_does_not_end_it():
    lines = beside(TABLES[4], {"a|b": {"KL (a || b)": "1"}}).splitlines()
    assert lines[0].endswith(r"| KL (a \|\| b) |")
    assert lines[-1].startswith(r"| a\|b | ")
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_a_row_with_a_cell_too_few_is_noticed():
    with pytest.raises(AssertionError, match="another number of cells"):
        Table(number=0, title="", better={"a": True, "b": True}, rows={"x": (1.0,)})
