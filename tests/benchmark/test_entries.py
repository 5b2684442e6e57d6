"""From files on disk to what the page shows of them."""

import json

import pytest
from benchmark.cases import heard, truth, write_manifest

from audiostory import sound
from audiostory.benchmark.distribution import KL
from audiostory.benchmark.entries import entries, heard_stories, sound_world_items
from audiostory.benchmark.items import ToldStory, as_told, read_truth
from audiostory.benchmark.page import Mark
from audiostory.benchmark.recorded import read_recorded, read_references


@pytest.fixture
def truths(tmp_path):
    return read_truth(write_manifest(tmp_path / "corpus", [("dog", "rain"), ("bell", "dog")]))


def test_true_clips_are_joined_once_and_a_whole_story_is_used_as_it_is(truths, tmp_path):
    items = sound_world_items(truths, tmp_path / "truth")
    assert [item.reference for item in items] == [tmp_path / "truth" / f"{truth.id}.wav" for truth in truths]
    clips = [sound.read(event.audio).seconds for event in truths[0].events]
    assert sound.read(items[0].reference).seconds == pytest.approx(sum(clips) - 0.5, abs=1e-3)
    before = items[0].reference.stat().st_mtime_ns
    assert sound_world_items(truths, tmp_path / "truth")[0].reference.stat().st_mtime_ns == before
    (row, *_) = (tmp_path / "corpus/manifest.jsonl").read_text().splitlines()
    row = json.dumps({**json.loads(row), "audio": "audio/whole.wav"})
    (tmp_path / "corpus/manifest.jsonl").write_text(row)
    whole = read_truth(tmp_path / "corpus/manifest.jsonl")
    assert sound_world_items(whole, tmp_path / "x")[0].reference == tmp_path / "corpus/audio/whole.wav"


def test_a_corpus_without_sound_has_no_references(tmp_path):
    truths = read_truth(write_manifest(tmp_path / "mute", [("dog",)], audio=False))
    assert sound_world_items(truths, tmp_path / "truth")[0].reference is None
    assert not (tmp_path / "truth").exists()


def test_what_was_told_stands_beside_the_truth_and_a_failure_gives_its_reason(truths, tmp_path):
    items, folder = sound_world_items(truths, tmp_path / "truth"), tmp_path / "told"
    first, second = (truth.id for truth in truths)
    sound.write(folder / f"{first}.wav", sound.read(items[0].reference))
    (folder / second).mkdir()
    (folder / second / "failure.json").write_text('{"reason": "no complete event"}')
    columns = {"truth": read_references(items), "told": read_recorded(folder, items)}
    answers = [[heard("dog"), heard("owl")], []]
    stories = [as_told(truths[0], ()), ToldStory(id=second)]
    shown = entries(items, columns, {"told": heard_stories(truths, stories, answers)})
    assert [entry.id for entry in shown] == [first, second]
    assert list(shown[0].tellings) == ["truth", "told"]
    own = shown[0].tellings["told"]
    assert own.captions == ["a dog barks twice", "rain comes down"]
    assert (own.starts, own.audio) == ([0.0, 1.0], folder / f"{first}.wav")
    assert list(own.marks) == [Mark(right=True, heard="dog"), Mark(right=False, heard="owl")]
    assert own.scores["sound right"] == 0.5
    failed = shown[1].tellings["told"]
    assert (failed.audio, failed.captions) == (None, ())
    assert failed.reason == "not told: no complete event"
    assert failed.scores["sound right"] == 0.0


def test_a_story_alone_has_the_measures_that_are_asked_of_it():
    truths = [truth("x", ["dog", "bell"]), truth("y", ["rain"], total_seconds=None)]
    stories = [as_told(entry, ()) for entry in truths]
    answers = [[heard("dog"), heard("bell")], [heard("owl"), heard("rain")]]
    first, second = heard_stories(truths, stories, answers, [[heard("dog"), heard("bell")], [heard("rain")]])
    assert (first.scores["sound right"], first.scores[KL]) == (1.0, 0.0)
    assert (second.scores["sound right"], second.scores["order of sounds right"]) == (0.0, 1.0)
    assert second.scores[KL] > 5
    assert "length error (s)" in first.scores
    assert "length error (s)" not in second.scores
    assert "register right" not in first.scores  # asked of pitched sounds alone
    assert [mark.right for mark in second.marks] == [False, False]  # the second is one too many
