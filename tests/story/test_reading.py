"""Reading scripts: the inverse of writing, and whatever else a planner may write."""

import math
import re
import unicodedata
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiostory.story import Event, Instruction, Layout, Problem, ProblemKind, Storyline
from audiostory.story.prompts import reasoning_text
from audiostory.story.script import prompt, question, read, read_answer, write, write_answer

SEMANTIC = "<t5>" + "".join(f"<t5_{i:05d}>" for i in range(8)) + "</t5>"
RESIDUAL = "<aud>" + "".join(f"<aud_{i:05d}>" for i in range(4)) + "</aud>"
BRIDGE = SEMANTIC + RESIDUAL
INSTRUCTION = Instruction(text="three sounds", total_seconds=10.0)
STORY = Storyline(
    summary="Three sounds.",
    events=(
        Event(caption="rain falls", seconds=3.0, start=0.0, story_detail="Wet.", sound_detail="soft"),
        Event(caption="a dog barks", seconds=2.5, start=3.0, story_detail="It is cold.", sound_detail="near"),
        Event(caption="wind", seconds=4.5, start=5.5),
    ),
)
PLAN = reasoning_text(STORY)

# A field as `write` defines it: one line, no surrounding space, NFC, no special token (none can arise without a "<").
FIELDS = (
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Zl", "Zp"], exclude_characters="<"), max_size=12)
    .map(lambda text: unicodedata.normalize("NFC", text).strip())
    .filter(lambda text: len(text.splitlines()) <= 1)
)


@st.composite
def storylines(draw) -> Storyline:
    tenths = draw(st.lists(st.integers(1, 36000), min_size=1, max_size=7))
    events = tuple(
        Event(
            caption=draw(FIELDS.filter(bool)),
            seconds=length / 10,
            start=sum(tenths[:i]) / 10,
            story_detail=draw(FIELDS),
            sound_detail=draw(FIELDS),
        )
        for i, length in enumerate(tenths)
    )
    return Storyline(summary=draw(FIELDS), events=events)


def kinds(problems) -> list[ProblemKind]:
    return [problem.kind for problem in problems]


def captions(reading) -> list[str]:
    return [event.caption for event in reading.storyline.events]


@given(storylines(), st.booleans(), st.booleans(), st.integers(0, 60))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_reading_is_the_inverse_of_writing(vocabulary, story, with_prompt, bridge, num_listening):
    script = write(INSTRUCTION, story, vocabulary, num_listening=num_listening, bridge=bridge)
    assert len(script.listening) == num_listening == script.ids.count(vocabulary.listening)
    skipped = 0 if with_prompt else len(prompt(INSTRUCTION, vocabulary, num_listening=num_listening))
    reading = read(script.ids[skipped:], vocabulary, bridge=bridge)
    assert reading.problems == ()
    assert reading.storyline == Storyline(summary=story.summary, events=story.events, reasoning=reasoning_text(story))
    moved = [(slot.semantic.start + skipped, slot.residual.stop + skipped) for slot in reading.slots]
    assert moved == [(slot.semantic.start, slot.residual.stop) for slot in script.slots]


NO_REASONING, NO_CAPTIONS = Layout(reasoning=False), Layout(captions=False)


@given(storylines(), st.booleans(), st.booleans(), st.integers(0, 60))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_layout_without_captions_gives_them_back_from_the_reasoning(vocabulary, story, with_prompt, bridge, heard):
    script = write(INSTRUCTION, story, vocabulary, num_listening=heard, bridge=bridge, layout=NO_CAPTIONS)
    skipped = 0 if with_prompt else len(prompt(INSTRUCTION, vocabulary, num_listening=heard))
    reading = read(script.ids[skipped:], vocabulary, bridge=bridge, layout=NO_CAPTIONS)
    assert reading.problems == ()
    assert reading.storyline == replace(story, reasoning=reasoning_text(story))
    moved = [(slot.semantic.start + skipped, slot.residual.stop + skipped) for slot in reading.slots]
    assert moved == [(slot.semantic.start, slot.residual.stop) for slot in script.slots]


