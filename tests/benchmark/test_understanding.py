"""evaluate/understanding.py: answers and captions from files are scored beside chance, and what is amiss is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import commands
import pytest

QUESTIONS = [{"id": f"q{n}", "answer": "yes" if n < 6 else "no", "heard": f"{n // 2}.wav"} for n in range(8)]
CAPTIONS = [
    {"id": "c0", "captions": ["a dog barks loudly twice", "barking"]},
    {"id": "c1", "captions": ["rain falls on tin roofs"]},
    {"id": "c2", "captions": ["an engine starts"]},
]
TRUE = {row["id"]: row.get("answer") or row["captions"][0] for row in QUESTIONS + CAPTIONS}


def write(file: Path, rows) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def said(file: Path, answers: dict[str, str]) -> str:
    return write(file, [{"id": id, "answer": answer} for id, answer in answers.items()])


@pytest.fixture
def run(tmp_path):
    command = commands.load("evaluate/understanding.py")

    def call(references, *answers: str) -> int:
        file = write(tmp_path / "references.jsonl", references)
        return command.main(["--references", file, "--answers", *answers, "--output", str(tmp_path / "out")])

    return call


def scores(tmp_path) -> dict:
    return json.loads((tmp_path / "out/report.json").read_text())["scores"]


def test_answers_are_scored_beside_chance_and_one_answer_to_all_is_worth_one_class(run, tmp_path, capsys):
    files = [
        said(tmp_path / "right.jsonl", {row["id"]: row["answer"].upper() + "." for row in QUESTIONS}),
        said(tmp_path / "always.jsonl", {row["id"]: "yes" for row in QUESTIONS}),
    ]
    assert run(QUESTIONS, *files) == 0
    found = scores(tmp_path)
    assert list(found) == ["right", "always", "shuffled"]
    assert found["right"]["accuracy, all"]["mean"] == 1
    assert found["always"]["accuracy, all"]["mean"] == pytest.approx(6 / 8)
    assert found["always"]["balanced accuracy, yes or no"]["mean"] == pytest.approx(0.5)
    assert found["shuffled"]["accuracy, all"]["mean"] < 1
    assert "CIDEr" not in capsys.readouterr().out
    facts = json.loads((tmp_path / "out/report.json").read_text())["facts"]
    assert len(facts["answers"]["right"]["sha256"]) == 64


def test_captions_are_scored_with_the_answers(run, tmp_path):
    pytest.importorskip("aac_metrics.functional", reason="the extra `captions` is not installed")
    assert run(QUESTIONS + CAPTIONS, said(tmp_path / "right.jsonl", TRUE)) == 0
    found = scores(tmp_path)
    cider = "CIDEr-D, words split in Python"
    assert found["right"][cider]["num"] == 3
    assert found["right"][cider]["mean"] > 5 > 0.1 > found["shuffled"][cider]["mean"]
    assert found["right"]["accuracy, all"]["num"] == 8


@pytest.mark.parametrize(
    ("references", "answers", "message"),
    [
        (QUESTIONS, {"q0": "yes"}, "7 of 8 answers are missing"),
        (QUESTIONS[:1], {"q0": "yes", "q9": "no"}, "1 were not asked for (such as 'q9')"),
        ([{"id": "q"}], {}, "line 1 is no reference"),
        ([{"id": "q", "answer": "?!"}], {}, "has no words to compare"),
        ([{"id": "q", "captions": "rain"}], {}, "there should be texts, not 'rain'"),
        ([*QUESTIONS, QUESTIONS[0]], {}, "line 9: the id 'q0' stands on an earlier line too"),
        ([], {}, "holds no references"),
    ],
)
def test_a_mistake_costs_a_line_and_no_file(run, tmp_path, capsys, references, answers, message):
    assert run(references, said(tmp_path / "mine.jsonl", answers)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_columns_of_one_name_are_refused(run, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    answers = {row["id"]: "yes" for row in QUESTIONS}
    files = [said(folder / "mine.jsonl", answers) for folder in (tmp_path, tmp_path / "other")]
    assert run(QUESTIONS, *files) == 2
    assert run(QUESTIONS, said(tmp_path / "shuffled.jsonl", answers)) == 2
    assert capsys.readouterr().err.count("rename one") == 2


def test_without_the_package_of_captions_it_says_what_to_install(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "aac_metrics", None)
    assert run(CAPTIONS, said(tmp_path / "mine.jsonl", {row["id"]: "rain" for row in CAPTIONS})) == 2
    assert "pip install 'audiostory[captions]'" in capsys.readouterr().err
