import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiostory.story import Event, Instruction, Storyline
from audiostory.story.prompts import RELEASED_LEAD_IN, count_span, parse_reasoning, prompt_text, reasoning_text

STORM = Storyline(
    summary="A storm passes.",
    events=(
        Event(caption="rain falls", seconds=10.2, story_detail="The farmer waits.", sound_detail="steady patter"),
        Event(caption="a dog barks twice", seconds=4.8, start=10.2),
    ),
)
STORM_TEXT = """Storyline: A storm passes.
Number of events: 2
1. [0.0, 10.2] rain falls
Story: The farmer waits.
Sound: steady patter
2. [10.2, 15.0] a dog barks twice
Story: \nSound: \n"""


def test_prompt_is_the_released_one(golden):
    instruction = Instruction(text="rain and dogs", total_seconds=3.6)
    assert prompt_text(instruction, lead=RELEASED_LEAD_IN) == golden["generate_scripted"]["prompt"]


def test_a_whole_number_of_seconds_is_told_as_a_float():
    assert "rain The total duration is 50.0 seconds.<|im_end|>" in prompt_text(
        Instruction(text="rain", total_seconds=50)
    )


def test_an_open_length_is_not_mentioned():
    assert "\nrain<|im_end|>\n" in prompt_text(Instruction(text="rain"))


@pytest.mark.parametrize("text", ["", " \n "])
def test_an_empty_instruction_is_refused(text):
    with pytest.raises(ValueError, match="instruction is empty"):
        prompt_text(Instruction(text=text))


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_an_impossible_total_is_refused(seconds):
    with pytest.raises(ValueError, match="positive number of seconds"):
        prompt_text(Instruction(text="rain", total_seconds=seconds))


def test_reasoning_layout():
    assert reasoning_text(STORM) == STORM_TEXT


def test_reasoning_reads_back():
    plan = parse_reasoning(STORM_TEXT)
    assert (plan.summary, plan.num_events, plan.faults) == ("A storm passes.", 2, ())
    assert [event.caption for event in plan.events] == ["rain falls", "a dog barks twice"]
    assert [event.seconds for event in plan.events] == [10.2, 4.8]
    assert plan.events[0].story_detail == "The farmer waits."
    assert plan.events[1].sound_detail == ""


def test_count_span_holds_the_digits_and_nothing_else():
    first, last = count_span("Storyline: x\nNumber of events: 12\n1. [") or (0, 0)
    assert "Storyline: x\nNumber of events: 12\n1. ["[first:last] == "12"
    assert count_span("There are 3 events.") is None


def test_unreadable_lines_are_faults_and_the_rest_is_kept():
    text = STORM_TEXT.replace("[10.2, 15.0]", "[10.2, ?]").replace("Storyline:", "Story line:") + "and so on"
    plan = parse_reasoning(text)
    assert [event.seconds for event in plan.events] == [10.2, None]
    assert plan.events[1].caption == "a dog barks twice"
    assert len(plan.faults) == 4
    assert '"Story line: A storm passes." does not belong to a plan' in plan.faults
    assert 'there is no line "Storyline: ..."' in plan.faults


def test_a_reversed_time_range_is_no_duration():
    assert parse_reasoning("1. [5.0, 2.0] rain").events[0].seconds is None


@given(st.text() | st.from_regex(r"(Number of events: \d+\n|\d+\. \[.*, .*\] x\n|Story: .*\n|Sound\n)*"))
def test_any_text_can_be_parsed(text):
    parse_reasoning(text)
