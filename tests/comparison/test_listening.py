"""evaluate/benchmark.py on questions and continuations, with a tiny model whose answers and plans are given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import planning
import pytest

from audiostory import sound
from audiostory.benchmark.items import read_truth
from audiostory.benchmark.listening import read_questions
from audiostory.model import tiny
from audiostory.pipeline import AudioStoryPipeline, StoryError
from audiostory.processes import Place
from audiostory.sound import Waveform
from audiostory.soundworld.corpus import write_corpus
from audiostory.story import Instruction

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
    planning.give(monkeypatch, plan)
    return seen


def is_sound(audio: Path | Waveform) -> bool:
    waveform = audio if isinstance(audio, Waveform) else sound.read(audio)
    assert waveform.seconds > 2
    return bool(np.any(waveform.samples))


@pytest.fixture
def run(benchmark, model, asked, ear):
    def call(*overrides: str) -> int:
        given = [f"suite.num={NUM}", f"suite.ear={ear}", f"suite.codec={model}"]
        if not any(override.startswith("system") for override in overrides):
            given.append(f"systems.mini.model_path={model}")
        return benchmark(*given, *overrides)

    return call


@pytest.fixture
def ask(run, corpora):
    return lambda *overrides: run("suite.tasks=[questions]", f"suite.questions={corpora['question']}", *overrides)


@pytest.fixture
def go_on(run, corpora):
    return lambda *overrides: run(
        "suite.tasks=[continuations]", f"suite.continuations={corpora['continuation']}", *overrides
    )


def report(tmp_path, name: str) -> dict:
    return json.loads((tmp_path / "out" / name / "report.json").read_text())


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def means(scores: dict) -> dict:
    return {name: score["mean"] for name, score in scores.items() if score["num"]}


def test_answers_stand_beside_those_of_who_does_not_listen(ask, asked, corpora, tmp_path, capsys):
    assert ask(f"suite.questions_train={corpora['question_train']}") == 0
    page = report(tmp_path, "questions")
    assert list(page["scores"]) == list(page["about"]) == ["mini", "mini, silence", "guess", "shuffled"]
    assert set(means(page["scores"]["mini"]).values()) == {1.0}
    assert page["scores"]["mini, silence"]["answers right"]["mean"] < 1
    assert {column["answers right"]["num"] for column in page["scores"].values()} == {4 * NUM}
    assert sorted(heard for heard, _ in asked) == [False] * 4 * NUM + [True] * 4 * NUM
    facts = page["facts"]
    assert facts["manifest"] == facts["manifest"] | {"recordings": NUM, "questions": 4 * NUM}
    assert len(facts["training"]["sha256"]) == len(facts["systems"]["mini"]["model_sha256"]) == 64
    assert "ear" not in facts
    printed = capsys.readouterr().out
    assert f"12 questions about {NUM} recordings" in printed
    assert "| answers right | 12 | 1.000 (1.000 to 1.000) |" in printed
    assert "what the ear hears" not in (tmp_path / "out/questions/report.md").read_text()


def test_every_answer_is_a_line_that_tells_what_was_asked(ask, corpora, tmp_path):
    assert ask() == 0
    first = read_questions(corpora["question"])[0]
    told = tmp_path / "out/questions/told/mini"
    assert lines(told / "answers.0.jsonl")[0] == {
        "id": first.id, "question": first.text, "answer": first.answer, "truth": first.answer
    }  # fmt: skip
    assert {row["answer"] for row in lines(told / "answers_silence.0.jsonl")} == {"yes"}


def test_a_recording_is_given_once_with_all_its_questions(ask, monkeypatch):
    given = []
    describe = AudioStoryPipeline.describe

    def noted(self, audio, questions, **options):
        given.append(len(questions))
        return describe(self, audio, questions, **options)

    monkeypatch.setattr(AudioStoryPipeline, "describe", noted)
    assert ask("suite.controls=[]") == 0
    assert given == [4] * NUM


def test_a_stopped_run_answers_what_is_left_even_after_half_a_line(ask, asked, tmp_path, monkeypatch, capsys):
    describe = AudioStoryPipeline.describe

    def stopping(self, audio, questions, **options):
        if len(asked) >= 4:
            raise KeyboardInterrupt
        return describe(self, audio, questions, **options)

    with monkeypatch.context() as patch:
        patch.setattr(AudioStoryPipeline, "describe", stopping)
        assert ask("suite.controls=[]") == 130
    assert "goes on from here" in capsys.readouterr().err
    answers = tmp_path / "out/questions/told/mini/answers.0.jsonl"
    assert len(lines(answers)) == len(asked) == 4
    assert not (tmp_path / "out/questions/report.md").exists()
    answers.write_bytes(answers.read_bytes()[:-9])
    assert ask("suite.controls=[]") == 0
    assert len(asked) == 4 + 1 + 4 * (NUM - 1)
    assert [row["id"] for row in lines(answers)] == [f"test-question-{k:06d}-{n}" for k in range(NUM) for n in range(4)]
    assert set(means(report(tmp_path, "questions")["scores"]["mini"]).values()) == {1.0}


def test_fewer_recordings_may_be_scored_than_were_answered(ask, asked, tmp_path, monkeypatch):
    assert ask() == 0
    num_asked = len(asked)
    monkeypatch.setattr(AudioStoryPipeline, "from_pretrained", lambda *_: pytest.fail("loaded"))
    assert ask("suite.num=2") == 0
    assert len(asked) == num_asked
    assert report(tmp_path, "questions")["scores"]["mini"]["answers right"]["num"] == 8


def test_an_answer_that_was_damaged_is_named(ask, tmp_path, capsys):
    assert ask("suite.controls=[]") == 0
    file = tmp_path / "out/questions/told/mini/answers.0.jsonl"
    file.write_text(file.read_text().replace('"answer"', '"word"', 1))
    assert ask("suite.controls=[]") == 2
    assert f"{file}, line 1 is no answer" in capsys.readouterr().err


def test_processes_share_the_recordings_and_another_number_of_them_goes_on(ask, asked, tmp_path, monkeypatch):
    monkeypatch.setattr(Place, "wait_for_all", lambda self: None)

    def take(rank: int, processes: int) -> int:
        place = Place(rank=rank, processes=processes)
        monkeypatch.setattr(Place, "of_environment", classmethod(lambda cls: place))
        return ask("suite.controls=[]")

    assert take(1, 2) == 0
    assert len(asked) == 4  # of the second of three recordings
    assert take(0, 1) == 0
    assert len(asked) == 4 * NUM
    assert set(means(report(tmp_path, "questions")["scores"]["mini"]).values()) == {1.0}


def test_who_cannot_be_asked_is_left_out_and_named(ask, model, tmp_path, capsys):
    names = ("mini", "mini_true_storyline")
    systems = [f"system=[{','.join(names)}]", *(f"systems.{name}.model_path={model}" for name in names)]
    assert ask(*systems, "suite.controls=[]") == 0
    assert list(report(tmp_path, "questions")["scores"]) == ["mini"]
    assert "mini_true_storyline: answers no questions, and is left out" in capsys.readouterr().out


def test_continuations_stand_beside_what_the_same_model_plans_after_silence(
    go_on, corpora, model, asked, tmp_path, capsys
):
    names = ("mini", "mini_true_storyline")
    systems = [f"system=[{','.join(names)}]", *(f"systems.{name}.model_path={model}" for name in names)]
    assert go_on(*systems, f"suite.continuations_train={corpora['continuation_train']}") == 0
    page = report(tmp_path, "continuations")
    scores = page["scores"]
    assert list(scores) == ["mini", "mini_true_storyline", "mini, silence", "truth", "codec", "guess", "shuffled"]
    for measure in ("event count right", "order of sounds right", "captions right to the letter"):
        assert scores["mini"][measure]["mean"] == scores["truth"][measure]["mean"] == 1
        assert {column[measure]["num"] for column in scores.values()} == {NUM}
    assert scores["mini, silence"]["order of sounds right"]["mean"] == 0
    assert scores["mini"]["order of sounds right, some referred to"]["mean"] == 1
    assert scores["guess"]["sound planned right, named"] == scores["mini"]["sound planned right, named"]
    assert "sound right" in scores["codec"]
    assert "sound right" not in scores["mini, silence"]
    assert sorted(heard for heard, _ in asked) == [False] * NUM + [True] * NUM
    assert page["facts"]["seconds_to_tell"]["mini"]["total"] >= 0
    assert list(page["hardest"]) == ["mini", "mini_true_storyline", "codec"]
    printed = capsys.readouterr().out
    assert f"note: mini, silence: 1 of {NUM} stories could not be told (test-continuation-000000); all wrong" in printed


def test_what_follows_is_told_into_a_folder_and_what_silence_gives_is_only_planned(go_on, corpora, tmp_path):
    assert go_on("suite.controls=[silence]") == 0
    out = tmp_path / "out/continuations/told/mini"
    truths = read_truth(corpora["continuation"])
    for truth in truths:
        told = sound.read(out / truth.id / "story.wav")
        assert told.seconds == pytest.approx(truth.storyline.total_seconds, abs=0.01)
    failed, other, _ = lines(out / "silence.0.jsonl")
    assert (failed["captions"], failed["seconds"]) == ([], 0.0)
    assert failed["reason"] == "the planner wrote no complete event"
    assert other["captions"] == [event.caption for event in truths[0].storyline.events]


def test_a_continuation_is_neither_told_nor_planned_again(go_on, asked, tmp_path, monkeypatch):
    assert go_on() == 0
    first, num_asked = report(tmp_path, "continuations")["scores"], len(asked)
    monkeypatch.setattr(AudioStoryPipeline, "from_pretrained", lambda *_: pytest.fail("loaded"))
    assert go_on() == 0
    assert report(tmp_path, "continuations")["scores"] == first
    assert len(asked) == num_asked


def test_one_command_measures_all_and_each_has_its_report(run, corpora, tmp_path):
    manifests = [f"suite.stories={corpora['continuation']}"]
    manifests += [f"suite.{name}s={corpora[name]}" for name in ("continuation", "question")]
    everything = ("suite.tasks=[stories,continuations,questions]", *manifests)
    assert run(*everything, "suite.num=2", "system=[]", "suite.controls=[truth,shuffled]") == 0
    for name in ("", "questions", "continuations"):
        assert report(tmp_path, name)["facts"]["systems"] == {}
    assert list(report(tmp_path, "questions")["scores"]) == ["shuffled"]
    assert list(report(tmp_path, "continuations")["scores"]) == ["truth", "shuffled"]


def test_answers_of_another_model_are_not_mixed_in(ask, tmp_path, capsys):
    assert ask("suite.controls=[]") == 0
    assert ask("suite.controls=[]", "seed=1") == 0  # answers have no noise
    settings = tmp_path / "out/questions/told/mini/settings.json"
    settings.write_text(settings.read_text().replace('"model_sha256": "', '"model_sha256": "x'))
    assert ask("suite.controls=[]") == 2
    assert "choose another output" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["questions", "continuations"])
def test_a_model_that_cannot_listen_is_refused_before_any_work(run, deaf, corpora, tmp_path, capsys, kind):
    task = (f"suite.tasks=[{kind}]", f"suite.{kind}={corpora[kind[:-1]]}")
    assert run(*task, f"systems.mini.model_path={deaf}") == 2
    assert "has no audio_encoder and no listener_projector" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("suite.tasks=[continuations]", "suite.continuations={question}"), "it asks a question"),
        (("suite.tasks=[questions]", "suite.questions={continuation}"), "line 1 is no question"),
        (("suite.tasks=[questions]", "suite.questions={question}", "suite.num=4"), "holds 3 recordings, 4 were asked"),
        (("suite.tasks=[questions]", "suite.questions={question_train}"), "lacks the recordings"),
        (("suite.tasks=[continuations]", "suite.continuations={continuation_train}"), "lacks the audio of its events"),
        (
            ("suite.tasks=[questions]", "suite.questions={question}", "suite.questions_train=nowhere"),
            "no manifest at nowhere",
        ),
    ],
)
def test_a_mistake_costs_a_line_and_no_file(run, corpora, tmp_path, capsys, overrides, message):
    assert run(*(word.format(**corpora) for word in overrides)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_stories_have_no_opening_to_go_on_from(run, corpus, capsys):
    assert run("suite.tasks=[continuations]", f"suite.continuations={corpus}") == 2
    assert "give it as suite.stories" in capsys.readouterr().err