@given(storylines(), st.booleans(), st.booleans(), st.integers(0, 60))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_layout_without_reasoning_gives_all_but_its_texts_back(vocabulary, story, with_prompt, bridge, heard):
    script = write(INSTRUCTION, story, vocabulary, num_listening=heard, bridge=bridge, layout=NO_REASONING)
    skipped = 0 if with_prompt else len(prompt(INSTRUCTION, vocabulary, num_listening=heard))
    reading = read(script.ids[skipped:], vocabulary, bridge=bridge, layout=NO_REASONING)
    assert reading.problems == ()
    bare = tuple(replace(event, story_detail="", sound_detail="") for event in story.events)
    assert reading.storyline == Storyline(summary="", events=bare)
    moved = [(slot.semantic.start + skipped, slot.residual.stop + skipped) for slot in reading.slots]
    assert moved == [(slot.semantic.start, slot.residual.stop) for slot in script.slots]


ANSWERS = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=40)
    .map(lambda text: unicodedata.normalize("NFC", text).strip())
    .filter(bool)
)


@given(ANSWERS, FIELDS.filter(bool), st.integers(0, 60), st.just("") | ANSWERS)
@settings(deadline=None)
def test_reading_an_answer_is_the_inverse_of_writing_it(vocabulary, answer, asked, num_listening, reasoning):
    instruction = Instruction(text=asked)
    script = write_answer(instruction, answer, vocabulary, num_listening, reasoning)
    assert len(script.ids) == len(script.roles)
    assert [script.ids[place] for place in script.listening] == [vocabulary.listening] * num_listening
    assert read_answer(script.ids, vocabulary) == answer
    assert read_answer(script.ids[len(question(instruction, vocabulary, num_listening)) :], vocabulary) == answer


@given(st.lists(st.integers(-5, 400) | st.integers() | st.integers(340, 387), max_size=60))
@settings(deadline=None)
def test_any_ids_can_be_read_as_an_answer(vocabulary, ids):
    assert read_answer(ids, vocabulary) == read_answer(ids, vocabulary).strip()


def test_reasoning_before_an_answer_is_no_part_of_it_and_without_an_end_there_is_none(vocabulary):
    assert read_answer(vocabulary.encode("<|think|>1. a dog barks<|/think|>a dog<|im_end|>"), vocabulary) == "a dog"
    assert read_answer(vocabulary.encode("<|think|>1. a dog barks<|im_end|>"), vocabulary) == ""
    assert read_answer(vocabulary.encode("<|think|><|/think|>a dog<|/think|> barks"), vocabulary) == "a dog barks"


def test_an_answer_ends_with_its_turn_and_markers_are_no_part_of_it(vocabulary):
    ids = vocabulary.encode(" a dog<|gen|> barks <|im_end|>and more")
    assert read_answer(ids, vocabulary) == "a dog barks"


@given(storylines())
@settings(deadline=None)
def test_what_was_read_is_written_the_same_again(vocabulary, story):
    script = write(INSTRUCTION, story, vocabulary)
    assert write(INSTRUCTION, read(script.ids, vocabulary).storyline, vocabulary) == script


@given(st.lists(st.integers(-5, 400) | st.integers() | st.integers(340, 387), max_size=200), st.floats() | st.none())
@settings(deadline=None)
def test_any_ids_can_be_read(vocabulary, ids, total_seconds):
    for bridge, layout in product((True, False), (Layout(), NO_REASONING, NO_CAPTIONS)):
        reading = read(ids, vocabulary, total_seconds=total_seconds, bridge=bridge, layout=layout)
        assert reading.problems or reading.storyline.events
        assert all(math.isfinite(event.seconds) and event.seconds > 0 for event in reading.storyline.events)


DAMAGE = st.lists(
    st.tuples(st.sampled_from(["delete", "insert", "repeat", "cut"]), st.floats(0, 1), st.integers(330, 388)),
    max_size=3,
)


def damaged(ids: list[int], damage) -> list[int]:
    ids = list(ids)
    for kind, where, token in damage:
        place = int(where * len(ids))
        if kind == "delete":
            del ids[place : place + 1]
        elif kind == "insert":
            ids.insert(place, token)
        elif kind == "repeat":
            ids[place:place] = ids[place : place + 6]
        else:
            del ids[place:]
    return ids


def contains(ids: list[int], run: list[int]) -> bool:
    return any(ids[i : i + len(run)] == run for i in range(len(ids)))


