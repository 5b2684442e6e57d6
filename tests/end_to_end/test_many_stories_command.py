"""evaluate/inference.py --input: a folder for each line, whatever a line is like and whenever the run is stopped."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import numpy as np
import pytest
import soundfile
import torch

from audiostory.model import tiny
from audiostory.model.planner import Planner, reciting
from audiostory.pipeline import AudioStoryPipeline
from audiostory.processes import Place
from audiostory.story import Event, Instruction, Storyline, script
from audiostory.weights.ours import Settings

STORY = Storyline(
    summary="A dog waits.", events=(Event(caption="a dog", seconds=1.0), Event(caption="rain", seconds=0.5, start=1.0))
)
LINES = (
    {"id": "dog", "instruction": "a dog in the rain", "total_seconds": 2.0, "seed": 3},
    {"instruction": "a dog in the wind"},
    {"id": "third", "instruction": "a dog", "total_seconds": None},
)


@pytest.fixture(scope="module")
def inference():
    return commands.load("evaluate/inference.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    AudioStoryPipeline(*parts, Settings(steps=2, crossfade_seconds=0.2)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def planned(monkeypatch) -> list[str]:
    """The instructions that were planned. The planner writes STORY, or nothing of use where silence is asked for."""
    vocabulary, texts, write = tiny.vocabulary(), [], Planner.write_many
    story = script.write(Instruction(text="x"), STORY, vocabulary).ids
    story = story[story.index(vocabulary.think) + 1 :]

    def recite(planner, prompts, vocabulary, **settings):
        asked = [vocabulary.decode(prompt) for prompt in prompts]
        texts.extend(asked)
        answers = [[vocabulary.im_end] if "silence" in text else story for text in asked]
        choosers = [reciting(answer, vocabulary) for answer in answers]
        settings["choose"] = lambda number, scores: choosers[number](scores)
        return write(planner, prompts, vocabulary, **settings)

    monkeypatch.setattr(Planner, "write_many", recite)
    return texts


@pytest.fixture
def run(inference, model, tmp_path):
    """The command with these lines as its input, told into `stories`."""

    def run(lines, *flags: str) -> int:
        rows = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        (tmp_path / "stories.jsonl").write_bytes(b"\n".join(rows) + b"\n")
        output = ["--input", str(tmp_path / "stories.jsonl"), "--output", str(tmp_path / "stories")]
        common = ["--model_path", str(model), "--total_duration", "1.5", "--no-picture", "--device", "cpu"]
        return inference.main([*output, *common, *flags])

    return run


def told_in(folder: Path) -> dict[str, float]:
    """The length of each whole story, by its folder's name."""
    return {
        path.parent.name: soundfile.info(path.parent / "story.wav").frames / 800
        for path in sorted(folder.glob("*/storyline.json"))
    }


