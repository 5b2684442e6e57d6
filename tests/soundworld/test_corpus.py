"""A corpus is the same however it is written, goes on after a stop, tells its rows as data/README.md says, and never
mixes with another one."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiostory.dataset import manifest
from audiostory.soundworld import corpus
from audiostory.soundworld.continuations import make_continuation
from audiostory.soundworld.corpus import CROSSFADE_SECONDS, Corpus, clip_seconds, render_event, write_corpus
from audiostory.soundworld.questions import make_quiz
from audiostory.soundworld.sounds import SAMPLE_RATE, Sound
from audiostory.soundworld.stories import class_in_text, make_story

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_soundworld.py"


def rows_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "corpus"
    write_corpus(folder, kind="story", split="val", num=6, seed=20, whole=True)
    return folder


def test_rows_tell_the_stories_and_the_truth(told):
    rows = rows_of(told)
    assert [row["id"] for row in rows] == [f"val-{seed:06d}" for seed in range(20, 26)]
    for seed, row in zip(range(20, 26), rows, strict=True):
        story = make_story(seed, "val")
        assert row["instruction"] == story.instruction.text
        assert [event["caption"] for event in row["events"]] == [event.caption for event in story.storyline.events]
        assert tuple(Sound(**sound) for sound in row["world"]["sounds"]) == story.sounds
        assert row["world"]["cast"] == {
            "place": story.cast.place,
            "pitches": dict(story.cast.pitches),
            "seed": story.cast.seed,
        }


def test_the_training_side_reads_the_manifest(told):
    rows = manifest.read(told / "manifest.jsonl").rows
    for seed, row in zip(range(20, 26), rows, strict=True):
        story = make_story(seed, "val")
        assert row.instruction == story.instruction
        assert row.storyline == story.storyline
        assert all(clip.audio.is_file() for clip in row.clips)


def test_clips_are_16_bit_and_as_long_as_the_manifest_says(told):
    for row in rows_of(told):
        for index, event in enumerate(row["events"]):
            info = soundfile.info(told / event["audio"])
            assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
            assert info.frames == round(event["clip_seconds"] * SAMPLE_RATE)
            tail = CROSSFADE_SECONDS * (index < len(row["events"]) - 1)
            assert event["clip_seconds"] == pytest.approx(event["seconds"] + tail)


def test_a_whole_story_lasts_its_total(told):
    for row in rows_of(told):
        seconds = sum(event["seconds"] for event in row["events"])
        assert soundfile.info(told / row["audio"]).frames == round(seconds * SAMPLE_RATE)


def test_a_clip_sounds_as_the_story_says(told):
    story = make_story(20, "val")
    heard, _ = soundfile.read(told / rows_of(told)[0]["events"][0]["audio"], dtype="float32")
    np.testing.assert_allclose(heard, render_event(story, 0), atol=1e-4)
    assert len(heard) == round(clip_seconds(story, 0) * SAMPLE_RATE)


@pytest.mark.parametrize(
    ("kind", "split", "checksum"),
    [
        ("clip", "train", "d25455315c89f074"),
        ("clip", "val", "b150fe96f2e22d1e"),
        ("clip", "test", "19f78fd53c100454"),
        ("story", "train", "ea7e58fb5c4baf10"),
        ("story", "val", "4094b9e260586613"),
        ("story", "test", "7b88354092fa79bd"),
    ],
)
def test_stories_and_clips_are_those_that_models_were_trained_on(kind, split, checksum):
    asked = Corpus(kind=kind, split=split, num=1, whole=True)
    rows = [corpus.manifest_row(asked, seed, make_story(seed, split, kind)) for seed in range(40)]
    assert hashlib.sha256("\n".join(map(json.dumps, rows)).encode()).hexdigest()[:16] == checksum


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked") / "corpus"
    write_corpus(folder, kind="question", split="test", num=5, seed=20, per_story=3)
    return folder


def test_question_rows_share_the_recording_of_their_story(asked):
    rows = rows_of(asked)
    assert [row["id"] for row in rows] == [f"test-question-{seed:06d}-{k}" for seed in range(20, 25) for k in range(3)]
    for seed, of_story in zip(range(20, 25), zip(*[iter(rows)] * 3, strict=True), strict=True):
        quiz = make_quiz(seed, "test", 3)
        assert [(row["instruction"], row["answer"]) for row in of_story] == [
            (question.text, question.answer) for question in quiz.questions
        ]
        (heard,) = {row["heard"] for row in of_story}
        total = quiz.story.storyline.total_seconds
        info = soundfile.info(asked / heard)
        assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE, 1, "PCM_16")
        assert info.frames == round(total * SAMPLE_RATE)
        for row, question in zip(of_story, quiz.questions, strict=True):
            assert not {"events", "summary", "total_seconds"} & set(row)
            world = row["world"]
            assert (world["question"], tuple(world["about"])) == (question.kind, question.about)
            assert tuple(Sound(**sound) for sound in world["sounds"]) == quiz.story.sounds
            assert world["heard_seconds"] == pytest.approx(total)
            assert set(world["unseen"]) <= {"combination", "pair", "wording"}
            assert ("wording" in world["unseen"]) == question.unseen


def test_without_audio_a_question_comes_after_the_story_in_words(asked, tmp_path):
    write_corpus(tmp_path / "told", kind="question", split="test", num=5, seed=20, per_story=3, audio=False)
    for row, heard in zip(rows_of(tmp_path / "told"), rows_of(asked), strict=True):
        told = row["instruction"].removesuffix(heard["instruction"])
        captions = told.removesuffix(". ").split("; then ")
        assert [class_in_text(caption) for caption in captions] == [sound["name"] for sound in row["world"]["sounds"]]
        lines = [line for line in row["reasoning"].split("\n") if not line.startswith("asked: ")]
        assert [line.rpartition(", ")[2] for line in lines] == captions
        assert row["heard"] is None
        same = ("id", "reasoning", "answer", "world")
        assert [row[key] for key in same] == [heard[key] for key in same]


def test_the_heard_story_is_the_one_of_its_seed(asked, tmp_path):
    write_corpus(tmp_path / "whole", kind="story", split="test", num=1, seed=20, whole=True)
    heard = (asked / "audio" / "test-question-000020" / "story.wav").read_bytes()
    assert heard == (tmp_path / "whole" / "audio" / "test-000020" / "story.wav").read_bytes()


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continued") / "corpus"
    write_corpus(folder, kind="continuation", split="train", num=6, seed=7, whole=True)
    return folder


def test_continuation_rows_tell_opening_and_what_follows(continued):
    for seed, row in zip(range(7, 13), rows_of(continued), strict=True):
        made, world = make_continuation(seed), row["world"]
        assert row["id"] == f"train-continuation-{seed:06d}"
        assert row["instruction"] == made.story.instruction.text
        assert row["summary"].startswith("after ")
        assert [event["caption"] for event in row["events"]] == [event.caption for event in made.story.storyline.events]
        assert tuple(Sound(**sound) for sound in world["opening"]) == made.opening.sounds
        assert tuple(Sound(**sound) for sound in world["sounds"]) == made.story.sounds
        assert tuple(world["references"]) == made.references
        frames = soundfile.info(continued / row["heard"]).frames
        assert frames == round(made.opening.storyline.total_seconds * SAMPLE_RATE)
        assert frames == round(world["heard_seconds"] * SAMPLE_RATE)
        assert soundfile.info(continued / row["audio"]).frames == round(
            sum(event["seconds"] for event in row["events"]) * SAMPLE_RATE
        )


def test_an_opening_is_its_clips_cross_faded_and_ends_as_a_story_does(continued):
    for seed, row in zip(range(7, 13), rows_of(continued), strict=True):
        opening = make_continuation(seed).opening
        heard, _ = soundfile.read(continued / row["heard"], dtype="float32")
        last = render_event(opening, len(opening.sounds) - 1)
        alone = round((opening.storyline.events[-1].seconds - CROSSFADE_SECONDS) * SAMPLE_RATE)
        np.testing.assert_allclose(heard[-alone:], last[-alone:], atol=1e-4)


def test_what_comes_again_has_the_same_voice_and_other_strokes(continued):
    assert any(index is not None for row in rows_of(continued) for index in row["world"]["references"])
    for seed, row in zip(range(7, 13), rows_of(continued), strict=True):
        made = make_continuation(seed)
        for index, event in enumerate(row["events"]):
            heard, _ = soundfile.read(continued / event["audio"], dtype="float32")
            np.testing.assert_allclose(heard, render_event(made.story, index, len(made.opening.sounds)), atol=1e-4)
            if index < len(made.opening.sounds):
                assert not np.allclose(heard, render_event(made.story, index), atol=1e-2)


@pytest.mark.parametrize("kind", ["question", "continuation"])
def test_the_training_side_reads_what_is_heard(kind, asked, continued):
    folder = asked if kind == "question" else continued
    for row, data in zip(manifest.read(folder / "manifest.jsonl").rows, rows_of(folder), strict=True):
        assert row.heard_key == data["heard"]
        assert row.instruction.audio == folder / data["heard"]
        assert row.instruction.audio.is_file()
        assert row.answer == data.get("answer", "")
        assert len(row.clips) == len(data.get("events", ()))


def test_questions_and_continuations_are_summed_up_too(asked, continued):
    summary = write_corpus(asked, kind="question", split="test", num=5, seed=20, per_story=3)
    seconds = {row["world"]["seed"]: row["world"]["heard_seconds"] for row in rows_of(asked)}
    assert (summary.num_rows, summary.num_written) == (15, 0)
    assert summary.seconds == pytest.approx(sum(seconds.values()))
    summary = write_corpus(continued, kind="continuation", split="train", num=6, seed=7, whole=True)
    rows = rows_of(continued)
    heard = sum(row["world"]["heard_seconds"] for row in rows)
    assert summary.seconds == pytest.approx(
        heard + sum(event["clip_seconds"] for row in rows for event in row["events"])
    )


@pytest.mark.parametrize("kind", ["clip", "question", "continuation"])
def test_the_number_of_workers_does_not_matter(tmp_path, kind):
    arguments = {"kind": kind, "split": "train", "num": corpus.ROWS_PER_PART + 3, "audio": False}
    one = write_corpus(tmp_path / "one", **arguments)
    two = write_corpus(tmp_path / "two", **arguments, workers=2)
    assert one == two
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "ROWS_PER_PART", 2)
    arguments = {"kind": "clip", "split": "test", "num": 5}
    write_corpus(tmp_path / "straight", **arguments)

    def render_or_stop(story, index, num_before):
        if story == make_story(3, "test", "clip"):
            raise KeyboardInterrupt
        return render_event(story, index, num_before)

    folder = tmp_path / "stopped"
    monkeypatch.setattr(corpus, "render_event", render_or_stop)
    with pytest.raises(KeyboardInterrupt):
        write_corpus(folder, **arguments)
    assert not (folder / "manifest.jsonl").exists()
    assert [path.name for path in (folder / "parts").iterdir()] == ["00000000.jsonl"]
    monkeypatch.setattr(corpus, "render_event", render_event)
    progress = []
    summary = write_corpus(folder, **arguments, on_rows=progress.append)
    assert summary.num_written == 3
    assert progress == [2, 2, 1]
    assert content_of(folder) == content_of(tmp_path / "straight")


def test_a_finished_corpus_is_left_as_it_is(told):
    before = content_of(told)
    summary = write_corpus(told, kind="story", split="val", num=6, seed=20, whole=True)
    assert (summary.num_rows, summary.num_written) == (6, 0)
    assert sum(summary.num_events.values()) == 6
    assert content_of(told) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num": 7}, "num 6 .asked now: 7"), ({"split": "test"}, "split val"), ({"whole": False}, "whole True")],
)
def test_another_corpus_in_the_folder_is_an_error(told, change, message):
    with pytest.raises(ValueError, match=message):
        write_corpus(told, **{"kind": "story", "split": "val", "num": 6, "seed": 20, "whole": True, **change})


def test_mixed_frames_make_another_corpus_of_the_same_stories(tmp_path):
    def written(folder, mixed):
        write_corpus(tmp_path / folder, kind="story", split="train", num=30, audio=False, mixed=mixed)
        return rows_of(tmp_path / folder)

    plain, mixed = written("plain", False), written("mixed", True)
    assert [row["events"] for row in plain] == [row["events"] for row in mixed]
    assert [row["instruction"] for row in plain] != [row["instruction"] for row in mixed]
    with pytest.raises(ValueError, match=r"mixed True .asked now: None"):
        written("mixed", False)


@pytest.fixture
def small(tmp_path):
    write_corpus(tmp_path / "small", kind="clip", split="train", num=1)
    return tmp_path / "small"


def test_a_world_that_sounds_otherwise_by_now_is_an_error(small):
    claim = json.loads((small / "corpus.json").read_text())
    claim["world"]["sounds"]["drum"][0] *= 1.1
    (small / "corpus.json").write_text(json.dumps(claim))
    with pytest.raises(ValueError, match=r"other sounds \(drum\)"):
        write_corpus(small, kind="clip", split="train", num=1)


def test_a_changed_manifest_is_an_error(small):
    (small / "manifest.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="was changed"):
        write_corpus(small, kind="clip", split="train", num=1)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="not empty"):
        write_corpus(tmp_path, kind="clip", split="train", num=1)
    with pytest.raises(ValueError, match="is a file"):
        write_corpus(tmp_path / "thesis.txt", kind="clip", split="train", num=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "tale"},
        {"split": "dev"},
        {"num": 0},
        {"seed": -1},
        {"workers": 0},
        {"whole": True, "audio": False},
        {"per_story": 4},
        {"kind": "question", "per_story": 0},
        {"kind": "question", "per_story": 13},
        {"kind": "question", "whole": True},
        {"mixed": True},
        {"kind": "story", "split": "test", "mixed": True},
    ],
)
def test_arguments_without_sense_write_nothing(tmp_path, wrong):
    with pytest.raises(ValueError):  # noqa: PT011
        write_corpus(tmp_path / "new", **{"kind": "clip", "split": "train", "num": 1, **wrong})
    assert not (tmp_path / "new").exists()


def command(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_writes_a_corpus_and_sums_it_up(tmp_path):
    done = command(tmp_path / "new", "--num", 2, "--kind", "clip")
    assert done.returncode == 0, done.stderr
    assert "2 rows (2 new)" in done.stdout
    assert len(rows_of(tmp_path / "new")) == 2


def test_the_command_asks_as_many_questions_as_told(tmp_path):
    arguments = (tmp_path / "new", "--num", 3, "--kind", "question", "--no-audio")
    done = command(*arguments, "--per_story", 2)
    assert done.returncode == 0, done.stderr
    assert "6 rows (6 new)" in done.stdout
    assert all(row["heard"] is None for row in rows_of(tmp_path / "new"))
    done = command(*arguments)
    assert done.returncode == 2
    assert "per_story 2 (asked now: 4)" in done.stderr


def test_help_comes_without_heavy_imports():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", SCRIPT, "--help"], capture_output=True, text=True, timeout=60
    )
    assert "--whole" in done.stdout
    assert "numpy" not in done.stderr


@pytest.mark.parametrize("arguments", [["--num", "0"], ["--kind", "tale"]])
def test_a_mistake_in_the_command_exits_with_2_and_no_traceback(tmp_path, arguments):
    done = command(tmp_path / "new", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()