@given(DAMAGE)
@settings(max_examples=300, deadline=None)
def test_events_that_damage_spared_are_kept(vocabulary, damage):
    answer = list(write(INSTRUCTION, STORY, vocabulary).ids[len(prompt(INSTRUCTION, vocabulary)) :])
    ids = damaged(answer, damage)
    reading = read(ids, vocabulary, total_seconds=10.0)
    heard = [(event.caption, event.seconds) for event in reading.storyline.events]
    until_stop = ids[: next((i for i, token in enumerate(ids) if token in vocabulary.stop_ids), len(ids))]
    begins = [i for i, token in enumerate(answer) if token == vocabulary.gen]
    for event, begin, end in zip(STORY.events, begins, [*begins[1:], len(answer) - 1], strict=True):
        if contains(until_stop, answer[begin:end]):
            assert (event.caption, event.seconds) in heard
    assert len(reading.slots) == len(heard)
    for slot in reading.slots:
        assert tuple(ids[i] for i in slot.semantic) == vocabulary.semantic_ids
        assert tuple(ids[i] for i in slot.residual) == vocabulary.residual_ids


@pytest.mark.parametrize("layout", [Layout(), NO_REASONING, NO_CAPTIONS])
def test_a_single_lost_token_never_passes_unseen(vocabulary, layout):
    """Except in plain text, where nobody can tell, and at the end of the turn."""
    script = write(INSTRUCTION, STORY, vocabulary, layout=layout)
    answer = list(script.ids[len(prompt(INSTRUCTION, vocabulary)) : -1])
    for place, token in enumerate(answer):
        if not vocabulary.is_text(token):
            reading = read(answer[:place] + answer[place + 1 :], vocabulary, layout=layout)
            assert reading.problems, vocabulary.name(token)


def answered(vocabulary, text: str, **options):
    """What is read from an answer given as text."""
    return read(vocabulary.encode(text), vocabulary, **options)


def test_golden_duration_cases(golden, vocabulary):
    """Where the release gives None or a number that is no duration, ours is planned or estimated, and told."""
    for case in golden["extract_content_and_duration"]:
        reading = answered(vocabulary, f"<|/think|><|gen|>{case['text']}{BRIDGE}<|/gen|>", total_seconds=8.0)
        (event,) = reading.storyline.events
        if is_ours := case["duration"] in ("None", "nan", "inf", "-3.0"):
            assert event.seconds == 8.0
        else:
            assert event.seconds == float(case["duration"])
        assert is_ours == any(p.kind == ProblemKind.DURATION and "it gets 8 s" in p.message for p in reading.problems)


def test_golden_caption_cases(golden, vocabulary):
    """Ours never leave markup in a caption; otherwise they are the release's."""
    ours = {
        "</timestamp>a<timestamp>2": "a",
        "a<timestamp>1</timestamp>b<timestamp>2</timestamp>c": "abc",
        "x<timestamp>12": "x",
    }
    for case in golden["extract_content_and_duration"]:
        reading = answered(vocabulary, f"<|/think|><|gen|>{case['text']}{BRIDGE}<|/gen|>")
        assert captions(reading) == [ours.get(case["text"], case["content"])]


DOGS = f"<|gen|>dogs<timestamp>1.0</timestamp>{BRIDGE}<|/gen|>"


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("one_event_ok", f"abc<|/think|>{DOGS}<|im_end|>", ["dogs"]),
        ("no_think_close", f"abc{DOGS}<|im_end|>", ["dogs"]),
        ("no_events", "abc<|/think|><|im_end|>", []),
        ("extra_gen_open", f"abc<|/think|><|gen|>x<|/gen|>{DOGS}<|im_end|>", ["dogs"]),
        ("truncated_second_event", f"abc<|/think|>{DOGS}<|gen|>cats<timestamp>1", ["dogs"]),
    ],
)
def test_golden_edge_cases(golden, vocabulary, case, text, expected):
    """The release gives nothing at all for three of these, and markup in a caption for a fourth (SPEC 9, finding 6)."""
    assert case in golden["edge_generation"]
    reading = answered(vocabulary, text)
    assert captions(reading) == expected
    assert reading.storyline.reasoning == "abc"


