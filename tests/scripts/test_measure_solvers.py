"""The command that measures solvers, with a tiny model and an ear that was taught nothing."""

from __future__ import annotations

import json

import commands
import pytest
from benchmark.conftest import corpus, ear  # noqa: F401
from systems.cases import write_model

from audiostory.systems.ours import Ours

command = commands.load("scripts/measure_solvers.py")
SMALL = ("--num", "2", "--reference", "24", "--evaluations", "4", "8", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(model, corpus, ear, tmp_path):  # noqa: F811
    def call(*flags: str) -> int:
        folders = ("--model_path", str(model), "--stories", str(corpus), "--ear", str(ear))
        return command.main([*folders, "--output", str(tmp_path / "out"), *SMALL, *flags])

    return call


def test_the_curves_are_those_of_every_solver_at_equal_work(run, tmp_path, capsys):
    assert run() == 0
    found = json.loads((tmp_path / "out" / "solvers.json").read_text())
    reference, *ways = found["ways"]
    assert found["facts"]["stories"] == 2
    assert (reference["solver"], reference["evaluations"], reference["scores"]["latent error"]["mean"]) == (
        "midpoint",
        48,
        0,
    )
    assert [(way["solver"], way["steps"], way["evaluations"]) for way in ways] == [
        *(("euler", 4, 4), ("euler", 8, 8), ("midpoint", 2, 4), ("midpoint", 4, 8)),
        *(("heun", 2, 4), ("heun", 4, 8), ("ab2", 4, 4), ("ab2", 8, 8)),
    ]
    for few, many in zip(ways[::2], ways[1::2], strict=True):
        assert 0 < many["scores"]["latent error"]["mean"] < few["scores"]["latent error"]["mean"]
    for way in ways:
        scores = way["scores"]
        assert scores["sound right"]["num"] == scores["heard as the reference"]["num"] == 3  # events of two stories
        difference = scores["sound right"]["mean"] - reference["scores"]["sound right"]["mean"]
        assert scores["sound right, less the reference's"]["mean"] == pytest.approx(difference)
        assert scores["seconds a story"]["mean"] > 0
    page = (tmp_path / "out" / "solvers.md").read_text()
    assert page.count("| ab2 |") == 2
    assert "| ab2 |" in capsys.readouterr().out
    assert (tmp_path / "out" / "solvers.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_goes_on_where_it_was_stopped(run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(command, "_hear", stopping_after(4, command._hear))
        assert run("--solver", "euler", "heun") == 130
    assert not (tmp_path / "out" / "solvers.json").exists()
    lines = (tmp_path / "out" / "rendered.jsonl").read_text()
    assert lines.count("\n") == 4
    assert run("--solver", "euler", "heun") == 0
    stopped = scores(tmp_path)
    assert (tmp_path / "out" / "rendered.jsonl").read_text().startswith(lines)
    monkeypatch.setattr(Ours, "pipeline", property(lambda _: pytest.fail("rendered again")))
    assert run("--solver", "euler", "heun") == 0
    assert scores(tmp_path) == stopped


def scores(folder) -> list:
    return json.loads((folder / "out" / "solvers.json").read_text())["ways"]


def stopping_after(num: int, hear):
    heard = []

    def stopping(*arguments):
        if len(heard) == num:
            raise KeyboardInterrupt
        heard.append(hear(*arguments))
        return heard[-1]

    return stopping


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--solver", "midpint"], "'midpoint' was meant"),
        (["--evaluations", "1"], "a step of midpoint costs 2 evaluations, 1 were given"),
        (["--evaluations", "48"], "must be far above the others; raise --reference"),
        (["--num", "7"], "holds 6 stories, --num 7 were asked"),
        (["--num", "0"], "holds 6 stories, --num 0 were asked"),
        (["--stories", "nowhere"], "no manifest at nowhere"),
        (["--model_path", "nowhere"], "no model folder at nowhere"),
        (["--guidance", "0.5"], "guidance must be"),
        (["--ear", "nowhere"], "no ear in nowhere"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(run, tmp_path, capsys, flags, message):
    assert run(*flags) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not (tmp_path / "out").exists()


def test_stories_of_other_noise_do_not_go_into_one_folder(run, capsys):
    assert run("--num", "1", "--solver", "euler") == 0
    assert run("--num", "1", "--solver", "euler", "--seed", "1") == 2
    assert "seed 0 (now 1)" in capsys.readouterr().err
