"""Events that overlap and leave gaps become events that tile the story."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.as10k.events import Annotation, Heard
from audiostory.as10k.settings import EventSettings
from audiostory.as10k.tiling import Tile, behind, caption, tile

SETTINGS = EventSettings(min_event_seconds=1.0, max_event_seconds=27.0)


def heard(start: float, end: float, sound: str = "hum") -> Heard:
    return Heard(start=start, end=end, type="tone", sound=sound, visual="")


def tiles(*events: tuple[float, float], total: float = 12.0, settings: EventSettings = SETTINGS) -> list[tuple]:
    found = tile([heard(*event) for event in events], total, settings)
    return [(part.start / 10, part.end / 10, part.event) for part in found]


def test_what_began_last_has_the_foreground_and_then_what_goes_on_comes_back():
    assert tiles((0, 10), (4, 6)) == [(0, 4, 0), (4, 6, 1), (6, 12, 0)]


def test_of_two_that_overlap_the_later_one_takes_over():
    assert tiles((0, 6), (4, 12)) == [(0, 4, 0), (4, 12, 1)]


def test_a_gap_belongs_to_the_event_before_and_the_beginning_to_the_first():
    assert tiles((2, 4), (7, 9)) == [(0, 7, 0), (7, 12, 1)]


def test_what_is_too_short_goes_to_its_longer_neighbour():
    assert tiles((0, 4), (4, 4.5), (4.5, 12)) == [(0, 4, 0), (4, 12, 2)]
    assert tiles((0, 10), (4, 4.5)) == [(0, 12, 0)]


def test_what_is_too_long_is_cut_into_equal_parts():
    assert tiles((0, 50), (50, 60), total=60.0) == [(0, 25, 0), (25, 50, 0), (50, 60, 1)]


def test_a_story_shorter_than_the_shortest_event_is_one_event():
    assert tiles((0, 0.2), (0.2, 0.5), total=0.5) == [(0, 0.5, 1)]


times = st.integers(0, 6000).map(lambda hundredths: hundredths / 100)


@settings(deadline=None)
@given(
    pairs=st.lists(st.tuples(times, times), min_size=1, max_size=12),
    total=st.floats(1.0, 60.0),
    shortest=st.sampled_from([0.1, 0.5, 1.0, 3.0]),
)
def test_tiles_cover_the_whole_story_once_within_their_limits(pairs, total, shortest):
    events = [heard(min(pair), max(pair) + 0.01) for pair in sorted(pairs, key=min)]
    limits = EventSettings(min_event_seconds=shortest, max_event_seconds=2 * shortest + 0.1)
    found = tile(events, total, limits)
    assert found[0].start == 0
    assert found[-1].end == int(total * 10 + 1e-6)
    assert all(one.end == other.start for one, other in pairwise(found))
    assert all(part.length <= limits.max_event_seconds * 10 + 1e-6 for part in found)
    assert len(found) == 1 or all(part.length >= shortest * 10 - 1e-6 for part in found)


def test_a_caption_tells_what_goes_on_behind_it():
    rain, dog, bell = heard(0, 10, "Rain falls."), heard(4, 6, "A dog barks."), heard(5.5, 5.8, "A bell rings.")
    assert caption(Tile(start=40, end=60, event=1), [rain, dog, bell]) == "A dog barks; Rain falls"
    assert caption(Tile(start=0, end=40, event=0), [rain, dog, bell]) == "Rain falls"


def test_a_caption_says_nothing_twice_and_no_more_than_two_things():
    events = [heard(0, 10, "hum"), heard(0, 10, "hum"), *(heard(0, 10, f"tone {number}") for number in range(5))]
    assert caption(Tile(start=0, end=100, event=0), events) == "hum; tone 0"


def test_effects_and_music_of_a_tile_are_those_that_sound_in_it():
    effect, music = heard(1, 2, "pop"), heard(2, 9, "waltz")
    found = Annotation(main_events=(), sound_effects=(effect,), music=(music,))
    assert behind(Tile(start=0, end=20, event=0), found) == ["pop"]
    assert behind(Tile(start=15, end=30, event=0), found) == ["pop", "waltz"]


@pytest.mark.parametrize("limits", [(0.0, 27.0), (1.0, 2.0)])
def test_limits_that_cannot_be_kept_are_refused(limits):
    with pytest.raises(ValueError, match="min_event"):
        EventSettings(min_event_seconds=limits[0], max_event_seconds=limits[1])
