"""evaluate/benchmark.py on stories, with a tiny model whose plans are given: it tells, resumes, counts, and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import commands
import planning
import pytest
from benchmark.cases import write_manifest

from audiostory import sound
from audiostory.benchmark.ear import BUNDLED, Ear
from audiostory.pipeline import AudioStoryPipeline, StoryError
from audiostory.processes import Place
from audiostory.story import Event, Instruction, Storyline

EVALUATE = Path(__file__).parents[2] / "evaluate"
UNTELLABLE = "test-000005"  # its instruction is "a dog barks twice" alone


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

    planning.give(monkeypatch, plan)
    return seen


@pytest.fixture
def run(benchmark, corpus, ear, model, asked):
    """The command on all six stories of the corpus, or as `overrides` say otherwise."""

    def call(*overrides: str, manifest: Path = corpus) -> int:
        given = [
            "suite=soundworld",
            f"suite.stories={manifest}",
            f"suite.ear={ear}",
            f"suite.codec={model}",
            "suite.num=6",
        ]
        if not any("system" in override for override in overrides):
            given.append(f"systems.mini.model_path={model}")
        return benchmark(*given, *overrides)

    return call


@pytest.fixture
def oracle(model) -> tuple[str, ...]:
    """Our model beside the same with the true storyline."""
    names = ("mini", "mini_true_storyline")
    return (f"system=[{','.join(names)}]", *(f"systems.{name}.model_path={model}" for name in names))


def report(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "report.json").read_text())


def test_every_column_is_asked_the_same_and_a_failure_is_wrong(run, oracle, tmp_path, capsys):
    assert run(*oracle) == 0
    scores = report(tmp_path)["scores"]
    assert list(scores) == ["mini", "mini_true_storyline", "truth", "codec", "shuffled"]
    for measure in scores["mini"]:
        assert len({column[measure]["num"] for column in scores.values() if measure in column}) == 1
    mini = scores["mini"]
    assert mini["event count right"]["mean"] == pytest.approx(5 / 6)
    assert mini["captions right to the letter"]["mean"] == pytest.approx(5 / 6)
    assert mini["length within 0.1 s"] == pytest.approx(mini["length within 0.1 s"] | {"mean": 0.8})
    for best in ("truth", "mini_true_storyline"):
        assert scores[best]["order of sounds right"]["mean"] == 1
    assert scores["shuffled"]["captions right to the letter"]["mean"] == 0
    printed = capsys.readouterr().out
    assert f"1 of 6 stories could not be told ({UNTELLABLE})" in printed
    assert "1 of 6 instructions ask for no length" in printed
    assert "planner wrote no complete event" in (tmp_path / "out/told/mini" / UNTELLABLE / "failure.json").read_text()


def test_the_report_can_be_traced(run, tmp_path):
    assert run("suite.num=2", "suite.controls=[]", "seed=7") == 0
    facts = report(tmp_path)["facts"]
    mini = facts["systems"]["mini"]
    assert (mini["steps"], mini["seed"]) == (1, 7)
    assert len(mini["model_sha256"]) == len(facts["manifest"]["sha256"]) == len(facts["ear"]["sha256"]) == 64
    assert facts["seconds_to_tell"]["mini"]["total"] >= 0
    record = json.loads((tmp_path / "out/told/mini/test-000000/storyline.json").read_text())
    other = json.loads((tmp_path / "out/told/mini/test-000001/storyline.json").read_text())
    assert record["rendering"]["seed"] != other["rendering"]["seed"]
    assert "## Sounds heard worst: mini" in (tmp_path / "out/report.md").read_text()


def test_the_time_of_what_could_not_be_told_counts(run, tmp_path):
    assert run("suite.controls=[]", "suite.pages=0") == 0
    files = list((tmp_path / "out/told/mini").glob("*/storyline.json"))
    files += (tmp_path / "out/told/mini").glob("*/failure.json")
    seconds = [json.loads(file.read_text())["seconds_to_tell"] for file in files]
    assert len(seconds) == 6
    facts = report(tmp_path)["facts"]["seconds_to_tell"]["mini"]
    assert facts == {"total": round(sum(seconds), 1), "mean": round(sum(seconds) / 6, 2)}


def test_the_page_has_what_was_told_and_the_truth(run, tmp_path):
    assert run("suite.pages=2") == 0
    page = (tmp_path / "out/index.html").read_text()
    assert "told/mini/test-000001/story.wav" in page
    assert "test-000002" not in page
    assert "a dog barks twice" in page


def test_a_page_may_be_left_out(run, tmp_path):
    assert run("suite.num=2", "suite.pages=0") == 0
    assert not (tmp_path / "out/index.html").exists()
    assert report(tmp_path)["scores"]["mini"]


def test_what_is_told_is_not_told_again_and_no_model_is_loaded(run, asked, tmp_path, monkeypatch):
    assert run() == 0
    first, num_asked = report(tmp_path)["scores"], len(asked)
    monkeypatch.setattr(AudioStoryPipeline, "from_pretrained", lambda *_: pytest.fail("loaded"))
    assert run() == 0
    assert report(tmp_path)["scores"] == first
    assert len(asked) == num_asked == 6


def test_a_clip_that_was_written_anew_goes_through_the_codec_again(run, tmp_path, corpus):
    mine = tmp_path / "corpus"
    shutil.copytree(corpus.parent, mine)
    manifest = mine / "manifest.jsonl"
    alone = ("system=[]", "suite.num=2", "suite.controls=[codec]", "suite.pages=0")
    assert run(*alone, manifest=manifest) == 0
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/codec").glob("*.wav")}
    first = next(mine.glob("audio/test-000000/0.wav"))
    sound.write(first, replace(loud := sound.read(first), samples=0.5 * loud.samples))
    assert run(*alone, manifest=manifest) == 0
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out/codec").glob("*.wav")}
    assert before.items() < after.items()
    assert len(after) == len(before) + 1


def test_a_stopped_run_goes_on_and_more_stories_can_follow(run, asked, tmp_path, monkeypatch, capsys):
    given = AudioStoryPipeline.plan

    def stopping(self, instruction, **options):
        if len(asked) == 2:
            raise KeyboardInterrupt
        return given(self, instruction, **options)

    monkeypatch.setattr(AudioStoryPipeline, "max_batch_scripts", 2)
    with monkeypatch.context() as patch:
        planning.give(patch, stopping)
        assert run("suite.num=4") == 130
    assert "goes on from here" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.md").exists()
    assert run("suite.num=4") == 0
    assert len(asked) == 4
    assert run("suite.num=5") == 0
    assert len(asked) == 5


def test_stories_told_otherwise_are_not_mixed(run, tmp_path, capsys):
    assert run("suite.num=2") == 0
    assert run("suite.num=2", "seed=1", "systems.mini.steps=3") == 2
    error = capsys.readouterr().err
    assert "seed 0 (now 1), steps 1 (now 3)" in error
    assert "choose another output" in error


def test_a_system_that_told_elsewhere_is_scored_from_its_folder(run, tmp_path):
    assert run() == 0
    first = report(tmp_path)["scores"]["mini"]
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert run("system=folder", f"systems.folder.folder={tmp_path / 'elsewhere/told/mini'}") == 0
    again = report(tmp_path)
    assert again["scores"]["folder"] == first
    assert again["facts"]["systems"]["folder"]["kind"] == "folder"


def test_an_exam_that_is_not_there_is_written(run, tmp_path, capsys):
    manifest = tmp_path / "exam" / "manifest.jsonl"
    alone = ("system=[]", "suite.controls=[truth,shuffled]", f"suite.ear={BUNDLED}")
    assert run(*alone, "suite.num=2", manifest=manifest) == 0
    scores = report(tmp_path)["scores"]
    assert len(manifest.read_text().splitlines()) == 2
    assert scores["truth"]["order of sounds right"]["mean"] == 1
    assert scores["truth"]["sound right"]["mean"] > 0.9
    assert run(*alone, "suite.num=3", manifest=manifest) == 2
    assert "holds 2 stories, 3 were asked" in capsys.readouterr().err


def test_processes_share_the_telling_and_tell_the_same(run, tmp_path, monkeypatch):
    assert run("suite.num=3", "suite.controls=[]") == 0
    alone = report(tmp_path)["scores"]
    (tmp_path / "out").rename(tmp_path / "alone")
    monkeypatch.setattr(Place, "wait_for_all", lambda self: None)
    for rank in (1, 0):  # the first one comes last, as it waits for the others
        monkeypatch.setattr(Place, "of_environment", classmethod(lambda cls, rank=rank: cls(rank=rank, processes=2)))
        assert run("suite.num=3", "suite.controls=[]") == 0
        told = {path.name for path in (tmp_path / "out/told/mini").iterdir() if path.is_dir()}
        assert len(told) == (1 if rank else 3)
    assert report(tmp_path)["scores"] == alone


def test_a_corpus_without_audio_says_how_to_write_one(run, tmp_path, capsys):
    silent = write_manifest(tmp_path / "silent", [["dog", "rain"], ["bell", "dog"]], audio=False)
    assert run("suite.num=2", manifest=silent) == 2
    assert "scripts/make_soundworld.py" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("suite.num=7",), "holds 6 stories, 7 were asked"),
        (("suite.num=0",), "suite.num must be"),
        (("suite.num=1",), "suite.num must be"),
        (("suite.stories=nowhere.jsonl",), "there is no nowhere.jsonl"),
        (("suite.tasks=[story]",), "suite.tasks has 'story'"),
        (("suite.pages=-1",), "suite.pages is a number"),
        (("suite.ear=nowhere",), "train_ear.py"),
        (("system=mini", "systems.mini.model_path=nowhere"), "no model folder at nowhere"),
        (("systems.mini.steps=0",), "steps must be"),
        (("systems.mini.guidance=.nan",), "guidance must be"),
        (("device=abacus", "suite.controls=[]"), "no device 'abacus'"),
        (("systems.mini.text_to_audio=x",), "there is no setting systems.mini.text_to_audio"),
        (("system=whole_caption", "systems.whole_caption.text_to_audio=nowhere"), "there is no folder nowhere"),
        (("system=minni",), "Could not find 'system/minni'"),
        (("suite.mum=3",), "did you mean num?"),
    ],
)
def test_a_mistake_costs_a_line_and_no_file(run, model, tmp_path, capsys, overrides, message):
    chosen = any(override.startswith("system=") for override in overrides)
    assert run(*(() if chosen else (f"systems.mini.model_path={model}",)), *overrides) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_truth_and_chance_need_no_model(run, tmp_path):
    assert run("system=[]", "suite.controls=[truth,shuffled]", "suite.codec=nowhere") == 0
    assert report(tmp_path)["facts"]["systems"] == {}


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