def failures_in(folder: Path) -> dict[str, dict]:
    """What is kept of each story that could not be told, by its folder's name."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/failure.json"))}


def test_every_line_is_told_into_its_folder_as_the_single_command_tells_it(run, inference, model, tmp_path, capsys):
    assert run([LINES[0], b"", *LINES[1:]]) == 0
    assert told_in(tmp_path / "stories") == {"000003": 1.5, "dog": 2.0, "third": 1.5}
    assert "3 of 3 stories told" in capsys.readouterr().out
    record = json.loads((tmp_path / "stories/dog/storyline.json").read_text())
    assert [event["caption"] for event in record["events"]] == ["a dog", "rain"]
    assert (record["instruction"], record["rendering"]["seed"]) == ("a dog in the rain", 3)
    alone = ["--instruction", "a dog in the rain", "--total_duration", "2", "--seed", "3", "--output"]
    assert inference.main([*alone, str(tmp_path / "alone"), "--model_path", str(model), "--no-picture"]) == 0
    samples = [soundfile.read(tmp_path / name / "story.wav")[0] for name in ("stories/dog", "alone")]
    np.testing.assert_allclose(*samples, rtol=0, atol=1e-5)


def test_lines_and_stories_that_cannot_be_told_are_named_and_stop_no_other(run, tmp_path, capsys):
    wrong = [
        (b"{not json", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b'{"instruction": "\\ud800"}', "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (["a dog"], "must be an object"),
        ({"id": "x"}, "instruction cannot be meant"),
        ({"instruction": " "}, "instruction cannot be meant"),
        ({"instruction": "a", "total_second": 3}, "total_second, which is no key"),
        ({"instruction": "a", "total_seconds": "3"}, "total_seconds cannot be meant"),
        (b'{"instruction": "a", "total_seconds": NaN}', "total_seconds cannot be meant"),
        ({"instruction": "a", "seed": -1}, "seed cannot be meant"),
        ({"instruction": "a", "id": "../up"}, "id cannot be meant"),
        ({"instruction": "a", "id": "dog"}, 'id "dog" is that of a line before'),
    ]
    of_this_model = [
        ({"id": "long", "instruction": "a", "total_seconds": 1e6}, "1 to 600 seconds"),
        ({"id": "deaf", "instruction": "a", "audio": "nowhere.wav"}, "cannot listen"),
    ]
    lines = [line for line, _ in (*wrong, *of_this_model)]
    assert run([LINES[0], *lines, {"id": "empty", "instruction": "silence"}, LINES[2]]) == 1
    assert told_in(tmp_path / "stories") == {"dog": 2.0, "third": 1.5}
    said = capsys.readouterr().err
    for line, reason in of_this_model:
        (told,) = [one for one in said.splitlines() if f'stories.jsonl, the story "{line["id"]}": ' in one]
        assert reason in told
    for number, (_, reason) in enumerate(wrong, 2):
        (line,) = [line for line in said.splitlines() if f"stories.jsonl, line {number}: " in line]
        assert reason in line
    assert "no complete event" in failures_in(tmp_path / "stories")["empty"]["reason"]
    assert list(failures_in(tmp_path / "stories")) == ["empty"]
    assert "not told, see failure.json in empty" in said


def test_what_a_person_must_mend_ends_the_run_and_is_no_failure(run, tmp_path, monkeypatch, capsys):
    told = AudioStoryPipeline._told

    def damaged(self, plan, *rest):
        if plan.instruction.text == "a broken dog":
            raise ValueError("the sound is not finite; mend it")
        return told(self, plan, *rest)

    lines = [LINES[0], {"id": "broken", "instruction": "a broken dog"}, LINES[2]]
    with monkeypatch.context() as patch:
        patch.setattr(AudioStoryPipeline, "_told", damaged)
        assert run(lines) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith('error: the story "broken" cannot be told: the sound is not finite; mend it')
    assert (told_in(tmp_path / "stories"), failures_in(tmp_path / "stories")) == ({"dog": 2.0}, {})
    assert run(lines) == 0
    assert set(told_in(tmp_path / "stories")) == {"dog", "broken", "third"}


def test_a_damaged_planner_ends_the_run_and_leaves_no_failure(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Planner, "logits", lambda self, states: self.qwen.lm_head(states) * float("nan"))
    assert run(LINES) == 2
    assert "the model is damaged: copy its folder again" in capsys.readouterr().err.strip().splitlines()[-1]
    assert (told_in(tmp_path / "stories"), failures_in(tmp_path / "stories")) == ({}, {})


def test_a_story_that_memory_does_not_hold_stops_no_other_and_is_tried_again(run, tmp_path, monkeypatch, capsys):
    from audiostory import pipeline

    denoise = pipeline.denoise

    def small(dit, noise, *rest, **choices):
        if len(noise) > 1 or len(noise[0]) > 40:
            raise torch.OutOfMemoryError
        return denoise(dit, noise, *rest, **choices)

    lines = [LINES[0], {"id": "long", "instruction": "a long dog", "total_seconds": 9.0}, LINES[2]]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "denoise", small)
        assert run(lines) == 1
    assert told_in(tmp_path / "stories") == {"dog": 2.0, "third": 1.5}
    assert "try --max_batch_frames 1, --max_decode_frames 64" in failures_in(tmp_path / "stories")["long"]["reason"]
    assert run(lines) == 0
    assert told_in(tmp_path / "stories") == {"dog": 2.0, "long": 9.0, "third": 1.5}
    assert failures_in(tmp_path / "stories") == {}


def test_the_bounds_on_memory_are_the_pipelines(run, tmp_path, monkeypatch):
    bounds, told = [], AudioStoryPipeline.tell_many

    def seen(self, *args, **choices):
        bounds.append((self.max_batch_scripts, self.max_batch_frames, self.max_decode_frames))
        return told(self, *args, **choices)

    monkeypatch.setattr(AudioStoryPipeline, "tell_many", seen)
    flags = ("--max_batch_scripts", "1", "--max_batch_frames", "30", "--max_decode_frames", "64")
    assert run(LINES[:2], *flags) == 0
    assert run(LINES) == 0  # they change nothing of the sound, so the folder may go on with others
    assert bounds == [(1, 30, 64), (8, 4000, None)]


def test_a_folder_has_a_story_or_a_failure_and_never_both(run, tmp_path, monkeypatch):
    story, quiet = {"id": "dog", "instruction": "a dog"}, {"id": "dog", "instruction": "silence"}
    for line, code in ((story, 0), (quiet, 1), (quiet, 1), (story, 0)):
        assert run([line]) == code
        assert sorted(path.name for path in (tmp_path / "stories/dog").iterdir()) == (
            ["failure.json"] if code else ["event_01_a_dog.wav", "event_02_rain.wav", "story.wav", "storyline.json"]
        )


def test_a_run_that_was_stopped_goes_on_and_tells_nothing_twice(run, planned, tmp_path, monkeypatch, capsys):
    import audiostory.story_files

    save, monkey = audiostory.story_files.save, pytest.MonkeyPatch()

    def stopped(told, folder, *args, **options):
        if folder.name == "third":
            (folder.parent / ".third-abcd1234").mkdir()
            raise KeyboardInterrupt
        return save(told, folder, *args, **options)

    monkey.setattr(audiostory.story_files, "save", stopped)
    lines = [LINES[0], {"id": "quiet", "instruction": "silence"}, LINES[2]]
    assert run(lines) == 130
    assert "run it again to go on" in capsys.readouterr().err
    monkey.undo()
    assert told_in(tmp_path / "stories") == {"dog": 2.0}
    before = (tmp_path / "stories/dog/story.wav").stat().st_mtime_ns
    planned.clear()
    assert run(lines) == 1
    assert len(planned) == 1
    assert told_in(tmp_path / "stories") == {"dog": 2.0, "third": 1.5}
    assert (tmp_path / "stories/dog/story.wav").stat().st_mtime_ns == before
    assert sorted(path.name for path in (tmp_path / "stories").iterdir()) == ["dog", "quiet", "settings.json", "third"]


def test_a_line_that_was_changed_is_told_anew_and_the_rest_without_loading_stays(run, planned, inference, tmp_path):
    assert run([LINES[0], {"id": "quiet", "instruction": "silence"}]) == 1
    planned.clear()
    changed = [{**LINES[0], "total_seconds": 2.5}, {"id": "quiet", "instruction": "a cat"}]
    assert run(changed) == 0
    assert len(planned) == 2
    assert told_in(tmp_path / "stories") == {"dog": 2.5, "quiet": 1.5}
    assert not (tmp_path / "stories/quiet/failure.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "_load", lambda *_: pytest.fail("loaded for nothing"))
        assert run(changed) == 0


def test_stories_of_other_settings_do_not_go_into_one_folder(run, tmp_path, capsys):
    assert run(LINES[:1]) == 0
    assert run(LINES, "--steps", "3") == 2
    assert "told with other settings than now (steps: see settings.json)" in capsys.readouterr().err
    assert run(LINES, "--solver", "ab2") == 2
    assert "told with other settings than now (solver: see settings.json)" in capsys.readouterr().err
    assert told_in(tmp_path / "stories") == {"dog": 2.0}


def test_processes_share_the_stories(run, planned, tmp_path, monkeypatch):
    monkeypatch.setattr(Place, "wait_for_all", lambda place: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert run(LINES) == 0
        shares.append(len(planned))
    assert shares == [2, 3]
    assert set(told_in(tmp_path / "stories")) == {"dog", "000002", "third"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--instruction", "a dog"], "--instruction is about one story"),
        (["--audio", __file__], "--audio is about one story"),
        (["--as_released"], "--as_released is about one story"),
        (["--steps", "0"], "steps must be"),
        (["--max_new_tokens", "0"], "max_new_tokens must be"),
        (["--max_batch_frames", "0"], "--max_batch_frames must be 1 or more, got 0"),
        (["--input", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--model_path", "nowhere"], "no model folder at nowhere"),
    ],
)
def test_a_mistake_ends_in_one_line_code_2_and_no_folder(run, tmp_path, capsys, flags, message):
    assert run(LINES, *flags) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert [path.name for path in tmp_path.iterdir()] == ["stories.jsonl"]
