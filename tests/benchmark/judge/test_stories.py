"""What is judged: told stories, other systems' recordings, and the shuffled control."""

import json

import pytest
from benchmark.judge.loopback import write_tone

from audiostory.benchmark.judge.calls import Identity, Plan, axis_calls
from audiostory.benchmark.judge.prompts import AXES
from audiostory.benchmark.judge.stories import read_items, read_recordings, read_told, shuffled


def test_told_stories_bring_their_instruction_and_their_plan(told):
    stories, untold = read_told(told)
    assert [story.id for story in stories] == ["story-0", "story-1", "story-2"]
    assert untold == []
    assert stories[1].asked == "a tone of 600 Hz"
    assert (
        stories[1].plan == "a tone\n1. 0.0 s to 0.5 s: a tone of 600 Hz\n\nThe reasoning as the system wrote it:\none"
    )
    assert stories[1].seconds == pytest.approx(0.5)


def test_one_story_can_be_given_by_its_own_folder(told):
    stories, _ = read_told(told / "story-1")
    assert [story.id for story in stories] == ["story-1"]


def test_a_story_that_could_not_be_told_is_named_and_not_judged(told):
    (told / "story-1" / "failure.json").write_text('{"reason": "no event"}')
    stories, untold = read_told(told)
    assert [story.id for story in stories] == ["story-0", "story-2"]
    assert untold == ["story-1"]


def test_an_unfinished_story_is_an_error_and_no_bad_story(told):
    (told / "story-1" / "story.wav").unlink()
    with pytest.raises(ValueError, match=r"story-1 holds no story\.wav: the story was not finished"):
        read_told(told)


def test_a_continuation_tells_where_it_begins(told):
    file = told / "story-0" / "storyline.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "begins_in_story": 5.9}))
    assert "first 5.9 seconds are a given recording" in read_told(told)[0][0].asked


def test_items_replace_the_instructions_and_bring_the_length(told, tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text('{"id": "story-2", "instruction": "a high tone", "total_seconds": 12}\n')
    stories, _ = read_told(told, read_items(items))
    assert [story.asked for story in stories] == ["a high tone\nTotal length: 12.0 seconds."]
    items.write_text('{"id": "story-7", "instruction": "a high tone"}\n')
    with pytest.raises(ValueError, match="lacks 1 of 1 stories, such as 'story-7'"):
        read_told(told, read_items(items))


def test_recordings_of_any_system_have_no_plan(tmp_path):
    write_tone(tmp_path / "a.wav", 300)
    (tmp_path / "items.jsonl").write_text('{"id": "a", "instruction": "a tone"}\n')
    items = read_items(tmp_path / "items.jsonl")
    (story,) = read_recordings(tmp_path, items)
    assert (story.id, story.instruction, story.plan) == ("a", "a tone", None)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match=r"1 of 1 recordings are missing, such as .*a\.wav"):
        read_recordings(tmp_path, items)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('{"id": "a"}\n', "line 1 is no item"),
        ('{"id": "a", "instruction": "  "}\n', "line 1 is no item"),
        ('{"id": 3, "instruction": "x"}\n', "line 1 is no item"),
        ('{"id": "a", "instruction": "x"}\n' * 2, "line 2: the id 'a' is not new"),
        ('{"id": "../a", "instruction": "x"}\n', "no name for a file"),
        ("\n", "holds no items"),
    ],
)
def test_a_bad_line_of_items_is_named(tmp_path, lines, problem):
    (tmp_path / "items.jsonl").write_text(lines)
    with pytest.raises(ValueError, match=problem):
        read_items(tmp_path / "items.jsonl")


def test_shuffled_stories_keep_their_instruction_and_get_the_sound_and_plan_of_another(told):
    stories, _ = read_told(told)
    for before, after in zip(stories, shuffled(stories, seed=1), strict=True):
        assert (after.id, after.instruction) == (before.id, before.instruction)
        assert after.audio != before.audio
        assert after.plan != before.plan
        assert (after.audio, after.plan) in [(story.audio, story.plan) for story in stories]
    with pytest.raises(ValueError, match="at least 2"):
        shuffled(stories[:1], seed=1)


def test_the_length_is_told_to_who_reads_the_plan_and_not_to_who_hears(told, tmp_path):
    (tmp_path / "items.jsonl").write_text('{"id": "story-2", "instruction": "a high tone", "total_seconds": 12}\n')
    stories, _ = read_told(told, read_items(tmp_path / "items.jsonl"))
    identity = Identity(backend="openai", model="m", temperature=0.0)
    calls = axis_calls(stories, list(AXES), identity, Plan(num_calls=1))
    assert {call.axis for call in calls if "12.0 seconds" in call.prompt} == {"reasoning logic"}
    assert len({call.key for call in calls}) == 4