@pytest.mark.parametrize(
    ("text", "kind", "event", "message"),
    [
        (
            f"{PLAN}{DOGS}",
            ProblemKind.NO_REASONING_END,
            None,
            "not closed by <|/think|>; it is taken to end at the first",
        ),
        (PLAN, ProblemKind.NO_REASONING_END, None, "no event follows it"),
        (f"abc<|/think|>{DOGS}", ProblemKind.REASONING, None, "free text, not in the layout of a plan"),
        (f"<|/think|>{DOGS}", ProblemKind.REASONING, None, "no event is planned"),
        (f"{PLAN}<|/think|>{DOGS}", ProblemKind.EVENT_COUNT, None, "announces 3 events, and 1 were written completely"),
        (f"Number of events: 1\n{PLAN[46:]}<|/think|>{DOGS}", ProblemKind.REASONING, None, '"Storyline: ..."'),
        ("<|/think|>", ProblemKind.EVENT_COUNT, None, "holds no complete event"),
        (
            f"<|/think|><|gen|>a{SEMANTIC}<aud><aud_00000>",
            ProblemKind.BROKEN_OFF,
            1,
            "with 1 residual tokens, 4 expected",
        ),
        (
            "<|/think|><|gen|>a bir",
            ProblemKind.BROKEN_OFF,
            1,
            "breaks off with no semantic tokens and no residual tokens",
        ),
        (f"<|/think|><|gen|>a<timestamp>1</timestamp>{BRIDGE}", ProblemKind.BROKEN_OFF, 1, "so it is kept"),
        (
            f"<|/think|><|gen|>a{RESIDUAL}<|/gen|>",
            ProblemKind.BRIDGE,
            1,
            "event 1 has no semantic tokens; it is left out",
        ),
        (
            f"<|/think|>{DOGS}<|gen|>a{BRIDGE.replace('<t5_00003>', '')}<|/gen|>",
            ProblemKind.BRIDGE,
            2,
            "has 7 semantic tokens, 8 expected",
        ),
        (
            f"<|/think|><|gen|>a{BRIDGE.replace('</aud>', '')}<|/gen|>",
            ProblemKind.BRIDGE,
            1,
            "residual tokens in disorder or not closed",
        ),
        (f"<|/think|><|gen|><timestamp>1</timestamp>{BRIDGE}<|/gen|>", ProblemKind.CAPTION, 1, "an empty caption"),
        (f"<|/think|><|gen|>a{BRIDGE}<|/gen|>", ProblemKind.DURATION, 1, "has no duration; it gets 10 s, estimated"),
        (
            f"<|/think|><|gen|>a<timestamp>soon</timestamp>{BRIDGE}<|/gen|>",
            ProblemKind.DURATION,
            1,
            'has an unreadable duration, "soon"; it gets',
        ),
        (f"a<timestamp>b<|/think|>{DOGS}", ProblemKind.STRAY, None, "the reasoning holds stray markers"),
        (
            f"<|/think|>a<t5>{DOGS}",
            ProblemKind.STRAY,
            None,
            'before the first event belongs to no event and is ignored: "a"',
        ),
        (f"<|/think|>{DOGS}and <|/think|>", ProblemKind.STRAY, 1, "after event 1 holds stray markers"),
        (f"<|/think|><|gen|>a<t5_00009>b{BRIDGE}<|/gen|>", ProblemKind.STRAY, 1, "event 1 holds stray markers, which"),
        (
            f"<|/think|><|gen|>a{BRIDGE}b<|/gen|>",
            ProblemKind.STRAY,
            1,
            'goes on after its bridge tokens, which is ignored: "b"',
        ),
        (f"<|/think|><|gen|>a{BRIDGE}{SEMANTIC}<|/gen|>", ProblemKind.STRAY, 1, "(a second semantic block)"),
        (f"<|/think|><|gen|>a<t5>{BRIDGE}<|/gen|>", ProblemKind.STRAY, 1, "(a broken semantic block)"),
    ],
)
def test_each_damage_is_told(vocabulary, text, kind, event, message):
    problems = answered(vocabulary, text).problems
    assert any(p.kind == kind and p.event == event and message in p.message for p in problems), problems


def test_a_missing_duration_comes_from_the_plan(vocabulary):
    script = write(INSTRUCTION, STORY, vocabulary)
    text = vocabulary.decode(script.ids).replace("<timestamp>2.5</timestamp>", "")
    reading = answered(vocabulary, text, total_seconds=99.0)
    assert [event.seconds for event in reading.storyline.events] == [3.0, 2.5, 4.5]
    message = "event 2 has no duration; it gets 2.5 s, as planned in the reasoning"
    assert reading.problems == (Problem(kind=ProblemKind.DURATION, event=2, message=message),)


