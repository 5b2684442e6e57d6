import json

import pytest

from audiostory.dataset import manifest
from audiostory.dataset.manifest import Damage


def row(number: int = 0, **changes) -> dict:
    event = {"caption": "a dog barks", "start": 0.0, "seconds": 2.0, "audio": "a.wav", "clip_seconds": 2.5}
    return {
        "id": f"row-{number}",
        "instruction": "a dog",
        "total_seconds": 2.0,
        "summary": "dog",
        "events": [event],
    } | changes


def written(folder, *lines) -> str:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_a_row_carries_its_events_and_clips(tmp_path):
    (only,) = manifest.read(written(tmp_path, row())).rows
    assert only.instruction.total_seconds == 2.0
    assert only.storyline.events[0].caption == "a dog barks"
    assert only.clips[0].audio == tmp_path / "a.wav"
    assert only.clips[0].seconds == 2.5
    assert only.clip_key(0) == "row-0/0"


def test_a_row_may_lack_what_is_optional(tmp_path):
    bare = {"id": "x", "instruction": "rain", "events": [{"caption": "rain", "seconds": 3}]}
    (only,) = manifest.read(written(tmp_path, bare, "")).rows
    assert only.instruction.total_seconds is None
    assert only.clips[0].audio is None
    assert only.clips[0].seconds == 3.0


def test_a_row_may_hold_a_recording_that_its_events_follow(tmp_path):
    (only,) = manifest.read(written(tmp_path, row(heard="openings/1.wav"))).rows
    assert only.instruction.audio == tmp_path / "openings/1.wav"
    assert only.heard_key == "openings/1.wav"
    assert len(only.storyline.events) == 1
    assert only.answer == ""


@pytest.mark.parametrize("events", [[], None, "left out"])
def test_a_row_may_ask_a_question_in_place_of_events(tmp_path, events):
    asks = {
        "id": "q",
        "instruction": "what is heard?",
        "answer": "a dog, then rain",
        "heard": "1.wav",
        "events": events,
    }
    asks = {key: value for key, value in asks.items() if value != "left out"}
    (only,) = manifest.read(written(tmp_path, asks)).rows
    assert only.answer == "a dog, then rain"
    assert only.storyline.events == only.clips == ()
    assert only.heard_key == "1.wav"


def test_a_row_without_a_recording_has_none(tmp_path):
    for lacks in ({}, {"heard": None, "answer": None}):
        (only,) = manifest.read(written(tmp_path, row() | lacks)).rows
        assert only.heard_key is only.instruction.audio is None
        assert only.answer == ""


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ("{not json", "Expecting"),
        ("[1, 2]", "JSON object"),
        (row(id=""), "'id'"),
        (row(instruction=None), "'instruction'"),
        (row(events=[]), "at least one event"),
        (row(events=["bell"]), "event 0 must be"),
        (row(total_seconds=-1), "'total_seconds'"),
        (row(answer="a dog"), "either events or an answer"),
        (row(events=[], answer=" "), "'answer'"),
        (row(reasoning="1. a dog barks"), "'reasoning' stands before an answer"),
        (row(events=[], answer="yes", reasoning=3), "'reasoning'"),
        (row(events=[], answer=3), "'answer'"),
        (row(heard=""), "'heard'"),
        (row(heard=7), "'heard'"),
        (row(events=[{"caption": "x", "seconds": 0}]), "'seconds'"),
        (row(events=[{"caption": "x", "seconds": True}]), "'seconds'"),
        (row(events=[{"caption": " ", "seconds": 1}]), "'caption'"),
        (row(events=[{"caption": "x", "seconds": 1, "audio": 3}]), "'audio'"),
        ('{"id": "x", "instruction": "x", "events": [{"caption": "x", "seconds": NaN}]}', "'seconds'"),
        (row(1), "earlier line"),
    ],
)
def test_a_damaged_row_is_named_and_left_out(tmp_path, caplog, damaged, reason):
    path = written(tmp_path, row(1), damaged, row(2))
    rows = manifest.read(path, damaged_share=0.5).rows
    assert [one.id for one in rows] == ["row-1", "row-2"]
    assert f"{path}:2" in caplog.text
    assert reason in caplog.text


def test_too_many_damaged_rows_are_an_error(tmp_path):
    path = written(tmp_path, *(row(number) for number in range(98)), "{", "{")
    with pytest.raises(ValueError, match=r"2 of 100 .* at most 1\.0%"):
        manifest.read(path)
    assert len(manifest.read(path, damaged_share=0.02).rows) == 98


def test_a_missing_or_empty_manifest_says_so(tmp_path):
    with pytest.raises(ValueError, match="no manifest at"):
        manifest.read(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="holds no rows"):
        manifest.read(written(tmp_path))


def test_the_fingerprint_follows_the_content(tmp_path):
    first = manifest.read(written(tmp_path, row())).fingerprint
    assert manifest.read(written(tmp_path, row())).fingerprint == first
    assert manifest.read(written(tmp_path, row(1))).fingerprint != first


def test_a_stream_survives_its_first_damaged_piece():
    damage = Damage("here", share=0.01, allowed=1)
    damage.note("piece 1", "broken")
    damage.check(1)
    damage.note("piece 2", "broken")
    with pytest.raises(ValueError, match="piece 1: broken"):
        damage.check(2)
