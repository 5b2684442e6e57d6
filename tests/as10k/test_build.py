"""From folders of videos to rows, gone on with wherever it was stopped, with a reason for all that is dropped."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from as10k.small_videos import BLUE, GREEN, RED, Describer, entry

from audiostory import sound
from audiostory.as10k import rows
from audiostory.as10k.build import Built, Model, Plan, build, write_manifests
from audiostory.as10k.ledger import Refused
from audiostory.as10k.settings import ClipSettings, EventSettings, RowSettings, Settings, ShotSettings
from audiostory.as10k.similarity import ColourLikeness
from audiostory.as10k.work import here
from audiostory.dataset import manifest

SETTINGS = Settings(
    natural=ShotSettings(find_shots=False, min_seconds=4.0, max_seconds=8.0),
    cartoon=ShotSettings(find_shots=True, min_seconds=1.5, max_seconds=8.0, min_shot_seconds=0.3),
    clip=ClipSettings(sample_rate=16000, side=64, frame_rate=5),
    event=EventSettings(min_event_seconds=0.5),
    row=RowSettings(fade_seconds=0.5, opening_seconds=0.5),
)
CARTOON = [(RED, 400.0, 2.0), (GREEN, 800.0, 3.0), (BLUE, 1200.0, 2.0)]


@pytest.fixture
def folders(video, tmp_path) -> dict[str, Path]:
    for name in ("natural", "cartoon"):
        (tmp_path / name).mkdir()
    video(tmp_path / "natural" / "street.mp4", [(RED, 300.0, 3.0), (GREEN, 600.0, 2.0)])
    video(tmp_path / "natural" / "short.mp4", [(RED, 300.0, 1.0)])
    (tmp_path / "natural" / "broken.mp4").write_bytes(b"no video")
    video(tmp_path / "cartoon" / "cat.mkv", CARTOON)
    return {name: tmp_path / name for name in ("natural", "cartoon")}


def plan(folders: dict[str, Path], output: Path, model: Describer | None = None, **changes) -> Plan:
    asked = Model(name="describer", ask=model or Describer(), sees=True)
    writer = Model(name="writer", ask=asked.ask)
    given = {"settings": SETTINGS, "annotator": asked, "writer": writer, "workers": here(1), **changes}
    return Plan(folders=folders, output=output, likeness=ColourLikeness(), **given)


def ids(built: Built) -> list[str]:
    return sorted(row["id"] for made in built.rows.values() for row in made)


def count(built: Built, step: str):
    return next(count for count in built.counts if count.step == step)


def stamps(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*") if file.suffix in (".flac", ".mp4")}


def test_videos_become_rows_that_training_reads(folders, tmp_path):
    built = build(plan(folders, tmp_path / "out"))
    files = write_manifests(tmp_path / "out", built.rows)
    read = [row for file in files for row in manifest.read(file, damaged_share=0.0).rows]
    assert len(read) == 2 + 3 * 3  # a natural clip is asked for in two ways, three of a cartoon in three
    for row in read:
        recordings = [clip.audio for clip in row.clips]
        for clip, audio in zip(row.clips, recordings, strict=True):
            assert sound.read(audio).seconds == pytest.approx(clip.seconds, abs=1e-3)
        if row.instruction.audio:
            assert sound.read(row.instruction.audio).seconds >= 0.5
    street = next(row for row in read if row.id.startswith("natural-street") and row.id.endswith("text"))
    assert [event.caption for event in street.storyline.events] == ["a low tone", "a high tone"]
    assert street.storyline.total_seconds == pytest.approx(5.0, abs=0.15)
    for file in files:
        for row in map(json.loads, file.read_text().splitlines()):
            assert sound.read(file.parent / row["audio"]).seconds == pytest.approx(row["total_seconds"], abs=1e-3)


def test_everything_dropped_has_a_reason_and_the_counts_add_up(folders, tmp_path):
    built = build(plan(folders, tmp_path / "out"))
    assert dict(count(built, "videos").reasons) == {"damaged": 1}
    assert count(built, "videos").dropped[0]["key"] == "natural/broken.mp4"
    assert dict(count(built, "shots").reasons) == {"shorter than 4 s": 1}
    for line in built.counts:
        assert line.found == line.kept + sum(line.reasons.values()) + line.unanswered, line
        assert len(line.dropped) == sum(line.reasons.values())


def test_dubbing_rows_are_a_cartoons_and_name_a_video_that_is_there(folders, tmp_path):
    built = build(plan(folders, tmp_path / "out"))
    dubbed = [(split, row) for split, made in built.rows.items() for row in made if row["variant"] == "dubbing"]
    assert len(dubbed) == 3
    assert all((tmp_path / "out" / split / row["video"]).is_file() for split, row in dubbed)
    assert all(row["source"]["video"] == "cartoon/cat.mkv" for _, row in dubbed)


def test_a_second_run_makes_nothing_and_asks_nobody(folders, tmp_path):
    first = build(plan(folders, tmp_path / "out"))
    before, model = stamps(tmp_path / "out"), Describer()
    again = build(plan(folders, tmp_path / "out", model))
    assert again.rows == first.rows
    assert model.asked == []
    assert stamps(tmp_path / "out") == before
    assert [line.new for line in again.counts if line.step not in ("rows", "sequences")] == [0] * 6


def test_several_workers_make_the_same_rows(folders, tmp_path):
    one = build(plan(folders, tmp_path / "one"))
    assert build(plan(folders, tmp_path / "three", workers=here(3))).rows == one.rows


def test_a_run_that_was_stopped_goes_on_with_what_is_left(folders, tmp_path):
    model = Describer()
    with pytest.raises(KeyboardInterrupt):
        build(plan(folders, tmp_path / "out", _stops_after(model, 5)))
    asked = len(model.asked)
    built = build(plan(folders, tmp_path / "out", model))
    # 4 clips are 4 annotations and 4 times two texts; the one that was stopped may have been asked for in part.
    assert asked == 5
    assert len(model.asked) <= 12 + 1
    assert built.rows == build(plan(folders, tmp_path / "other")).rows


def _stops_after(model: Describer, num: int):
    def ask(prompt, media):
        if len(model.asked) == num:
            raise KeyboardInterrupt
        return model(prompt, media)

    return ask


def test_a_lost_file_is_made_anew_and_nothing_else(folders, tmp_path):
    build(plan(folders, tmp_path / "out"))
    before = stamps(tmp_path / "out")
    lost = next((tmp_path / "out").glob("*/audio/natural-*/0.flac"))
    lost.unlink()
    model = Describer()
    built = build(plan(folders, tmp_path / "out", model))
    assert lost.is_file()
    assert model.asked == []
    assert count(built, "recordings").new == 1
    untouched = [name for name in before if lost.parent.name not in name]
    assert all(stamps(tmp_path / "out")[name] == before[name] for name in untouched)


def test_another_fade_asks_no_model_and_another_caption_limit_asks_the_writer_alone(folders, tmp_path):
    build(plan(folders, tmp_path / "out"))
    model = Describer()
    other = replace(SETTINGS, row=replace(SETTINGS.row, fade_seconds=0.25))
    built = build(plan(folders, tmp_path / "out", model, settings=other))
    assert model.asked == []
    assert count(built, "recordings").new == 4
    other = replace(other, story=replace(other.story, caption_words=12))
    build(plan(folders, tmp_path / "out", model, settings=other))
    assert len(model.asked) == 8
    assert all(media is None for _, media in model.asked)


def test_a_changed_video_is_done_anew_and_the_others_stay(folders, tmp_path, video):
    before = build(plan(folders, tmp_path / "out"))
    video(folders["natural"] / "street.mp4", [(BLUE, 500.0, 3.0), (GREEN, 700.0, 3.0)])
    model = Describer()
    after = build(plan(folders, tmp_path / "out", model))
    assert len(model.asked) == 3
    assert ids(after) == ids(before)
    street = next(row for made in after.rows.values() for row in made if row["id"].startswith("natural-street"))
    assert street["total_seconds"] > 5.5


def test_videos_that_come_later_move_none_across_the_split(folders, tmp_path, video):
    def sides(built: Built) -> dict[str, str]:
        return {row["id"]: split for split, made in built.rows.items() for row in made}

    before = sides(build(plan(folders, tmp_path / "out")))
    names = [f"later{number}.mp4" for number in range(30)]
    chosen = [next(name for name in names if rows.split_of(name, SETTINGS.row) == side) for side in ("train", "test")]
    for number, name in enumerate(chosen):
        video(folders["natural"] / name, [(RED, 300.0 + 50 * number, 3.0), (BLUE, 500.0, 2.0)])
    after = sides(build(plan(folders, tmp_path / "out")))
    assert before.items() <= after.items()
    assert set(after.values()) == {"train", "test"}


def test_no_video_has_clips_on_both_sides(folders, tmp_path):
    for share in (0.0, 0.3, 1.0):
        settings = replace(SETTINGS, row=replace(SETTINGS.row, test_share=share))
        built = build(plan(folders, tmp_path / "out", settings=settings))
        sources = [{row["source"]["video"] for row in made} for made in built.rows.values()]
        assert not sources[0] & sources[1]
        sides = [{row["audio"] or row["heard"] for row in made} for made in built.rows.values()]
        assert not sides[0] & sides[1]


def test_a_copy_of_a_video_is_dropped_whatever_it_is_called(folders, tmp_path):
    first = build(plan(folders, tmp_path / "out"))
    (folders["natural"] / "a copy.mp4").write_bytes((folders["natural"] / "street.mp4").read_bytes())
    built = build(plan(folders, tmp_path / "out"))
    assert count(built, "videos").reasons["the same file as another"] == 1
    assert ids(built) == ids(first)  # the one that was there first stays, though the copy's name comes before it


def test_answers_that_cannot_be_used_are_asked_for_again_and_then_drop_the_clip(folders, tmp_path):
    model = Describer(["no", "no"])  # of the first clip
    built = build(plan(folders, tmp_path / "out", model))
    assert dict(count(built, "events").reasons) == {"events not usable": 1}
    model = Describer()
    assert count(build(plan(folders, tmp_path / "out", model)), "events").kept == 3
    assert model.asked == []
    assert count(build(plan(folders, tmp_path / "out", model, again=True)), "events").kept == 4


def test_a_clip_without_an_answer_is_not_dropped_but_left_for_the_next_run(folders, tmp_path):
    built = build(plan(folders, tmp_path / "out", Describer([ConnectionError("429")])))
    events = count(built, "events")
    assert (events.found, events.kept, events.unanswered, dict(events.reasons)) == (4, 3, 1, {})
    assert count(build(plan(folders, tmp_path / "out")), "events").kept == 4


def test_a_model_that_is_not_there_ends_the_run(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("audiostory.as10k.work.GIVE_UP", 3)
    with pytest.raises(ValueError, match=r"no answer for 3 in a row, the last one: .*gone"):
        build(plan(folders, tmp_path / "out", Describer([ConnectionError("gone")] * 9)))


def test_a_video_that_cannot_be_opened_now_is_named_and_tried_again_by_the_next_run(folders, tmp_path, monkeypatch):
    real = os.open

    def lost(path, *flags):
        if Path(path).name == "cat.mkv":
            raise PermissionError(13, "Permission denied")
        return real(path, *flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", lost)
        videos = count(build(plan(folders, tmp_path / "out")), "videos")
    assert dict(videos.reasons) == {"damaged": 1, "cannot be read now": 1}
    assert {"key": "cartoon/cat.mkv", "detail": "Permission denied"}.items() <= videos.dropped[-1].items()
    assert videos.found == videos.kept + sum(videos.reasons.values())
    assert dict(count(build(plan(folders, tmp_path / "out")), "videos").reasons) == {"damaged": 1}


def test_one_refused_clip_is_dropped_where_the_model_answers_about_others(folders, tmp_path):
    built = build(plan(folders, tmp_path / "out", Describer([Refused("refused", "400")])))
    assert dict(count(built, "events").reasons) == {"refused": 1}
    model = Describer()
    assert count(build(plan(folders, tmp_path / "out", model)), "events").kept == 3
    assert model.asked == []


def test_what_a_model_refuses_that_answers_nothing_is_left_for_the_next_run(folders, tmp_path):
    built = build(plan(folders, tmp_path / "out", Describer([Refused("refused", "400")] * 4)))
    assert (count(built, "events").unanswered, dict(count(built, "events").reasons)) == (4, {})
    assert count(build(plan(folders, tmp_path / "out")), "events").kept == 4


def test_a_clip_that_is_asked_about_again_in_vain_stays_dropped_and_is_counted_once(folders, tmp_path):
    build(plan(folders, tmp_path / "out", Describer(["no", "no"])))
    again = build(plan(folders, tmp_path / "out", Describer([ConnectionError("429")]), again=True))
    events = count(again, "events")
    assert (events.kept, events.unanswered, dict(events.reasons)) == (3, 0, {"events not usable": 1})


def test_clips_that_tell_no_story_are_dropped(folders, tmp_path):
    built = build(plan(folders, tmp_path / "out", Describer(events=lambda seconds: [entry(0.0, 1.0)])))
    assert dict(count(built, "sequences").reasons) == {"fewer than 2 main events": 4}
    assert ids(built) == []


def test_before_the_models_it_stops_where_it_is_told_to(folders, tmp_path):
    stopped = plan(folders, tmp_path / "out", annotator=None, writer=None, until="clips")
    assert [line.step for line in build(stopped).counts] == ["videos", "shots", "clips"]
    with pytest.raises(ValueError, match="asks a model, and there is no annotator"):
        build(replace(stopped, until="events"))


@pytest.mark.parametrize("place", [".", "inside"])
def test_an_output_among_the_videos_is_refused(folders, place):
    with pytest.raises(ValueError, match="lies in the folder of videos"):
        build(plan(folders, folders["natural"] / place))
