"""Items and any system's folder of audio are read from disk; what is missing, damaged or too much is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiostory import sound, timeline
from audiostory.benchmark import audio_files
from audiostory.benchmark.metrics.duration import Lengths, rendered
from audiostory.benchmark.metrics.retrieval import EmbeddedStory, score_order
from audiostory.benchmark.recorded import (
    Item,
    RecordedStory,
    read_events,
    read_items,
    read_recorded,
    read_references,
)
from audiostory.sound import Waveform
from audiostory.story import Event, Instruction, Storyline
from audiostory.story_audio import Rendering, assemble

RATE = 8000
EVENTS = [{"caption": "rain falls", "start": 0.0, "seconds": 2.0}, {"caption": "a dog", "start": 2.0, "seconds": 1.0}]


def row(id="a", **changes):
    return {"id": id, "instruction": "rain, then a dog", "caption": "rain and a dog", "total_seconds": 3.0,
            "events": EVENTS, "reference": None, **changes}  # fmt: skip


def write_items(folder: Path, *rows) -> Path:
    file = folder / "items.jsonl"
    file.write_text("".join(json.dumps(content) + "\n" for content in rows or [row()]), encoding="utf-8")
    return file


def tone(seconds=3.0, value=0.1, rate=RATE) -> Waveform:
    """A constant, so that a piece tells where it was cut; it rises by `value` every second."""
    steps = np.floor(np.arange(round(seconds * rate)) / rate) + 1
    return Waveform(samples=(value * steps).astype(np.float32), sample_rate=rate)


@pytest.fixture
def items(tmp_path):
    return read_items(write_items(tmp_path, row("a"), row("b", total_seconds=None), row("c")))


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "system").mkdir()
    return tmp_path / "system"


def test_an_item_is_read_with_its_plan_and_its_reference_beside_the_file(tmp_path):
    (item,) = read_items(write_items(tmp_path, row(reference="truth/a.wav")))
    assert (item.id, item.caption, item.instruction.text) == ("a", "rain and a dog", "rain, then a dog")
    assert item.instruction.total_seconds == 3.0
    assert [(event.caption, event.start, event.seconds) for event in item.events] == [
        ("rain falls", 0.0, 2.0),
        ("a dog", 2.0, 1.0),
    ]
    assert item.reference == tmp_path / "truth" / "a.wav"


def test_a_row_of_a_manifest_is_an_item_with_its_own_recording_as_reference(tmp_path):
    content = {"id": "a", "instruction": "go on", "summary": "rain and a dog", "events": EVENTS, "audio": "rest.flac"}
    (item,) = read_items(write_items(tmp_path, content | {"heard": "opening.flac", "total_seconds": 3.0}))
    assert (item.caption, item.reference) == ("rain and a dog", tmp_path / "rest.flac")
    assert item.instruction == Instruction(text="go on", total_seconds=3.0, audio=tmp_path / "opening.flac")
    (bare,) = read_items(write_items(tmp_path, content | {"audio": None}))
    assert (bare.reference, bare.instruction.total_seconds, bare.instruction.audio) == (None, None, None)
    with pytest.raises(ValueError, match=r"line 1 is no item .*heard is a path or null, not 3"):
        read_items(write_items(tmp_path, content | {"heard": 3}))


@pytest.mark.parametrize("id", ["", ".", "..", "../up", "/etc/x", "a/b", "a\\b", ".hidden", "a\nb", 7, None])
def test_an_id_that_could_leave_the_folder_is_refused(tmp_path, id):
    with pytest.raises(ValueError, match=r"line 1 is no item \(the id"):
        read_items(write_items(tmp_path, row(id)))


@pytest.mark.parametrize(
    "changes",
    [
        {"total_seconds": 0},
        {"total_seconds": True},
        {"total_seconds": float("nan")},
        {"instruction": " "},
        {"caption": None},
        {"events": []},
        {"events": [1]},
        {"events": [{"caption": "x", "start": -1, "seconds": 1}]},
        {"events": [{"caption": "x", "start": 0, "seconds": 0}]},
        {"events": EVENTS[::-1]},
        {"reference": 3},
    ],
    ids=str,
)
def test_a_line_that_is_no_item_is_named(tmp_path, changes):
    with pytest.raises(ValueError, match="line 2 is no item"):
        read_items(write_items(tmp_path, row(), row("b", **changes)))


@pytest.mark.parametrize("key", list(row()))
def test_a_misspelt_key_fails_at_once_even_where_null_is_allowed(tmp_path, key):
    content = row()
    content[f"{key}s"] = content.pop(key)
    with pytest.raises(ValueError, match=f"there is no '{key}'"):
        read_items(write_items(tmp_path, content))


def test_an_id_stands_once_and_a_file_of_items_is_not_empty(tmp_path):
    with pytest.raises(ValueError, match="earlier line"):
        read_items(write_items(tmp_path, row(), row()))
    (tmp_path / "items.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no items"):
        read_items(tmp_path / "items.jsonl")


def test_a_file_of_either_kind_is_a_story_with_the_plan_of_the_item(items, folder):
    sound.write(folder / "a.wav", tone())
    sound.write(folder / "b.flac", tone(2.5))
    sound.write(folder / "c" / "story.wav", tone(1.0))
    stories = read_recorded(folder, items).stories
    assert list(stories) == ["a", "b", "c"]
    assert [story.seconds for story in stories.values()] == [3.0, 2.5, 1.0]
    assert all(story.events == items[0].events and not story.own_plan and not story.clips for story in stories.values())


def test_whatever_cannot_be_scored_is_named_and_counted(items, folder):
    sound.write(folder / "a.wav", tone())
    (folder / "b.wav").write_bytes((folder / "a.wav").read_bytes()[:5000])
    (folder / "notes.txt").write_text("mine")
    sound.write(folder / "d.wav", tone())
    found = read_recorded(folder, items)
    assert list(found.stories) == ["a"]
    assert [(fault.id, fault.kind) for fault in found.faults] == [("b", "damaged"), ("c", "missing")]
    assert "cut off" in found.faults[0].reason
    assert found.extra == ("d.wav", "notes.txt")
    missing, damaged, extra = found.notes()
    assert "1 of 3 stories are missing (c)" in missing
    assert "1 of 3 stories are damaged (b)" in damaged
    assert "2 things in the folder were not asked for (d.wav, notes.txt)" in extra


def test_a_failure_is_the_systems_own(items, folder):
    (folder / "a").mkdir()
    (folder / "a" / "failure.json").write_text('{"reason": "no complete event"}')
    fault = read_recorded(folder, items).faults[0]
    assert (fault.kind, fault.reason) == ("not told", "no complete event")


def test_the_wrong_folder_is_an_error_and_not_a_bad_system(items, folder):
    with pytest.raises(ValueError, match="no folder"):
        read_recorded(folder / "none", items)
    sound.write(folder / "other.wav", tone())
    with pytest.raises(ValueError, match=r"none of the 3 stories.*a\.wav.*it holds other\.wav"):
        read_recorded(folder, items)


@pytest.mark.parametrize("second", ["a.flac", "a/story.wav", "a/storyline.json"])
def test_two_stories_of_one_id_are_not_guessed_between(items, folder, second):
    sound.write(folder / "a.wav", tone())
    (folder / second).parent.mkdir(exist_ok=True)
    (folder / second).write_bytes((folder / "a.wav").read_bytes())
    fault = read_recorded(folder, items).faults[0]
    assert fault.kind == "damaged"
    assert "both" in fault.reason


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not audio at all"])
def test_what_is_no_audio_is_damaged(items, folder, content):
    (folder / "a.wav").write_bytes(content)
    assert read_recorded(folder, items).faults[0].kind == "damaged"


def test_samples_that_are_no_numbers_are_damage(items, folder):
    soundfile.write(folder / "a.wav", np.array([0.0, np.nan]), RATE, "FLOAT")
    assert "not numbers" in read_recorded(folder, items).faults[0].reason


def test_an_endless_file_is_not_read_into_memory(items, folder, monkeypatch):
    sound.write(folder / "a.wav", tone())
    sound.write(folder / "b.wav", tone(0.5))
    monkeypatch.setattr(audio_files, "MOST_SAMPLES", RATE)
    found = read_recorded(folder, items)
    assert list(found.stories) == ["b"]
    assert "too long, 3 s" in found.faults[0].reason


def test_clips_stand_in_the_order_of_their_numbers(tmp_path, folder):
    events = [{"caption": f"sound {k}", "start": float(k), "seconds": 1.0} for k in range(12)]
    items = read_items(write_items(tmp_path, row(events=events)))
    sound.write(folder / "a" / "story.wav", tone(12.0, 0.01))
    for k in range(12):
        sound.write(folder / "a" / "events" / f"event_{k + 1}.wav", tone(1.0 + k))
    story = read_recorded(folder, items).stories["a"]
    assert story.clip_seconds == tuple(1.0 + k for k in range(12))
    assert [clip.seconds for clip in read_events(story)] == list(story.clip_seconds)


def tell_clips(folder: Path, *names: str) -> None:
    sound.write(folder / "a" / "story.wav", tone())
    for k, name in enumerate(names):
        sound.write(folder / "a" / "events" / name, tone(1.0 + k))


def test_words_in_the_names_of_clips_do_not_order_them(items, folder):
    tell_clips(folder, "rain_1.wav", "dog_2.flac")
    assert read_recorded(folder, items).stories["a"].clip_seconds == (1.0, 2.0)


@pytest.mark.parametrize("names", [("rain.wav", "dog.wav"), ("1_rain.wav", "1_dog.wav"), ("rain.wav", "dog_2.wav")])
def test_clips_whose_order_cannot_be_told_are_damage(items, folder, names):
    tell_clips(folder, *names)
    assert "a number of its own" in read_recorded(folder, items).faults[0].reason


def test_another_number_of_clips_than_of_events_is_damage(items, folder):
    sound.write(folder / "a" / "story.wav", tone())
    sound.write(folder / "a" / "events" / "1.wav", tone(1.0))
    assert "1 clips, the plan has 2" in read_recorded(folder, items).faults[0].reason


def test_events_are_cut_from_the_whole_where_they_are_planned(items, folder):
    sound.write(folder / "a.wav", tone())
    rain, dog = read_events(read_recorded(folder, items).stories["a"])
    assert (rain.seconds, dog.seconds) == (2.0, 1.0)
    assert np.unique(rain.samples) == pytest.approx([0.1, 0.2])
    assert np.unique(dog.samples) == pytest.approx([0.3])


@pytest.mark.parametrize(("seconds", "heard"), [(2.05, False), (2.5, True), (1.0, False)])
def test_an_event_that_the_file_does_not_reach_has_no_sound(items, folder, seconds, heard):
    sound.write(folder / "a.wav", tone(seconds))
    rain, dog = read_events(read_recorded(folder, items).stories["a"])
    assert rain is not None
    assert (dog is not None) == heard


def test_clips_can_be_left_aside_for_a_system_that_has_none(items, folder):
    sound.write(folder / "a" / "story.wav", tone())
    for k in (1, 2):
        sound.write(folder / "a" / "events" / f"{k}.wav", tone(0.5))
    story = read_recorded(folder, items).stories["a"]
    assert [piece.seconds for piece in read_events(story)] == [0.5, 0.5]
    assert [piece.seconds for piece in read_events(story, cut=True)] == [2.0, 1.0]


def test_what_our_own_command_writes_is_read_with_the_systems_plan(items, folder):
    from audiostory.story_files import save

    planned = (Event(caption="drums", seconds=1.7), Event(caption="a horn", seconds=2.2, start=1.7))
    clips = timeline.cut([event.seconds for event in planned], max_clip_seconds=10, crossfade_seconds=0.5)
    waves = [tone(clip.num_samples(RATE) / RATE) for clip in clips]
    rendering = Rendering(seed=0, steps=1, guidance=1.0, crossfade_seconds=0.5)
    told = assemble(Storyline(summary="", events=planned), rendering, clips, waves, [])
    save(told, folder / "a", {"instruction": "x"}, picture=False)
    story = read_recorded(folder, items).stories["a"]
    assert story.own_plan
    assert [(event.caption, event.start, event.seconds) for event in story.events] == [
        ("drums", 0.0, 1.7),
        ("a horn", 1.7, 2.2),
    ]
    assert story.seconds == pytest.approx(3.9)
    assert story.clip_seconds == pytest.approx((2.2, 2.2))
    lengths = Lengths(asked=None, planned=(1.7, 2.2), measured=story.seconds, clips=story.clip_seconds)
    assert rendered(lengths) == pytest.approx([1.7, 2.2])


def tell(folder: Path, content) -> None:
    sound.write(folder / "a" / "story.wav", tone())
    (folder / "a" / "storyline.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_plan_without_clips_is_cut_from_the_whole(items, folder):
    tell(folder, {"events": [{"caption": "all of it", "start": 1.0, "seconds": 1.0, "audio": None}]})
    story = read_recorded(folder, items).stories["a"]
    assert story.own_plan
    (piece,) = read_events(story)
    assert np.unique(piece.samples) == pytest.approx([0.2])


@pytest.mark.parametrize("name", ["../b.wav", "/etc/passwd", "", 3, "x/../../b.wav"])
def test_a_record_names_no_file_outside_its_folder(items, folder, name):
    sound.write(folder / "b.wav", tone())
    tell(folder, {"events": [{"caption": "x", "start": 0.0, "seconds": 1.0, "audio": name}]})
    found = read_recorded(folder, items)
    assert list(found.stories) == ["b"]
    assert "no plan" in found.faults[0].reason


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", {"events": []}, {"events": [{"caption": "x"}]}, {"events": 3}, "[" * 100_000],
    ids=range(7),
)
def test_a_record_without_a_plan_is_damage(items, folder, content):
    tell(folder, content)
    assert read_recorded(folder, items).faults[0].kind == "damaged"


def test_a_record_names_the_clips_of_all_events_or_of_none(items, folder):
    tell(
        folder, {"events": [{**event, "audio": name} for event, name in zip(EVENTS, ["story.wav", None], strict=True)]}
    )
    assert "1 of 2 events" in read_recorded(folder, items).faults[0].reason


@pytest.mark.parametrize("name", ["story.wav", "1.wav"])
def test_a_story_that_was_not_finished_is_damage(items, folder, name):
    sound.write(folder / "a" / "1.wav", tone(1.0))
    tell(folder, {"events": [{"caption": "x", "start": 0.0, "seconds": 1.0, "audio": "1.wav"}]})
    assert read_recorded(folder, items).stories
    (folder / "a" / name).unlink()
    fault = read_recorded(folder, items).faults[0]
    assert (fault.kind, f"{name} is missing" in fault.reason) == ("damaged", True)


def test_references_are_read_as_if_a_system_had_told_them(tmp_path):
    sound.write(tmp_path / "truth" / "a.wav", tone())
    rows = [row("a", reference="truth/a.wav"), row("b", reference="truth/b.wav"), row("c")]
    found = read_references(read_items(write_items(tmp_path, *rows)))
    assert list(found.stories) == ["a"]
    assert [fault.kind for fault in found.faults] == ["missing", "missing"]
    assert [piece.seconds for piece in read_events(found.stories["a"])] == [2.0, 1.0]


HERTZ = (300, 600, 1200, 2400)


def pitch(samples: np.ndarray) -> np.ndarray:
    """Where the energy lies, in octaves: an embedding of tones that needs no network."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    edges = [round(hertz * len(samples) / RATE / 2**0.5) for hertz in HERTZ]
    return np.sqrt(np.add.reduceat(power, edges))


