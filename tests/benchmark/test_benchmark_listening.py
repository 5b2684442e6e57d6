"""evaluate/benchmark.py on questions and continuations, with a tiny model whose answers and plans are given."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import numpy as np
import pytest

from audiostory import sound
from audiostory.benchmark.items import read_truth
from audiostory.benchmark.listening import read_questions
from audiostory.model import tiny
from audiostory.pipeline import AudioStoryPipeline, StoryError
from audiostory.sound import Waveform
from audiostory.soundworld.corpus import write_corpus
from audiostory.story import Instruction
from audiostory.weights.ours import Settings

NUM = 3


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    """Manifests with sound to ask of, and others without sound to guess from."""
    folder = tmp_path_factory.mktemp("corpora")
    for kind in ("question", "continuation"):
        write_corpus(folder / kind, kind=kind, split="test", num=NUM)
        write_corpus(folder / f"{kind}_train", kind=kind, split="train", num=20, audio=False)
    return {path.name: path / "manifest.jsonl" for path in folder.iterdir()}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """It listens."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    AudioStoryPipeline(
        *parts,
        Settings(steps=1, guidance=1.0, crossfade_seconds=0.25),
        audio_encoder=tiny.audio_encoder(),
        listener_projector=tiny.listener_projector(),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def deaf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "deaf"
    parts = (tiny.planner(), tiny.vocabulary(), tiny.bridge(), tiny.dit(), tiny.codec(front="waveform"))
    AudioStoryPipeline(*parts).save_pretrained(folder)
    return folder


@pytest.fixture
def asked(monkeypatch, corpora) -> list[tuple[bool, str]]:
    """Gives the right answers and plans to whoever is given the recording, and others to silence; the first
    continuation cannot be planned after silence. Keeps whether there was sound, and the text."""
    seen: list[tuple[bool, str]] = []
    truths = {truth.instruction.text: truth for truth in read_truth(corpora["continuation"])}
    answers = {(entry.recording, entry.text): entry.answer for entry in read_questions(corpora["question"])}

    def describe(self, audio: Path | Waveform, questions: list[str], **_) -> list[str]:
        seen.extend((is_sound(audio), text) for text in questions)
        return [answers[audio, text] if isinstance(audio, Path) else "yes" for text in questions]

    def plan(self, instruction: Instruction, audio: Waveform | None = None, **_):
        truth = truths[instruction.text]
        assert instruction == truth.instruction
        heard = audio or instruction.audio
        assert heard
        seen.append((is_sound(heard), instruction.text))
        if seen[-1][0]:
            return self.plan_from_storyline(truth.storyline, instruction)
        if truth.id.endswith("000"):
            raise StoryError("the planner wrote no complete event")
        return self.plan_from_storyline(next(iter(truths.values())).storyline, instruction)

    monkeypatch.setattr(AudioStoryPipeline, "describe", describe)
    monkeypatch.setattr(AudioStoryPipeline, "plan", plan)
    return seen


def is_sound(audio: Path | Waveform) -> bool:
    waveform = audio if isinstance(audio, Waveform) else sound.read(audio)
    assert waveform.seconds > 2
    return bool(np.any(waveform.samples))


@pytest.fixture
def run(model, tmp_path, asked):
    command = commands.load("evaluate/benchmark.py")

    def call(*options: str | Path) -> int:
        given = ["--output", tmp_path / "out", "--num", NUM, "--device", "cpu", "--model_path", model, *options]
        return command.main([str(word) for word in given])

    return call


@pytest.fixture
def ask(run, corpora):
    return lambda *options: run("--questions", corpora["question"], *options)


@pytest.fixture
def go_on(run, corpora, ear):
    return lambda *options: run("--continuations", corpora["continuation"], "--ear", ear, *options)


def report(tmp_path, name: str) -> dict:
    return json.loads((tmp_path / "out" / name / "report.json").read_text())


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def means(scores: dict) -> dict:
    return {name: score["mean"] for name, score in scores.items() if score["num"]}