def test_details_follow_the_caption_when_an_event_was_lost(vocabulary):
    text = vocabulary.decode(write(INSTRUCTION, STORY, vocabulary).ids)
    lost = text.replace("<|gen|>rain falls", "rain falls")
    reading = answered(vocabulary, lost)
    assert [(event.caption, event.story_detail) for event in reading.storyline.events] == [
        ("a dog barks", "It is cold."),
        ("wind", ""),
    ]


def test_details_follow_the_number_when_captions_differ(vocabulary):
    text = vocabulary.decode(write(INSTRUCTION, STORY, vocabulary).ids).replace("<|gen|>a dog", "<|gen|>one dog")
    assert [event.story_detail for event in answered(vocabulary, text).storyline.events] == ["Wet.", "It is cold.", ""]


def test_a_stray_opening_inside_the_reasoning_costs_no_event(vocabulary):
    text = f"{PLAN[:20]}<|gen|>{PLAN[20:]}<|/think|>{DOGS}"
    reading = answered(vocabulary, text)
    assert captions(reading) == ["dogs"]
    assert reading.storyline.reasoning == PLAN


def test_a_stray_closing_inside_a_caption_costs_no_event(vocabulary):
    reading = answered(vocabulary, f"<|/think|>{DOGS.replace('dogs', 'two <|/gen|>dogs')}")
    assert captions(reading) == ["two dogs"]
    assert ProblemKind.STRAY in kinds(reading.problems)


SILENT = f"<|gen|><timestamp>1.0</timestamp>{BRIDGE}<|/gen|>"


@pytest.mark.parametrize(
    ("layout", "text", "kind", "event", "message"),
    [
        (
            NO_REASONING,
            f"abc<|/think|>{DOGS}",
            ProblemKind.STRAY,
            None,
            'reasoning in a script that has none, .*: "abc"',
        ),
        (NO_REASONING, DOGS, ProblemKind.NO_REASONING_END, None, "not closed by"),
        (NO_REASONING, "<|/think|>", ProblemKind.EVENT_COUNT, None, "holds no complete event"),
        (NO_REASONING, f"<|/think|>{SILENT}", ProblemKind.CAPTION, 1, "an empty caption"),
        (NO_CAPTIONS, f"<|/think|>{SILENT}", ProblemKind.REASONING, None, "no event is planned"),
        (NO_CAPTIONS, f"<|/think|>{SILENT}", ProblemKind.CAPTION, 1, "event 1 has no caption in the reasoning"),
        (
            NO_CAPTIONS,
            f"{PLAN}<|/think|>{DOGS}",
            ProblemKind.STRAY,
            1,
            'a caption of its own, which is ignored: "dogs"',
        ),
        (NO_CAPTIONS, f"{PLAN}<|/think|>{SILENT}", ProblemKind.EVENT_COUNT, None, "announces 3 events, and 1 were"),
    ],
)
def test_what_a_layout_lacks_or_should_not_have_is_told(vocabulary, layout, text, kind, event, message):
    problems = answered(vocabulary, text, layout=layout).problems
    assert any(p.kind == kind and p.event == event and re.search(message, p.message) for p in problems), problems


def test_without_reasoning_nothing_is_asked_of_it(vocabulary):
    reading = answered(vocabulary, f"<|/think|>{DOGS}", layout=NO_REASONING)
    assert reading.problems == ()
    assert captions(reading) == ["dogs"]


def test_without_captions_the_events_go_by_their_number(vocabulary):
    text = f"{PLAN}<|/think|>{SILENT.replace('</aud>', '')}{SILENT}{SILENT}"
    reading = answered(vocabulary, text, layout=NO_CAPTIONS)
    assert captions(reading) == ["a dog barks", "wind"]
    assert [event.story_detail for event in reading.storyline.events] == ["It is cold.", ""]


def test_a_caption_that_the_layout_has_not_is_not_believed(vocabulary):
    reading = answered(vocabulary, f"{PLAN}<|/think|>{DOGS}", layout=NO_CAPTIONS)
    assert captions(reading) == ["rain falls"]


def test_a_script_says_something():
    with pytest.raises(ValueError, match="without reasoning and without captions says nothing"):
        Layout(reasoning=False, captions=False)


def test_a_prompt_without_its_think_marker_is_skipped(vocabulary):
    script = write(INSTRUCTION, STORY, vocabulary)
    ids = [token for token in script.ids if token != vocabulary.think]
    assert captions(read(ids, vocabulary)) == [event.caption for event in STORY.events]