def embedded(item: Item, story: RecordedStory) -> EmbeddedStory:
    pieces = read_events(story, cut=True)
    return EmbeddedStory(
        id=item.id,
        texts=tuple(event.caption for event in item.events),
        sounds=np.stack([pitch(piece.samples[0]) for piece in pieces if piece is not None]),
        captions=np.stack([np.array(HERTZ) == int(event.caption.split()[0]) for event in item.events]).astype(float),
    )


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(HERTZ), st.integers(1, 3), st.booleans())
def test_from_the_files_on_disk_a_story_whose_clips_are_swapped_follows_its_order_worse(tmp_path, order, shift, faded):
    """The tones that the captions name, each 2 s long, joined as ours are or by hard cuts."""
    captions = [{"caption": f"{hertz} Hz", "start": 2.0 * k, "seconds": 2.0} for k, hertz in enumerate(order)]
    (item,) = read_items(write_items(tmp_path, row(events=captions)))
    seconds = 2.5 if faded else 2.0
    tones = {hertz: 0.1 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE) for hertz in HERTZ}
    scores = {}
    for name, played in (("told", order), ("swapped", [*order[shift:], *order[:shift]])):
        clips = [Waveform(samples=tones[hertz].astype(np.float32), sample_rate=RATE) for hertz in played]
        sound.write(tmp_path / name / "a.wav", sound.crossfade(clips, seconds - 2.0))
        story = read_recorded(tmp_path / name, [item]).stories["a"]
        scores[name] = {key: score.mean for key, score in score_order([embedded(item, story)]).scores.items()}
    assert scores["told"]["own caption first, of the story"] == 1.0
    assert scores["swapped"]["own caption first, of the story"] == 0.0
    assert scores["swapped"]["1 / rank of own caption, of the story"] < 1.0
