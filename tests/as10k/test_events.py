"""What a model says is heard is believed only in the form and within the times that were asked for."""

import json
from pathlib import Path

import pytest
from as10k.small_videos import Describer, entry

from audiostory.as10k.answers import ask_twice
from audiostory.as10k.events import Annotation, annotate, check_story, from_json, read, to_json
from audiostory.as10k.ledger import Dropped
from audiostory.as10k.settings import EventSettings
from audiostory.model_answers import AnswerError

SETTINGS = EventSettings()


def said(*main: object, **lists: object) -> str:
    return json.dumps({"main_events": list(main), "sound_effects": [], "music": [], **lists})


def test_an_answer_as_asked_is_read():
    found = read(said(entry(0.0, 2.5), entry(1, 4.004), music=[entry(0, 4, "a  slow\nwaltz")]), 4.0, SETTINGS)
    assert [(event.start, event.end) for event in found.main_events] == [(0.0, 2.5), (1.0, 4.0)]
    assert found.music[0].sound == "a slow waltz"
    assert from_json(json.loads(json.dumps(to_json(found)))) == found


def test_a_fence_of_code_is_taken_off():
    assert read(f"```json\n{said(entry(0, 1))}\n```", 4.0, SETTINGS) == read(said(entry(0, 1)), 4.0, SETTINGS)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("I hear a dog.", "not one JSON object"),
        ("[]", "must be a JSON object"),
        ('{"main_events": []}', "must have the keys"),
        (said(extra=[]), "must have the keys"),
        (said(music={}), "music must be a list"),
        (said("dog"), r"main_events\[0\] must be a JSON object"),
        (said({"start": 0, "end": 1}), "must have the keys start, end"),
        (said(entry(0, 5)), "ends at 5.0 s, the clip at 4.00 s"),
        (said(entry(2, 2)), "must be after start"),
        (said(entry(3, 2)), "must be after start"),
        (said(entry(4.0, 4.04)), "must be after start"),
        (said(entry(-1, 2)), "start must be a number of seconds"),
        (said(entry("0", 2)), "start must be a number of seconds"),
        (said(entry(True, 2)), "start must be a number of seconds"),
        (said(entry(0, 10**400)), "end must be a number of seconds"),
        (said(entry(0, 1)).replace("1", "NaN"), "NaN, which is no JSON"),
        (said(entry(0, 1)).replace('"end": 1', '"end": 1e999'), "end must be a number of seconds"),
        (said(entry(0, 1)).replace('"end": 1', '"end": 1, "end": 2'), "names a key twice"),
        (said(entry(2, 3), entry(0, 1)), "main_events is not in the order of the starts"),
        (said(entry(0, 1, " ")), "sound is empty"),
        (said(entry(0, 1, "a" * 401)), "401 characters long"),
        (said(entry(0, 1, "bark <|gen|> bark")), "holds a marker"),
        (said(entry(0, 1, "bark <t5_00003>")), "holds a marker"),
        (said(entry(0, 1, "bark \ud800")), "cannot be printed"),
        (said(entry(0, 1, "bark \u202e")), "cannot be printed"),
        (said(*[entry(0, 1)] * 65), "65 entries, at most 64"),
        ("[" * 100_000, "not one JSON object"),
        (" " * 200_001, "characters long"),
    ],
)
def test_anything_else_is_refused_with_its_reason(answer, reason):
    with pytest.raises(AnswerError, match=reason):
        read(answer, 4.0, SETTINGS)


def test_a_bad_answer_is_asked_for_once_more_with_the_reason(tmp_path):
    model = Describer(["nonsense"])
    media = tmp_path / "clip.flac"
    media.touch()
    assert len(annotate(model, media, 4.0, SETTINGS, sees=True).main_events) == 2
    (first, _), (second, heard) = model.asked
    assert second.startswith(first)
    assert "could not be used: it is not one JSON object" in second
    assert heard == media


def test_after_a_second_bad_answer_the_clip_is_dropped(tmp_path):
    model = Describer(["nonsense", said(entry(0, 5)), said(entry(0, 1))])
    (tmp_path / "clip.flac").touch()
    with pytest.raises(Dropped, match="events not usable") as dropped:
        annotate(model, tmp_path / "clip.flac", 4.0, SETTINGS, sees=True)
    assert "ends at 5.0 s" in dropped.value.detail
    assert len(model.asked) == 2


def test_a_model_that_does_not_answer_is_no_bad_answer():
    def silent(prompt: str, media: Path | None) -> str:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        ask_twice(silent, "?", None, lambda answer: answer, "it")


def annotation(*main: dict) -> Annotation:
    return read(said(*main), 40.0, SETTINGS)


def test_a_story_has_events_that_follow_each_other_and_are_seen():
    check_story(annotation(entry(0, 5), entry(5, 9)), SETTINGS, sees=True)
    with pytest.raises(Dropped, match="fewer than 2 main events"):
        check_story(annotation(entry(0, 5)), SETTINGS, sees=True)
    with pytest.raises(Dropped, match="do not follow each other"):
        check_story(annotation(entry(0, 5), entry(0, 9)), SETTINGS, sees=True)
    unseen = annotation(entry(0, 5), entry(5, 9, visual=""))
    with pytest.raises(Dropped, match="are seen"):
        check_story(unseen, SETTINGS, sees=True)
    check_story(unseen, SETTINGS, sees=False)