def test_answers_stand_beside_those_of_who_does_not_listen(ask, asked, corpora, tmp_path, capsys):
    assert ask("--questions_train", corpora["question_train"]) == 0
    page = report(tmp_path, "questions")
    assert list(page["scores"]) == list(page["about"]) == ["told", "silence", "guess", "shuffled"]
    assert set(means(page["scores"]["told"]).values()) == {1.0}
    assert page["scores"]["silence"]["answers right"]["mean"] < 1
    assert {column["answers right"]["num"] for column in page["scores"].values()} == {4 * NUM}
    assert sorted(heard for heard, _ in asked) == [False] * 4 * NUM + [True] * 4 * NUM
    assert page["facts"]["manifest"] == page["facts"]["manifest"] | {"recordings": NUM, "questions": 4 * NUM}
    assert len(page["facts"]["training"]["sha256"]) == len(page["facts"]["model"]["model_sha256"]) == 64
    assert "ear" not in page["facts"]
    printed = capsys.readouterr().out
    assert f"12 questions about {NUM} recordings" in printed
    assert "| answers right | 12 | 1.000 (1.000 to 1.000) |" in printed
    assert "what the ear hears" not in (tmp_path / "out/questions/report.md").read_text()


def test_every_answer_is_a_line_that_tells_what_was_asked(ask, corpora, tmp_path):
    assert ask() == 0
    first = read_questions(corpora["question"])[0]
    assert lines(tmp_path / "out/questions/answers.jsonl")[0] == {
        "id": first.id, "question": first.text, "answer": first.answer, "truth": first.answer
    }  # fmt: skip
    assert {row["answer"] for row in lines(tmp_path / "out/questions/answers_silence.jsonl")} == {"yes"}


def test_a_recording_is_given_once_with_all_its_questions(ask, monkeypatch):
    given = []
    describe = AudioStoryPipeline.describe

    def noted(self, audio, questions, **options):
        given.append(len(questions))
        return describe(self, audio, questions, **options)

    monkeypatch.setattr(AudioStoryPipeline, "describe", noted)
    assert ask("--systems", "told") == 0
    assert given == [4] * NUM


def test_a_stopped_run_answers_what_is_left_even_after_half_a_line(ask, asked, tmp_path, monkeypatch, capsys):
    describe = AudioStoryPipeline.describe

    def stopping(self, audio, questions, **options):
        if len(asked) >= 4:
            raise KeyboardInterrupt
        return describe(self, audio, questions, **options)

    with monkeypatch.context() as patch:
        patch.setattr(AudioStoryPipeline, "describe", stopping)
        assert ask("--systems", "told") == 130
    assert "goes on from here" in capsys.readouterr().err
    answers = tmp_path / "out/questions/answers.jsonl"
    assert len(lines(answers)) == len(asked) == 4
    assert not answers.with_name("report.md").exists()
    answers.write_bytes(answers.read_bytes()[:-9])
    assert ask("--systems", "told") == 0
    assert len(asked) == 4 + 1 + 4 * (NUM - 1)
    assert [row["id"] for row in lines(answers)] == [f"test-question-{k:06d}-{n}" for k in range(NUM) for n in range(4)]
    assert set(means(report(tmp_path, "questions")["scores"]["told"]).values()) == {1.0}


def test_fewer_recordings_may_be_scored_than_were_answered(ask, asked, tmp_path, monkeypatch):
    assert ask() == 0
    num_asked = len(asked)
    monkeypatch.setattr(AudioStoryPipeline, "from_pretrained", lambda *_: pytest.fail("loaded"))
    assert ask("--num", "2") == 0
    assert len(asked) == num_asked
    assert report(tmp_path, "questions")["scores"]["told"]["answers right"]["num"] == 8


def test_an_answer_that_was_damaged_is_named(ask, tmp_path, capsys):
    assert ask("--systems", "told") == 0
    file = tmp_path / "out/questions/answers.jsonl"
    file.write_text(file.read_text().replace('"answer"', '"word"', 1))
    assert ask("--systems", "told") == 2
    assert f"{file}, line 1 is no answer" in capsys.readouterr().err


def test_continuations_stand_beside_what_the_same_model_plans_after_silence(go_on, corpora, asked, tmp_path, capsys):
    assert go_on("--oracle", "--continuations_train", corpora["continuation_train"]) == 0
    page = report(tmp_path, "continuations")
    scores = page["scores"]
    assert list(scores) == ["told", "oracle", "truth", "codec", "silence", "guess", "shuffled"]
    for measure in ("event count right", "order of sounds right", "captions right to the letter"):
        assert scores["told"][measure]["mean"] == scores["truth"][measure]["mean"] == 1
        assert {column[measure]["num"] for column in scores.values()} == {NUM}
    assert scores["silence"]["order of sounds right"]["mean"] == 0
    assert scores["told"]["order of sounds right, some referred to"]["mean"] == 1
    assert scores["guess"]["sound planned right, named"] == scores["told"]["sound planned right, named"]
    assert "sound right" in scores["codec"]
    assert "sound right" not in scores["silence"]
    assert sorted(heard for heard, _ in asked) == [False] * NUM + [True] * NUM
    assert page["facts"]["seconds_to_tell"]["told"]["total"] >= 0
    assert "told" in page["hardest"]
    assert "silence" not in page["hardest"]
    printed = capsys.readouterr().out
    assert f"note: silence: 1 of {NUM} stories could not be told (test-continuation-000000); all wrong" in printed


