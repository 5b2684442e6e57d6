"""evaluate/benchmark.py with a tiny model whose plans are given: it tells, resumes, counts failures, and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from benchmark.cases import write_manifest

from audiostory.benchmark.ear import Ear
from audiostory.model import tiny
from audiostory.pipeline import AudioStoryPipeline, StoryError
from audiostory.story import Event, Instruction, Storyline
from audiostory.weights.ours import Settings

EVALUATE = Path(__file__).parents[2] / "evaluate"
UNTELLABLE = "test-000005"  # its instruction is "a dog barks twice" alone


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    AudioStoryPipeline(*parts, Settings(steps=1, guidance=1.0, crossfade_seconds=0.25)).save_pretrained(folder)
    return folder


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Gives the planner's plans, read off the instruction, and keeps what it was asked for."""
    seen: list[str] = []

    def plan(self, instruction: Instruction, **_):
        seen.append(instruction.text)
        captions = instruction.text.split(" then ")
        if captions == ["a dog barks twice"]:
            raise StoryError("the planner wrote no complete event")
        seconds = (instruction.total_seconds or 2.0) / len(captions)
        events = tuple(Event(caption=words, seconds=seconds, start=k * seconds) for k, words in enumerate(captions))
        return self.plan_from_storyline(Storyline(summary="sounds", events=events), instruction)

    monkeypatch.setattr(AudioStoryPipeline, "plan", plan)
    return seen


@pytest.fixture
def run(corpus, ear, model, tmp_path, monkeypatch, asked):
    """The command on all six stories of the corpus, or as `options` say otherwise."""
    command = commands.load("evaluate/benchmark.py")

    def call(*options: str, manifest: Path = corpus) -> int:
        given = ["--manifest", str(manifest), "--ear", str(ear), "--model_path", str(model), "--num", "6"]
        return command.main([*given, "--output", str(tmp_path / "out"), "--device", "cpu", *options])

    return call


def report(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "report.json").read_text())


def test_every_column_is_asked_the_same_and_a_failure_is_wrong(run, tmp_path, capsys):
    assert run("--oracle") == 0
    scores = report(tmp_path)["scores"]
    assert list(scores) == ["told", "oracle", "truth", "codec", "shuffled"]
    for measure in scores["told"]:
        assert len({column[measure]["num"] for column in scores.values()}) == 1
    assert scores["told"]["event count right"]["mean"] == pytest.approx(5 / 6)
    assert scores["told"]["captions right to the letter"]["mean"] == pytest.approx(5 / 6)
    assert scores["told"]["length within 0.1 s"] == pytest.approx(scores["told"]["length within 0.1 s"] | {"mean": 0.8})
    assert scores["truth"]["order of sounds right"]["mean"] == scores["oracle"]["order of sounds right"]["mean"] == 1
    assert scores["shuffled"]["captions right to the letter"]["mean"] == 0
    printed = capsys.readouterr().out
    assert f"1 of 6 stories could not be told ({UNTELLABLE})" in printed
    assert "1 of 6 instructions ask for no length" in printed
    assert "planner wrote no complete event" in (tmp_path / "out/told" / UNTELLABLE / "failure.json").read_text()


def test_the_report_can_be_traced(run, model, tmp_path):
    assert run("--num", "2", "--systems", "told", "--seed", "7") == 0
    facts = report(tmp_path)["facts"]
    assert facts["model"]["steps"] == 1
    assert facts["model"]["seed"] == 7
    assert len(facts["model"]["model_sha256"]) == len(facts["manifest"]["sha256"]) == len(facts["ear"]["sha256"]) == 64
    assert facts["seconds_to_tell"]["told"]["total"] >= 0
    record = json.loads((tmp_path / "out/told/test-000000/storyline.json").read_text())
    other = json.loads((tmp_path / "out/told/test-000001/storyline.json").read_text())
    assert record["rendering"]["seed"] != other["rendering"]["seed"]
    assert "## Sounds heard worst: told" in (tmp_path / "out/report.md").read_text()


