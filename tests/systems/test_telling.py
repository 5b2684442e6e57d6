"""Stories are told once, whatever stops the run and however many processes share them; folders are not mixed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from systems.cases import Noises, asked

from audiostory import sound
from audiostory.benchmark import items
from audiostory.pipeline import StoryError
from audiostory.story_audio import StoryAudio
from audiostory.systems import telling
from audiostory.systems.asked import Asked
from audiostory.systems.baselines import TrueCaptions
from audiostory.systems.telling import tell_all

STORIES = [asked(f"story-{index}", 0.5, 0.25, total=0.75) for index in range(5)]


class Teller:
    """Tells noises; is killed before the story `stops_at`, and cannot tell those in `fails`."""

    def __init__(self, *, stops_at: str = "", fails: Sequence[str] = (), **settings: Any) -> None:
        self.settings = {"kind": "noises", "seed": 0, **settings}
        self.stops_at, self.fails = stops_at, fails
        self.told: list[str] = []

    def tell(self, asked: Sequence[Asked]) -> Iterator[StoryAudio | StoryError]:
        stories = TrueCaptions(Noises()).tell(asked)
        for one in asked:
            if one.id == self.stops_at:
                raise KeyboardInterrupt
            self.told.append(one.id)
            story = next(stories)
            yield StoryError("no complete event") if one.id in self.fails else story


def contents(folder: Path) -> dict[str, bytes]:
    """Of the sounds, to the last bit; a WAV of floats has the time of writing in its head."""
    return {str(path.relative_to(folder)): sound.read(path).samples.tobytes() for path in folder.rglob("*.wav")}


def test_a_killed_run_goes_on_and_tells_nothing_twice(tmp_path):
    killed, after, alone = Teller(stops_at="story-2"), Teller(), Teller()
    with pytest.raises(KeyboardInterrupt):
        tell_all(killed, STORIES, tmp_path / "out")
    tell_all(after, STORIES, tmp_path / "out")
    assert killed.told + after.told == [one.id for one in STORIES]
    tell_all(alone, STORIES, tmp_path / "alone")
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_story_whose_record_is_missing_is_told_again(tmp_path):
    tell_all(Teller(), STORIES[:2], tmp_path)
    (tmp_path / "story-1" / telling.RECORD).unlink()  # as it is while its files are moved there
    again = Teller()
    tell_all(again, STORIES[:2], tmp_path)
    assert again.told == ["story-1"]
    assert items.read_told(tmp_path / "story-1").seconds == 0.75


def test_the_record_says_what_was_asked_and_how_it_was_told(tmp_path):
    tell_all(Teller(), STORIES[:1], tmp_path)
    record = json.loads((tmp_path / "story-0" / "storyline.json").read_text())
    assert record["instruction"] == "sounds"
    assert record["rendering"]["steps"] == 2
    assert record["seconds_to_tell"] >= 0
    assert [event["seconds"] for event in record["events"]] == [0.5, 0.25]
    assert json.loads((tmp_path / "settings.json").read_text()) == {"kind": "noises", "seed": 0}


def test_what_cannot_be_told_leaves_its_reason_and_is_not_tried_again(tmp_path):
    tell_all(Teller(fails=["story-1"]), STORIES, tmp_path)
    failure = json.loads((tmp_path / "story-1" / items.FAILURE).read_text())
    assert (failure["instruction"], failure["reason"]) == ("sounds", "no complete event")
    assert failure["seconds_to_tell"] >= 0
    assert items.read_told(tmp_path / "story-1").captions == ()
    again = Teller()
    tell_all(again, STORIES, tmp_path)
    assert again.told == []


def test_the_benchmark_reads_the_files_that_are_written():
    assert (telling.RECORD, telling.FAILURE) == (items.RECORD, items.FAILURE)


@pytest.mark.parametrize(
    ("now", "said"),
    [({"seed": 1}, r"seed 0 \(now 1\)"), ({"steps": 3}, r"steps None \(now 3\)"), ({"kind": "b"}, "kind noises")],
)
def test_a_folder_told_with_other_settings_is_refused(tmp_path, now, said):
    tell_all(Teller(), STORIES[:1], tmp_path)
    other = Teller(**now)
    with pytest.raises(ValueError, match=said):
        tell_all(other, STORIES, tmp_path)
    assert other.told == []


def test_a_setting_that_is_gone_is_another_setting(tmp_path):
    tell_all(Teller(steps=3), STORIES[:1], tmp_path)
    with pytest.raises(ValueError, match=r"steps 3 \(now None\)"):
        tell_all(Teller(), STORIES[:1], tmp_path)


@pytest.mark.parametrize("change", ["caption", "instruction", "storyline"])
def test_a_folder_with_another_exam_is_refused(tmp_path, change):
    tell_all(Teller(), STORIES[:1], tmp_path)
    other = asked("story-0", 0.5, 0.3, total=0.8, text="other sounds")
    changed = replace(STORIES[0], **{change: "another" if change == "caption" else getattr(other, change)})
    with pytest.raises(ValueError, match="was told for another"):
        tell_all(Teller(), [changed], tmp_path)


def test_an_opening_is_known_by_its_sound_not_by_its_place(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"one")
    (tmp_path / "b.wav").write_bytes(b"one")
    first, moved = (
        replace(STORIES[0], instruction=replace(STORIES[0].instruction, audio=tmp_path / name))
        for name in ("a.wav", "b.wav")
    )
    tell_all(Teller(), [first], tmp_path / "out")
    tell_all(Teller(), [moved], tmp_path / "out")
    (tmp_path / "b.wav").write_bytes(b"two")
    with pytest.raises(ValueError, match="was told for another"):
        tell_all(Teller(), [moved], tmp_path / "out")


def test_a_mistake_found_while_loading_leaves_no_folder(tmp_path):
    class Broken(Teller):
        def tell(self, asked):
            raise ValueError("there is no device 'abacus' here")
            yield

    with pytest.raises(ValueError, match="abacus"):
        tell_all(Broken(), STORIES, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=12, deadline=None)
@given(num=st.integers(0, 5), processes=st.integers(1, 4))
def test_processes_share_the_stories_without_overlap(tmp_path_factory, num, processes):
    folder = tmp_path_factory.mktemp("shares")
    tellers = [Teller() for _ in range(processes)]
    for rank, teller in enumerate(tellers):
        tell_all(teller, STORIES[:num], folder, rank=rank, processes=processes)
    assert sorted(id for teller in tellers for id in teller.told) == [one.id for one in STORIES[:num]]
    assert sorted(path.parent.name for path in folder.glob("*/storyline.json")) == [one.id for one in STORIES[:num]]