def test_what_follows_is_told_into_a_folder_and_what_silence_gives_is_only_planned(go_on, corpora, tmp_path):
    assert go_on("--systems", "told", "silence") == 0
    out = tmp_path / "out/continuations"
    truths = read_truth(corpora["continuation"])
    for truth in truths:
        told = sound.read(out / "told" / truth.id / "story.wav")
        assert told.seconds == pytest.approx(truth.storyline.total_seconds, abs=0.01)
    failed, other, _ = lines(out / "silence.jsonl")
    assert (failed["captions"], failed["seconds"]) == ([], 0.0)
    assert failed["reason"] == "the planner wrote no complete event"
    assert other["captions"] == [event.caption for event in truths[0].storyline.events]
    assert sorted(path.name for path in out.iterdir()) == [
        "report.json", "report.md", "settings.json", "silence.jsonl", "told"
    ]  # fmt: skip


def test_a_continuation_is_neither_told_nor_planned_again(go_on, asked, tmp_path, monkeypatch):
    assert go_on() == 0
    first, num_asked = report(tmp_path, "continuations")["scores"], len(asked)
    monkeypatch.setattr(AudioStoryPipeline, "from_pretrained", lambda *_: pytest.fail("loaded"))
    assert go_on() == 0
    assert report(tmp_path, "continuations")["scores"] == first
    assert len(asked) == num_asked


def test_one_command_measures_all_and_each_has_its_report(go_on, corpora, tmp_path):
    everything = ("--questions", corpora["question"], "--manifest", corpora["continuation"])
    assert go_on(*everything, "--num", "2", "--systems", "truth", "shuffled", "--model_path", "nowhere") == 0
    for name in ("", "questions", "continuations"):
        assert report(tmp_path, name)["facts"]["model"] is None
    assert list(report(tmp_path, "questions")["scores"]) == ["shuffled"]
    assert list(report(tmp_path, "continuations")["scores"]) == ["truth", "shuffled"]


def test_answers_of_another_model_are_not_mixed_in(ask, tmp_path, capsys):
    assert ask("--systems", "told") == 0
    assert ask("--systems", "told", "--seed", "1") == 0  # answers have no noise
    settings = tmp_path / "out/questions/settings.json"
    settings.write_text(settings.read_text().replace('"model_sha256": "', '"model_sha256": "x'))
    assert ask("--systems", "told") == 2
    assert "choose another --output" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["questions", "continuations"])
def test_a_model_that_cannot_listen_is_refused_before_any_work(run, deaf, ear, corpora, tmp_path, capsys, kind):
    task = (f"--{kind}", corpora[kind[:-1]], "--ear", ear)
    assert run(*task, "--model_path", deaf) == 2
    assert "it has no audio_encoder and no listener_projector" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(*task, "--model_path", deaf, "--systems", "codec", "shuffled") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --manifest, --questions or --continuations"),
        (("--continuations", "{continuation}"), "--ear is missing"),
        (("--continuations", "{question}", "--ear", "{ear}"), "it asks a question"),
        (("--questions", "{continuation}"), "line 1 is no question"),
        (("--questions", "{question}", "--num", "4"), "holds 3 recordings, 4 were asked"),
        (("--questions", "{question}", "--num", "0"), "--num must be"),
        (("--questions", "{question}", "--systems", "truth"), "leaves nothing to compare of the questions"),
        (("--questions", "{question_train}"), "lacks the recordings"),
        (("--continuations", "{continuation_train}", "--ear", "{ear}"), "lacks the audio of its events"),
        (("--continuations", "{continuation_train}", "--ear", "{ear}", "--systems", "told"), "lacks the openings"),
        (("--questions", "{question}", "--questions_train", "nowhere"), "no manifest at nowhere"),
        (("--questions", "{question}", "--continuations_train", "x"), "guess at --continuations, which is missing"),
    ],
)
def test_a_mistake_costs_a_line_and_no_file(run, corpora, ear, tmp_path, capsys, options, message):
    assert run(*(word.format(ear=ear, **corpora) for word in options)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_stories_have_no_opening_to_go_on_from(run, corpus, ear, capsys):
    assert run("--continuations", corpus, "--ear", ear) == 2
    assert "give it as --manifest" in capsys.readouterr().err
