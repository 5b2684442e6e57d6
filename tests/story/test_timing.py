import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from audiostory.story import Event, ProblemKind, Storyline
from audiostory.story.script import reconcile
from audiostory.story.timing import fill_gaps, parse_duration, timeline


def storyline(*seconds) -> Storyline:
    return Storyline(summary="", events=tuple(Event(caption="rain", seconds=length) for length in seconds))


def lengths(story: Storyline) -> list[float]:
    return [event.seconds for event in story.events]


def test_rounding_to_the_grid_never_adds_up():
    events = [Event(caption="rain", seconds=1.25, start=1.25 * i) for i in range(3)]
    assert timeline(events) == ((0.0, 1.2), (1.2, 2.5), (2.5, 3.8))


@pytest.mark.parametrize("seconds", [0, -1.0, math.nan, math.inf, 3601.0, 0.01, None, "3"])
def test_a_duration_that_cannot_be_written_is_refused(seconds):
    with pytest.raises(ValueError, match="event 1 lasts"):
        timeline([Event(caption="rain", seconds=seconds)])


@pytest.mark.parametrize("start", [0.0, 1.9, 2.2, math.nan])
def test_events_that_leave_a_gap_or_overlap_are_refused(start):
    with pytest.raises(ValueError, match="event 2 starts at"):
        timeline([Event(caption="rain", seconds=2.0), Event(caption="wind", seconds=1.0, start=start)])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("3.5", 3.5), ("7", 7.0), (" 4.25 ", 4.25), ("1e1", 10.0), ("", None), ("3.5 seconds", None)],
        *[("nan", None), ("inf", None), ("-3", None), ("0", None), ("1e300", None)],
    ],
)
def test_parsing_a_duration(text, seconds):
    assert parse_duration(text) == seconds


def test_gaps_share_what_is_left():
    assert fill_gaps([2.0, None, None], total_seconds=10.0) == [2.0, 4.0, 4.0]
    assert fill_gaps([2.0, 4.0, None], total_seconds=6.0) == [2.0, 4.0, 3.0]
    assert fill_gaps([None], total_seconds=None) == [10.0]
    assert fill_gaps([None], total_seconds=math.nan) == [10.0]


def test_a_plan_that_adds_up_is_left_alone():
    story, problems = reconcile(storyline(1.25, 2.25), total_seconds=3.5, max_event_seconds=10)
    assert lengths(story) == [1.25, 2.25]
    assert [event.start for event in story.events] == [0.0, 1.25]
    assert problems == []


def test_without_a_total_only_impossible_durations_change():
    story, problems = reconcile(storyline(1.23, math.nan), total_seconds=None, max_event_seconds=10)
    assert lengths(story) == [1.23, 1.23]
    assert [(p.kind, p.event) for p in problems] == [(ProblemKind.DURATION, 2)]


def test_a_short_plan_is_stretched_on_the_grid():
    story, problems = reconcile(storyline(1.0, 1.0, 1.0), total_seconds=10.0, max_event_seconds=10)
    assert sorted(lengths(story)) == [3.3, 3.3, 3.4]
    assert [p.message for p in problems] == ["the events last 3.0 s and 10 s were asked; all durations were scaled"]


def test_what_a_total_has_beyond_the_grid_goes_to_the_longest():
    story, _ = reconcile(storyline(1.0, 3.0), total_seconds=8.04, max_event_seconds=10)
    assert lengths(story) == [2.0, 6.04]


def test_a_dwarf_among_giants_keeps_a_tenth():
    story, _ = reconcile(storyline(0.1, 1000.0, 500.0), total_seconds=3.0, max_event_seconds=10)
    assert lengths(story) == [0.1, 1.9, 1.0]


def test_a_total_too_short_for_the_grid_is_shared_equally():
    story, _ = reconcile(storyline(1.0, 1.0, 2.0), total_seconds=0.24, max_event_seconds=10)
    assert lengths(story) == pytest.approx([0.08, 0.08, 0.08])


def test_long_events_are_reported_and_kept():
    story, problems = reconcile(storyline(40.0, 5.0), total_seconds=45.0, max_event_seconds=27.0)
    assert lengths(story) == [40.0, 5.0]
    assert [(p.kind, p.event, p.message) for p in problems] == [
        (ProblemKind.TOO_LONG, 1, "event 1 lasts 40 s, more than the 27 s that one clip can hold")
    ]


def test_no_events_is_a_problem_not_a_crash():
    story, problems = reconcile(storyline(), total_seconds=5.0, max_event_seconds=10)
    assert story.events == ()
    assert [p.kind for p in problems] == [ProblemKind.EVENT_COUNT]


@pytest.mark.parametrize("total", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_total_is_refused(total):
    with pytest.raises(ValueError, match="total_seconds must be"):
        reconcile(storyline(1.0), total_seconds=total, max_event_seconds=10)


DURATIONS = st.floats() | st.none() | st.floats(0.01, 60) | st.sampled_from([0.0, -1.0, 1e-300, 1e300])


@given(st.lists(DURATIONS, min_size=1, max_size=12), st.integers(1, 3000).map(lambda n: n / 10) | st.floats(0.01, 1000))
def test_reconciled_plans_last_exactly_what_was_asked(seconds, total):
    story, _ = reconcile(storyline(*seconds), total_seconds=total, max_event_seconds=10)
    assert abs(math.fsum(lengths(story)) - total) <= 1e-6
    assert all(length > 0 for length in lengths(story))
    ends = [event.start + event.seconds for event in story.events]
    assert [event.start for event in story.events] == pytest.approx([0.0, *ends[:-1]], abs=2e-6)


@given(st.lists(st.floats(0.1, 60), min_size=1, max_size=12), st.integers(12, 3000).map(lambda tenths: tenths / 10))
def test_reconciled_plans_stay_on_the_grid_and_in_proportion(seconds, total):
    scale = total / math.fsum(seconds)
    assume(abs(scale - 1) > 1e-3)
    story, _ = reconcile(storyline(*seconds), total_seconds=total, max_event_seconds=10)
    assert all(length == round(length, 1) for length in lengths(story))
    if min(seconds) * scale >= 0.1:
        assert lengths(story) == pytest.approx([length * scale for length in seconds], abs=0.1 + 1e-6)
