"""Both orders side by side, and what is said about them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiostory.benchmark.ablations.orders import STANDS_FOR, in_plain_words, orders, over_seeds, section, standing
from audiostory.benchmark.intervals import Score
from audiostory.benchmark.paper import TABLES

NAN = float("nan")
PLACE, FD = "place stays the same", "ear FD"


def score(mean: float, reach: float = NAN) -> Score:
    return Score(mean=mean, low=mean - reach, high=mean + reach, num=10)


def consistency(**places: Score):
    """The order of table 4 by consistency, whose rows are given as one, two, three."""
    rows = dict(zip(("one", "two", "three"), TABLES[4].rows, strict=True))
    found = orders(TABLES[4], {rows[name]: {PLACE: place} for name, place in places.items()})
    return next(order for order in found if order.our_measure == PLACE)


def test_over_seeds_the_interval_is_students_t():
    found = over_seeds([score(1.0), score(2.0), score(3.0)])
    assert (found.mean, found.num) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


def test_one_seed_keeps_the_interval_over_stories():
    assert over_seeds([score(0.5, 0.1)]) == Score(mean=0.5, low=0.4, high=0.6, num=1)
    assert math.isnan(over_seeds([score(0.5)]).low)


def test_every_measure_that_something_stands_for_is_one_of_the_papers():
    known = {name for table in TABLES.values() for name in table.better}
    assert set(STANDS_FOR) <= known


@given(st.permutations(list(TABLES[11].rows)))
def test_tau_counts_the_pairs_that_are_turned_round(rows):
    measured = {row: {FD: score(float(place))} for place, row in enumerate(rows)}  # less is better
    order = next(order for order in orders(TABLES[11], measured) if order.paper_measure == "FD single")
    assert order.ours == tuple(rows)
    assert list(order.paper) == TABLES[11].order("FD single")
    assert order.tau == pytest.approx(1 - 2 * len(order.turned) / 6)


def test_the_papers_own_order_has_nothing_turned_and_says_so():
    order = consistency(one=score(0.5), two=score(0.3), three=score(0.6))
    assert order.paper == order.ours == ("full", "no reasoning", "no interleaved captions")
    assert (order.tau, order.turned) == (pytest.approx(1), ())
    assert "The order is the paper's." in in_plain_words(order)


@pytest.mark.parametrize(
    ("reach", "words"), [(0.01, "do not touch"), (0.3, "chance may have turned"), (NAN, "without an interval")]
)
def test_a_turned_pair_is_named_with_how_sure_it_is(reach, words):
    told = in_plain_words(consistency(one=score(0.6, reach), three=score(0.5, reach)))
    assert "The paper has *full* before *no reasoning*, here it is the other way round" in told
    assert words in told
    assert "-1.00 over 2 rows" in told


def test_equal_figures_are_alike_and_not_turned():
    order = consistency(one=score(0.5), three=score(0.5))
    assert order.turned == ()
    assert order.alike == (("full", "no reasoning"),)
    assert math.isnan(order.tau)
    assert "are alike here" in in_plain_words(order)


def test_one_row_alone_has_no_order():
    assert "no order yet" in in_plain_words(consistency(one=score(0.5)))


def test_a_figure_that_could_not_be_had_is_in_no_order():
    assert consistency(one=score(0.5), two=score(NAN), three=score(0.6)).ours == ("full", "no reasoning")


def test_what_the_paper_leaves_empty_is_left_empty():
    both = {FD: score(1.0), "answers right": score(0.5), "sound right": score(0.5)}
    shown = standing(TABLES[7], {"understanding alone": both, "bridge alone": both}, also=["sound right"])
    assert set(shown["understanding alone"]) == {"answers right", "sound right"}
    assert set(shown["bridge alone"]) == {FD, "sound right"}


def test_a_section_has_both_kinds_of_rows_and_says_what_is_missing():
    page = section(TABLES[4], {"full": {PLACE: score(0.5, 0.1)}}, {"no reasoning": "nobody could"})
    assert "| full | *reported* | 4 |" in page
    assert "| full | *measured here* | - | - | - | - | 0.500 (0.400 to 0.600) |" in page
    assert "*no reasoning* is missing here: nobody could." in page
    assert "*no interleaved captions* is missing here: not measured yet." in page
