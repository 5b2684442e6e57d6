"""The command a newcomer types first: what it writes, what it says, and that a mistake costs a line and no file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
import soundfile

from audiostory.model import tiny
from audiostory.pipeline import AudioStoryPipeline
from audiostory.story import Event, Instruction, Storyline
from audiostory.weights.ours import Settings

SCRIPT = Path(__file__).parents[2] / "evaluate" / "inference.py"
STORY = Storyline(
    summary="A dog waits in the rain.",
    events=(
        Event(caption="a dog barks twice", seconds=2.0, story_detail="It waits.", sound_detail="near"),
        Event(caption="Ça pleut! / rain...", seconds=3.0, start=2.0),
    ),
)


@pytest.fixture(scope="module")
def inference():
    return commands.load("evaluate/inference.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    settings = Settings(
        steps=2, crossfade_seconds=0.5, sounds={"dog": ["dogs", "barks"], "rain": []}, places=["a room"]
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    AudioStoryPipeline(*parts, settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def listening_model(model, tmp_path_factory) -> Path:
    pipeline = AudioStoryPipeline.from_pretrained(model)
    pipeline.register_modules(audio_encoder=tiny.audio_encoder(), listener_projector=tiny.listener_projector())
    folder = tmp_path_factory.mktemp("models") / "listening"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(inference, model, here, monkeypatch):
    """The command with a tiny model, whose planner would write nothing of use: its plan is given."""

    def plan(pipeline: AudioStoryPipeline, instruction: Instruction, *, audio, **_):
        total = instruction.total_seconds or STORY.total_seconds
        first, second = STORY.events
        events = (first, Event(caption=second.caption, seconds=total - 2.0, start=2.0))
        return pipeline.plan_from_storyline(Storyline(summary=STORY.summary, events=events), instruction, audio)

    monkeypatch.setattr(AudioStoryPipeline, "plan", plan)
    return lambda *flags: inference.main(
        ["--instruction", "a dog in the rain", "--total_duration", "5", "--model_path", str(model), *flags]
    )


def test_help_is_quick_because_it_loads_nothing_heavy():
    code = (
        f"import runpy, sys; sys.argv = ['inference.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "finally: assert not {'torch', 'numpy', 'diffusers', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--instruction" in done.stdout
    assert "--generated_caption" in done.stdout


def test_a_story_is_written_where_the_release_writes_it(run, here, capsys):
    assert run("--save_folder_name", "rainy") == 0
    folder = here / "evaluate" / "rainy"
    names = ["event_01_a_dog_barks_twice.wav", "event_02_ca_pleut_rain.wav"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*names, "story.wav", "story.png", "storyline.json"]
    )
    assert [path.name for path in folder.parent.iterdir()] == ["rainy"]
    assert soundfile.info(folder / "story.wav").frames == 5 * 800
    assert [soundfile.info(folder / name).duration for name in names] == [2.5, 3.0]
    shown = capsys.readouterr().out
    assert "a dog barks twice" in shown
    assert all(name in shown for name in names)


def test_the_record_tells_what_was_asked_planned_and_done(run, here):
    assert run("--seed", "3", "--output", "out", "--guidance", "2", "--solver", "heun", "--audio_type", "night") == 0
    record = json.loads((here / "out" / "storyline.json").read_text(encoding="utf-8"))
    assert record["instruction"] == "a dog in the rain"
    assert record["audio_type"] == "night"
    assert record["rendering"] == {
        "seed": 3, "steps": 2, "guidance": 2.0, "crossfade_seconds": 0.5, "solver": "heun", "as_released": False
    }  # fmt: skip
    assert record["total_seconds"] == 5
    assert record["events"][0] == {
        "caption": "a dog barks twice",
        "start": 0.0,
        "seconds": 2.0,
        "story_detail": "It waits.",
        "sound_detail": "near",
        "audio": "event_01_a_dog_barks_twice.wav",
        "clip_seconds": 2.5,
    }
    assert record["events"][1]["start"] == 2.0
    assert record["problems"] == []


def test_weights_of_8_bits_tell_the_same_events_in_nearly_the_same_sound(run, here):
    def told(name: str, *flags: str) -> np.ndarray:
        assert run("--save_folder_name", name, *flags) == 0
        return soundfile.read(here / "evaluate" / name / "story.wav")[0]

    whole, small = told("whole"), told("small", "--int8")
    assert whole.shape == small.shape
    assert 0 < np.abs(whole - small).mean() < np.abs(whole).mean()


def test_a_model_is_compiled_where_it_is_asked_for_and_possible(run, here, monkeypatch, capsys):
    compiled = []
    monkeypatch.setattr(AudioStoryPipeline, "compile", lambda pipeline: compiled.append(pipeline))
    assert run("--no-picture") == 0
    assert len(compiled) == 0
    assert run("--no-picture", "--compile", "--device", "cpu") == 0
    assert len(compiled) == 1
    assert run("--compile", "--offload") == 2
    assert "leave one of them out" in capsys.readouterr().err
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert run("--compile", "--device", "cpu") == 2
    assert "there is no g++; install one" in capsys.readouterr().err


def test_a_new_story_takes_the_place_of_the_old_one_and_of_nothing_else(run, here):
    assert run("--output", "out") == 0
    (here / "out" / "notes.txt").write_text("mine")
    (here / "out" / "event_09_mine.wav").write_text("mine")
    assert run("--output", "out", "--no-picture", "--target_sr", "4000") == 0
    assert soundfile.info(here / "out" / "story.wav").samplerate == 4000
    assert soundfile.info(here / "out" / "story.wav").frames == 5 * 4000
    assert not (here / "out" / "story.png").exists()
    assert (here / "out" / "notes.txt").exists()
    assert (here / "out" / "event_09_mine.wav").exists()


def test_a_small_world_says_what_it_knows_when_it_is_asked_for_something_else(run, inference, model, capsys):
    assert run("--output", "out", "--no-picture") == 0
    assert "warning" not in capsys.readouterr().err
    assert run("--output", "out", "--no-picture", "--generated_caption", "a choir sings") == 0
    said = capsys.readouterr()
    assert "names no sound that this model knows" in said.err
    assert "sounds: dog, rain" in said.out
    assert "places: a room" in said.out


def test_without_a_model_path_the_bundled_one_is_named(inference, model, here, monkeypatch, run, capsys):
    monkeypatch.setattr("audiostory.pipeline.MINI", model)
    assert inference.main(["--instruction", "a dog", "--total_duration", "5", "--output", "out", "--no-picture"]) == 0
    shown = capsys.readouterr().out
    assert "audiostory-mini tells the story" in shown
    assert "sounds: dog, rain" in shown
    assert json.loads((here / "out" / "storyline.json").read_text())["model"] == "audiostory-mini"


@pytest.fixture
def field(here, tmp_path_factory) -> Path:
    """A recording of 1.5 s, in stereo at 8 kHz."""
    path = tmp_path_factory.mktemp("field") / "field.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((12000, 2)), 8000)
    return path


def test_a_recording_is_gone_on_from(run, here, listening_model, field, capsys):
    assert run("--model_path", str(listening_model), "--audio", str(field), "--output", "out") == 0
    folder = here / "out"
    names = ["event_01_a_dog_barks_twice.wav", "event_02_ca_pleut_rain.wav"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["continuation.wav", *names, "story.png", "story.wav", "storyline.json"]
    )
    assert soundfile.info(folder / "continuation.wav").frames == 5 * 800
    assert soundfile.info(folder / "story.wav").frames == (1.5 + 5 - 0.5) * 800
    whole, after = (soundfile.read(folder / name)[0] for name in ("story.wav", "continuation.wav"))
    assert np.allclose(whole[int(1.5 * 800) :], after[int(0.5 * 800) :], atol=1e-6)
    record = json.loads((folder / "storyline.json").read_text(encoding="utf-8"))
    assert record["heard"] == str(field)
    assert record["audio"] == "continuation.wav"
    assert record["begins_in_story"] == 1.0
    assert record["total_seconds"] == 5
    assert record["events"][0]["start"] == 0.0
    assert set(record["files"]) == {path.name for path in folder.iterdir()}
    assert "continuation.wav" in capsys.readouterr().out


def test_a_story_from_words_takes_the_place_of_a_continuation(run, here, listening_model, field):
    flags = ("--model_path", str(listening_model), "--output", "out", "--no-picture")
    assert run(*flags, "--audio", str(field)) == 0
    assert run(*flags) == 0
    assert not (here / "out" / "continuation.wav").exists()
    assert "begins_in_story" not in json.loads((here / "out" / "storyline.json").read_text())


def test_a_question_is_answered_and_the_answer_kept(inference, here, listening_model, field, monkeypatch, capsys):
    asked = []

    def describe(pipeline: AudioStoryPipeline, audio, question, **_):
        asked.append((audio, question))
        return "a dog, then rain"

    monkeypatch.setattr(AudioStoryPipeline, "describe", describe)
    flags = ["--model_path", str(listening_model), "--audio", str(field), "--question", "what is heard?"]
    assert inference.main([*flags, "--output", "out/deep"]) == 0
    assert asked == [(field, "what is heard?")]
    assert capsys.readouterr().out.strip() == "a dog, then rain"
    assert json.loads((here / "out/deep/answer.json").read_text()) == {
        "question": "what is heard?",
        "answer": "a dog, then rain",
        "heard": str(field),
        "model": str(listening_model),
    }


def test_a_question_goes_all_the_way_to_the_planner(inference, here, listening_model, field, capsys):
    flags = ["--model_path", str(listening_model), "--audio", str(field), "--question", "what?", "--output", "out"]
    assert inference.main([*flags, "--max_new_tokens", "3"]) == 0
    assert json.loads((here / "out/answer.json").read_text())["question"] == "what?"
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--audio", "FIELD"], "--audio needs --instruction, to say what follows it, or --question"),
        (["--question", "what?"], "--question asks about --audio"),
        (["--audio", "FIELD", "--question", "what?", "--instruction", "x"], "nothing that --instruction would tell"),
        (["--audio", "FIELD", "--question", " "], "--question is empty"),
        (["--audio", "nowhere.wav", "--question", "what?"], "there is no recording nowhere.wav"),
        (["--audio", "nowhere.wav", "--instruction", "x"], "there is no recording nowhere.wav"),
        (["--audio", "MODEL", "--question", "what?"], "cannot be read as audio"),
        (
            ["--audio", "FIELD", "--question", "what?", "--model_path", "DEAF"],
            "this model cannot listen: it has no",
        ),
        (
            ["--audio", "FIELD", "--instruction", "x", "--model_path", "DEAF"],
            "this model cannot listen: it has no",
        ),
        (["--audio", "FIELD", "--question", "what?", "--audio_encoder", "x"], "goes with the released checkpoint"),
    ],
)
def test_a_mistake_about_recordings_ends_in_one_line_and_no_file(
    inference, here, model, listening_model, field, capsys, flags, message
):
    paths = {"FIELD": field, "MODEL": listening_model / "model_index.json", "DEAF": model}
    given = ["--model_path", str(listening_model), "--output", "out", *(str(paths.get(flag, flag)) for flag in flags)]
    assert inference.main(given) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--instruction", "  "], "--instruction is empty"),
        (["--total_duration", "-5"], "positive number of seconds, got -5"),
        (["--total_duration", "0"], "positive number of seconds, got 0"),
        (["--total_duration", "nan"], "positive number of seconds, got nan"),
        (["--total_duration", "inf"], "positive number of seconds, got inf"),
        (["--total_duration", "1e12"], "a story lasts 1 to 600 seconds"),
        (["--model_path", "nowhere"], "no model folder at nowhere; check the path"),
        (["--model_path", "."], "not an AudioStory model folder"),
        (["--tangoflux_model", "x"], "holds no config.yaml"),
        (["--guidance", "nan"], "guidance must be 1"),
        (["--steps", "0"], "steps must be in 1 .. 1000"),
        (["--solver", "hein"], "the solver must be euler, midpoint, heun, ab2, not 'hein'; 'heun' was meant"),
        (["--solver", "heun", "--as_released"], "the release solves by euler"),
        (["--seed", "-1"], "the seed must be"),
        (["--crossfade_sec", "-1"], "the cross-fade must last"),
        (["--target_sr", "0"], "--target_sr must be 100"),
        (["--device", "abacus"], "no device 'abacus' here"),
        (["--device", "cuda:77"], "no device 'cuda:77' here"),
        (["--save_folder_name", "../up"], "use --output for a path"),
        (["--save_folder_name", ""], "use --output for a path"),
        (["--output", "a_file"], "nothing can be written into"),
        (["--output", "a_file/below"], "nothing can be written into"),
    ],
)
def test_a_mistake_ends_in_one_line_code_2_and_no_file(run, here, capsys, flags, message):
    (here / "a_file").touch()
    assert run(*flags) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert [path.name for path in here.iterdir()] == ["a_file"]


@pytest.mark.parametrize(
    "flags", [["--total_duration", "long"], ["--max_new_tokens", "1.5"], ["--dtype", "int8"], ["--loud"]]
)
def test_a_flag_that_cannot_be_read_ends_in_code_2(run, here, flags):
    with pytest.raises(SystemExit) as ended:
        run(*flags)
    assert ended.value.code == 2
    assert not list(here.iterdir())


def test_a_truncated_model_ends_in_one_line_and_code_2(run, model, here, capsys, tmp_path_factory):
    import shutil

    damaged = Path(shutil.copytree(model, tmp_path_factory.mktemp("damaged") / "tiny"))
    weights = damaged / "dit" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert run("--model_path", str(damaged)) == 2
    assert "dit/diffusion_pytorch_model.safetensors is damaged" in capsys.readouterr().err
    assert not list(here.iterdir())


def test_a_failure_while_writing_leaves_the_old_story_whole(run, here, monkeypatch, capsys):
    assert run("--output", "out") == 0
    before = {path.name: path.read_bytes() for path in (here / "out").iterdir()}

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("audiostory.story_files.draw", full)
    assert run("--output", "out", "--seed", "5") == 2
    assert "no space left" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (here / "out").iterdir()} == before
    assert [path.name for path in here.iterdir()] == ["out"]


def test_an_interrupted_run_leaves_nothing(run, here, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(AudioStoryPipeline, "render", interrupt)
    monkeypatch.setattr(AudioStoryPipeline, "_render", interrupt)
    assert run("--output", "out") == 130
    assert not list(here.iterdir())
