"""Rows say what data/README.md says, in each of the ways to ask; splits never move."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.as10k import rows
from audiostory.as10k.ledger import Dropped
from audiostory.as10k.settings import RowSettings
from audiostory.dataset import manifest
from audiostory.story import Event, Storyline
from audiostory.story.prompts import prompt_text

SETTINGS = RowSettings()
STORY = Storyline(
    summary="A dog chases a cat, and a vase breaks.",
    events=(
        Event(caption="steps", seconds=2.5, start=0.0, story_detail="it runs", sound_detail="quick"),
        Event(caption="barking", seconds=4.0, start=2.5, story_detail="it barks", sound_detail="loud"),
        Event(caption="a crash", seconds=3.5, start=6.5, story_detail="it breaks", sound_detail="bright"),
    ),
)
NAMES = ("story", "opening", "rest", "video", "0", "1", "2")
FILES = {name: f"audio/clip/{name}.flac" for name in NAMES} | {"video": "audio/clip/video.mp4"}
SOURCE = {"video": "cartoon/one.mp4", "start": 3.0, "end": 13.0}


def made(variant: str, settings: RowSettings = SETTINGS) -> dict:
    return rows.make(variant, "clip", STORY, FILES, SOURCE, settings)


def read_back(row: dict) -> manifest.Row:
    return manifest.parse(json.loads(json.dumps(row)), Path("corpus"))


def test_a_text_row_is_the_whole_story_and_its_prompt_ends_in_the_total_duration():
    row = made("text")
    read = read_back(row)
    assert prompt_text(read.instruction).split("<|im_end|>")[1].endswith("The total duration is 10.0 seconds.")
    assert row["instruction"].endswith(STORY.summary)
    assert "duration" not in row["instruction"]
    assert read.storyline.events == STORY.events
    assert "heard" not in row
    assert "video" not in row


def test_recordings_run_into_the_next_event_by_the_fade_and_end_with_the_story():
    assert [clip.seconds for clip in read_back(made("text")).clips] == [5.5, 7.0, 3.5]
    without = made("text", RowSettings(fade_seconds=0.0))
    assert [clip.seconds for clip in read_back(without).clips] == [2.5, 4.0, 3.5]


def test_a_continuation_hears_the_opening_and_goes_on_from_0():
    row = made("continuation")  # 2.5 s are less than the 3 s of an opening, so it holds two events
    read = read_back(row)
    assert row["heard"] == FILES["opening"]
    assert row["audio"] == FILES["rest"]
    assert row["total_seconds"] == 3.5
    assert [(event.caption, event.start) for event in read.storyline.events] == [("a crash", 0.0)]
    assert [clip.audio for clip in read.clips] == [Path("corpus") / FILES["2"]]
    shorter = read_back(made("continuation", RowSettings(opening_seconds=2.5)))
    assert [(event.caption, event.start) for event in shorter.storyline.events] == [("barking", 0.0), ("a crash", 4.0)]


def test_what_leaves_nothing_to_go_on_with_is_no_continuation():
    with pytest.raises(Dropped, match="nothing follows an opening"):
        made("continuation", RowSettings(opening_seconds=7.0))


def test_a_dubbing_row_names_the_video_and_only_cartoons_are_dubbed():
    assert made("dubbing")["video"] == FILES["video"]
    assert rows.variants_of("cartoon", SETTINGS) == ["text", "continuation", "dubbing"]
    assert rows.variants_of("natural", SETTINGS) == ["text", "continuation"]
    assert rows.variants_of("natural", RowSettings(variants=("dubbing",))) == []


def test_there_are_twenty_lead_ins_all_different_and_each_is_drawn():
    assert len(set(rows.LEAD_INS)) == 20
    drawn = {rows.instruction("X.", rows.LEAD_INS, f"clip {number}", SETTINGS) for number in range(400)}
    assert drawn == {f"{lead}X." for lead in rows.LEAD_INS}


def test_a_clips_lead_in_depends_on_its_id_and_the_seed_alone():
    assert made("text") == made("text")
    seeds = {rows.instruction("X", rows.LEAD_INS, "clip", RowSettings(seed=seed)) for seed in range(50)}
    assert len(seeds) > 5
    assert all(text.endswith("X.") for text in seeds)


def test_the_split_is_85_to_15_and_depends_on_the_seed():
    names = [f"{number}.mp4" for number in range(4000)]
    test = {name for name in names if rows.split_of(name, SETTINGS) == "test"}
    assert 0.13 < len(test) / len(names) < 0.17
    assert test != {name for name in names if rows.split_of(name, RowSettings(seed=1)) == "test"}


def test_these_videos_are_on_these_sides_for_ever():
    sides = [rows.split_of(f"{number}.mp4", SETTINGS) for number in range(20)]
    assert [number for number, side in enumerate(sides) if side == "test"] == [17, 18]


@settings(deadline=None)
@given(st.text(min_size=1))
def test_any_name_has_a_side(name):
    assert rows.split_of(name, SETTINGS) in ("train", "test")
