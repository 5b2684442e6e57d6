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