def test_what_is_told_is_not_told_again_and_no_model_is_loaded(run, asked, tmp_path, monkeypatch):
    assert run() == 0
    first, num_asked = report(tmp_path)["scores"], len(asked)
    monkeypatch.setattr(AudioStoryPipeline, "from_pretrained", lambda *_: pytest.fail("loaded"))
    assert run() == 0
    assert report(tmp_path)["scores"] == first
    assert len(asked) == num_asked == 6


def test_a_stopped_run_goes_on_and_more_stories_can_follow(run, asked, tmp_path, monkeypatch, capsys):
    given = AudioStoryPipeline.plan

    def stopping(self, instruction, **options):
        if len(asked) == 2:
            raise KeyboardInterrupt
        return given(self, instruction, **options)

    with monkeypatch.context() as patch:
        patch.setattr(AudioStoryPipeline, "plan", stopping)
        assert run("--num", "4", "--systems", "told") == 130
    assert "goes on from here" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.md").exists()
    assert run("--num", "4", "--systems", "told") == 0
    assert len(asked) == 4
    assert run("--num", "5", "--systems", "told") == 0
    assert len(asked) == 5


def test_stories_told_otherwise_are_not_mixed(run, tmp_path, capsys):
    assert run("--num", "2", "--systems", "told") == 0
    assert run("--num", "2", "--systems", "told", "--seed", "1", "--steps", "3") == 2
    error = capsys.readouterr().err
    assert "seed 0 (now 1), steps 1 (now 3)" in error
    assert "choose another --output" in error


def test_a_corpus_without_audio_says_how_to_write_one(run, tmp_path, capsys):
    silent = write_manifest(tmp_path / "silent", [["dog", "rain"], ["bell", "dog"]], audio=False)
    assert run("--num", "2", manifest=silent) == 2
    assert "scripts/make_soundworld.py" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run("--num", "2", "--systems", "told", manifest=silent) == 0
    assert "could not be told" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num", "7"), "holds 6 stories, 7 were asked"),
        (("--num", "0"), "--num must be"),
        (("--num", "1"), "--num must be"),
        (("--manifest", "nowhere.jsonl"), "no manifest at nowhere.jsonl"),
        (("--ear", "nowhere"), "train_ear.py"),
        (("--model_path", "nowhere"), "no model folder at nowhere"),
        (("--steps", "0"), "steps must be"),
        (("--guidance", "nan"), "guidance must be"),
        (("--device", "abacus"), "no device 'abacus'"),
    ],
)
def test_a_mistake_costs_a_line_and_no_file(run, tmp_path, capsys, options, message):
    assert run(*options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_truth_and_chance_need_no_model(run, tmp_path):
    assert run("--systems", "truth", "shuffled", "--model_path", "nowhere") == 0
    assert report(tmp_path)["facts"]["model"] is None


@pytest.mark.parametrize("name", ["benchmark", "train_ear"])
def test_help_is_answered_without_torch(name):
    script = EVALUATE / f"{name}.py"
    start = f"sys.argv = ['x', '--help']; runpy.run_path({str(script)!r}, run_name='__main__')"
    code = f"import runpy, sys; sys.modules['torch'] = None; {start}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"python evaluate/{name}.py" in done.stdout


def test_the_ear_is_trained_by_one_command(corpus, tmp_path, capsys):
    command = commands.load("evaluate/train_ear.py")
    folders = ["--train", str(corpus.parent), "--held-out", str(corpus.parent), "--output", str(tmp_path / "ear")]
    assert command.main([*folders, "--epochs", "1", "--num", "3"]) == 0
    assert "6 clips learnt, 12 held out" in capsys.readouterr().out
    ear, page = Ear.load(tmp_path / "ear")
    assert ear.labels["place"] == ["hall", "room"]
    assert page["settings"]["epochs"] == 1
    assert command.main([*folders, "--epochs", "0"]) == 2
    assert command.main(["--train", "nowhere", *folders[2:]]) == 2
