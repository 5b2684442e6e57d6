"""Truths and told stories are read from disk; what is not one is named."""

import json

import pytest
from benchmark.cases import beep, write_manifest

from audiostory import sound
from audiostory.benchmark import audio_files
from audiostory.benchmark.items import PITCHLESS, as_told, read_told, read_truth
from audiostory.soundworld.continuations import make_continuation
from audiostory.soundworld.corpus import write_corpus


def rewrite(manifest, change):
    lines = manifest.read_text().splitlines()
    row = json.loads(lines[1])
    change(row)
    manifest.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]))


def test_a_row_gives_the_instruction_the_storyline_and_the_truth(corpus):
    story = read_truth(corpus)[2]
    assert story.id == "test-000002"
    assert story.instruction.total_seconds == 3.0
    assert [event.caption for event in story.storyline.events] == [event.caption for event in story.events]
    assert [event.start for event in story.storyline.events] == [0.0, 1.0, 2.0]
    assert [(event.name, event.register, event.place) for event in story.events] == [
        ("rain", PITCHLESS, "hall"),
        ("bell", "low", "hall"),
        ("dog", "low", "hall"),
    ]
    assert all(event.audio.is_file() for event in story.events)


def test_a_length_that_nobody_asked_for_is_none(corpus):
    assert read_truth(corpus)[1].instruction.total_seconds is None


def test_a_continuation_is_read_with_its_opening(tmp_path):
    write_corpus(tmp_path / "c", kind="continuation", split="test", num=3)
    for seed, story in enumerate(read_truth(tmp_path / "c" / "manifest.jsonl")):
        made = make_continuation(seed, "test")
        assert story.instruction.text == made.story.instruction.text
        assert story.instruction.audio == tmp_path / "c" / "audio" / story.id / "opening.wav"
        assert story.instruction.audio.is_file()
        assert story.storyline == made.story.storyline
        assert story.opening == tuple(event.caption for event in made.opening.storyline.events)
        assert story.references == made.references
        assert [event.name for event in story.events] == [sound.name for sound in made.story.sounds]


def test_a_story_has_no_opening(corpus):
    story = read_truth(corpus)[0]
    assert (story.opening, story.references, story.instruction.audio) == ((), (), None)


def test_a_question_is_no_story(tmp_path):
    write_corpus(tmp_path / "q", kind="question", split="test", num=1, audio=False)
    with pytest.raises(ValueError, match="read_questions"):
        read_truth(tmp_path / "q" / "manifest.jsonl")


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("world"),
        lambda row: row.update(world=None),
        lambda row: row.update(total_seconds="soon"),
        lambda row: row["world"]["sounds"].append({"name": "dog"}),
        lambda row: row.update(events=[1]),
        lambda row: row.update(id="../up"),
        lambda row: row.update(id="test-000000"),
    ],
)
def test_a_row_that_is_none_is_named_by_its_line(tmp_path, change):
    manifest = write_manifest(tmp_path, [["dog"], ["rain"], ["bell"]], audio=False)
    rewrite(manifest, change)
    with pytest.raises(ValueError, match="line 2"):
        read_truth(manifest)


def test_a_missing_or_empty_manifest_says_what_writes_one(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest at .*make_soundworld"):
        read_truth(tmp_path / "manifest.jsonl")
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(ValueError, match="no rows"):
        read_truth(tmp_path / "manifest.jsonl")


def tell(folder, captions=("a dog barks",)):
    clip = sound.Waveform(samples=beep(500, 1.5, False, 1), sample_rate=16_000)
    for number in range(len(captions)):
        sound.write(folder / f"{number}.wav", clip)
    sound.write(folder / "story.wav", clip)
    events = [{"caption": caption, "audio": f"{number}.wav"} for number, caption in enumerate(captions)]
    (folder / "storyline.json").write_text(json.dumps({"events": events}))


def test_a_told_story_is_read_with_its_measured_length(tmp_path):
    tell(tmp_path / "s", ("a dog barks", "rain"))
    story = read_told(tmp_path / "s")
    assert (story.id, story.captions, story.seconds) == ("s", ("a dog barks", "rain"), 1.5)
    assert story.clips == (tmp_path / "s" / "0.wav", tmp_path / "s" / "1.wav")


def test_a_failure_is_a_story_of_nothing(tmp_path):
    (tmp_path / "failure.json").write_text("{}")
    assert read_told(tmp_path) == read_told(tmp_path).__class__(id=tmp_path.name)


@pytest.mark.parametrize("name", ["storyline.json", "story.wav", "0.wav"])
def test_an_unfinished_story_is_not_scored_as_a_bad_one(tmp_path, name):
    tell(tmp_path / "s")
    (tmp_path / "s" / name).unlink()
    with pytest.raises(ValueError, match=name):
        read_told(tmp_path / "s")


@pytest.mark.parametrize("content", ["", "[]", '{"events": [{"caption": "x"}]}', '{"events": []}'])
def test_a_record_that_is_none_is_named(tmp_path, content):
    tell(tmp_path / "s")
    (tmp_path / "s" / "storyline.json").write_text(content)
    with pytest.raises(ValueError, match="holds no told story"):
        read_told(tmp_path / "s")


@pytest.mark.parametrize("name", ["../0.wav", "/etc/0.wav", "", None, 7])
def test_a_clip_outside_the_storys_folder_is_not_read(tmp_path, name):
    tell(tmp_path / "s")
    sound.write(tmp_path / "0.wav", sound.read(tmp_path / "s" / "0.wav"))
    (tmp_path / "s" / "storyline.json").write_text(json.dumps({"events": [{"caption": "x", "audio": name}]}))
    with pytest.raises(ValueError, match="is no name of a file in"):
        read_told(tmp_path / "s")


@pytest.mark.parametrize("name", ["story.wav", "0.wav"])
def test_a_file_that_is_damaged_or_too_long_is_named(tmp_path, monkeypatch, name):
    tell(tmp_path / "s")
    whole = (tmp_path / "s" / name).read_bytes()
    (tmp_path / "s" / name).write_bytes(b"no sound")
    with pytest.raises(ValueError, match=rf"{name} cannot be read as audio"):
        read_told(tmp_path / "s")
    (tmp_path / "s" / name).write_bytes(whole)
    monkeypatch.setattr(audio_files, "MOST_SAMPLES", 1000)
    with pytest.raises(ValueError, match=r"wav is too long, 2 s of 1 channels"):
        read_told(tmp_path / "s")


def test_a_recording_without_a_plan_is_told_what_is_expected(tmp_path):
    sound.write(tmp_path / "s.wav", sound.Waveform(samples=beep(500, 1.5, False, 1), sample_rate=16_000))
    with pytest.raises(ValueError, match=r"s\.wav comes without a plan, .* expected a folder .*storyline\.json"):
        read_told(tmp_path / "s")


def test_the_truth_can_stand_for_a_told_story(corpus):
    story = read_truth(corpus)[0]
    told = as_told(story, [event.audio for event in story.events])
    assert told.captions == ("a dog barks twice", "rain comes down")
    assert told.seconds == story.instruction.total_seconds
