"""evaluate/judge.py against a judge on this machine: figures with known answers, going on, controls, money and keys."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import commands
import pytest
from benchmark.judge import loopback
from benchmark.judge.loopback import KEY, write_tone

from audiostory.benchmark.judge.asking import Patience

pytest.importorskip("httpx", reason="needs the extra `judge`")
COMMAND = Path(__file__).parents[3] / "evaluate" / "judge.py"
CALLS = 3 * (4 + 2) * 3  # stories, axes and two rubric items, calls


@pytest.fixture
def options(server, told, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    where = ["--told", str(told), "--output", str(tmp_path / "judged")]
    who = ["--backend", "openai", "--model", "m-1", "--base_url", f"{server.root}/v1"]
    return [*where, *who, "--yes", "--timeout", "30"]


@pytest.fixture
def run(options, monkeypatch):
    command = commands.load("evaluate/judge.py")
    monkeypatch.setattr("audiostory.benchmark.judge.asking.Patience", partial(Patience, first_wait=0.01))

    def call(*more: str) -> int:
        return command.main([*options, *more])

    return call


def report(tmp_path, folder: str = "judged") -> dict:
    return json.loads((tmp_path / folder / "report.json").read_text())


def means(found: dict, name: str = "judged") -> dict[str, float]:
    return {measure: score["mean"] for measure, score in found["scores"][name].items()}


def lines(tmp_path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "judged" / "judgements.jsonl").read_text().splitlines()]


def test_a_judge_that_hears_gives_what_is_due_and_the_report_says_how(run, server, tmp_path, capsys):
    assert run() == 0
    found = report(tmp_path)
    assert means(found) | {
        "instruction following": 5.0,
        "instruction following: order": 5.0,
        "reasoning logic": 4.0,
        "consistency": 3.0,
        "coherence": 3.0,
        "coherence: spread over calls": 0.0,
        "rubric satisfaction": 1.0,
        "rubric: calls disagree": 0.0,
    } == means(found)
    assert found["scores"]["judged"]["instruction following"]["num"] == 3
    facts = found["facts"]
    assert facts["judge"]["model"] == "m-1"
    assert facts["judge"]["temperature"] == 0
    assert facts["judge"]["prompts"].startswith("1-")
    assert facts["asked"]["num_calls"] == 3
    assert facts["answers"] == {"planned": CALLS, "there": CALLS}
    assert facts["this_run"]["requests"] == CALLS + 3 == len(server.requests)
    assert facts["failures"]["num"] == 0
    assert "instruction following" in (tmp_path / "judged" / "report.md").read_text()
    assert f"{CALLS + 9 * 7 - 18 + 3} questions" in capsys.readouterr().out  # of the rubrics seven items were guessed
    assert len(lines(tmp_path)) == CALLS
    assert {request.audio is None for request in server.requests if "<plan>" in request.prompt} == {True}


def test_the_order_of_criteria_differs_between_calls_and_not_between_runs(run, server, tmp_path):
    run("--axes", "coherence", "--calls", "8", "--num", "1")
    asked = [request.prompt for request in server.requests]
    assert len(set(asked)) > 3
    run("--axes", "coherence", "--calls", "8", "--num", "1", "--output", str(tmp_path / "again"))
    assert sorted(request.prompt for request in server.requests[8:]) == sorted(asked)


def test_the_same_command_asks_nothing_twice_and_writes_the_same_report(run, server, tmp_path, capsys, monkeypatch):
    run()
    before, num = means(report(tmp_path)), len(server.requests)
    monkeypatch.delenv("OPENAI_API_KEY")  # not even a key is needed
    assert run() == 0
    assert "every question has its answer already" in capsys.readouterr().out
    assert (means(report(tmp_path)), len(server.requests)) == (before, num)


def test_only_what_changed_is_asked_again(run, server, told):
    run("--axes", "coherence", "reasoning")
    num = len(server.requests)
    write_tone(told / "story-1" / "story.wav", 600, seconds=0.7)
    run("--axes", "coherence", "reasoning")
    assert len(server.requests) == num + 3  # coherence of the story that sounds otherwise now
    run("--axes", "coherence", "reasoning", "--calls", "4")
    assert len(server.requests) == num + 3 + 6
    run("--axes", "coherence", "--model", "m-2")
    assert len(server.requests) == num + 3 + 6 + 9
    run("--axes", "coherence", "--model", "m-2", "--base_url", f"{server.root}/v1/")
    assert len(server.requests) == num + 3 + 6 + 9
    run("--axes", "coherence", "--model", "m-2", "--base_url", f"{server.root}/other/../v1")  # who knows what is there
    assert len(server.requests) == num + 3 + 6 + 9 + 9


def test_a_run_that_was_killed_goes_on_and_loses_nothing_that_was_answered(options, run, server, tmp_path, capsys):
    server.misdeeds.extend([lambda s, h, r: loopback.says(s.answer(r))(s, h, r)] * 10 + [loopback.hang])
    process = subprocess.Popen(
        [sys.executable, str(COMMAND), *options, "--in_flight", "1"], cwd=COMMAND.parents[1], env=dict(os.environ)
    )
    end = time.monotonic() + 120
    while len(server.requests) < 11 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert len(server.requests) == 11
    assert len(lines(tmp_path)) == 10 - 3  # three drew the rubrics
    with (tmp_path / "judged" / "judgements.jsonl").open("a") as stream:
        stream.write('{"key": "half a li')
    server.reset()
    assert run() == 0
    assert "judgements.jsonl was cut off (18 bytes); its question is asked again" in capsys.readouterr().out
    assert len(server.requests) == CALLS - 7
    assert means(report(tmp_path))["instruction following"] == 5


def test_a_server_in_every_kind_of_trouble_is_outlived(run, server, tmp_path):
    bad = ["I like it.", '{"reason": "", "scores": {}}', '```json\n{"reason": "x"}\n```']
    server.misdeeds.extend([loopback.status(429, {"Retry-After": "0.05"}), loopback.status(500), loopback.cut])
    server.misdeeds.extend([loopback.says(bad[0]), loopback.slow(0.1), loopback.status(503), loopback.says(bad[2])])
    assert run("--in_flight", "1") == 0  # so that it is known who meets which trouble
    found = report(tmp_path)
    assert means(found)["instruction following"] == 5
    assert found["facts"]["this_run"]["tried again"] == 4
    assert found["facts"]["this_run"]["asked again for the form"] == 2


def test_a_code_fence_is_no_trouble(run, server, tmp_path):
    server.answer = lambda request: f"```json\n{loopback.fair(request)}\n```"
    assert run() == 0
    assert report(tmp_path)["facts"]["this_run"]["requests"] == CALLS + 3


def test_what_finally_fails_is_named_and_counted_and_is_no_zero(run, server, tmp_path, capsys):
    out_of_range = '{"reason": "", "scores": {"purpose": 9, "development": 9, "fit": 9, "flow": 9}}'
    server.answer = lambda request: out_of_range if "- flow:" in request.prompt else loopback.fair(request)
    assert run("--axes", "coherence", "consistency") == 1
    found = report(tmp_path)
    assert found["scores"]["judged"]["coherence"] == {"mean": None, "low": None, "high": None, "num": 0}
    assert means(found)["consistency"] == 3
    assert found["facts"]["failures"]["num"] == 9
    first = found["facts"]["failures"]["first"][0]
    assert first["axis"] == "coherence"
    assert "is 9, a whole number from 0 to 5 was expected" in first["reason"]
    assert "9 questions got no answer and are in no mean" in capsys.readouterr().out
    server.answer = loopback.fair
    assert run("--axes", "coherence", "consistency") == 0
    assert means(report(tmp_path))["coherence"] == 3


def test_a_story_too_long_to_be_sent_leaves_the_others_judged(run, told, tmp_path, capsys, monkeypatch):
    write_tone(told / "story-0" / "story.wav", 300, seconds=2.0)
    monkeypatch.setattr("audiostory.benchmark.judge.recording.LARGEST_MB", 0.05)
    assert run("--axes", "instruction", "coherence", "--calls", "6", "--in_flight", "1") == 1
    found = report(tmp_path)
    assert found["scores"]["judged"]["coherence"]["num"] == 2
    assert found["facts"]["failures"]["num"] == 12
    assert "12 questions got no answer" in capsys.readouterr().out


def test_the_shuffled_control_scores_low_where_the_instruction_matters(run, server, tmp_path):
    assert run("--shuffle", "3") == 0
    found = report(tmp_path, "judged/shuffled-3")
    scores = means(found, "shuffled")
    assert scores["instruction following"] == 0
    assert scores["reasoning logic"] == 0
    assert scores["rubric satisfaction"] == 0.5  # there is some tone
    assert "consistency" not in scores  # which reads no instruction
    assert not any("story-" in request.prompt or "shuffle" in request.prompt for request in server.requests)


def test_all_systems_are_asked_the_same_items(run, server, told, tmp_path):
    run("--axes", "rubric")
    drawn = (tmp_path / "rubric.jsonl").read_text()
    server.answer = lambda request: loopback.fair(request).replace("at all", "of any kind")
    items = tmp_path / "items.jsonl"
    for number, hertz in enumerate((300, 600, 900)):
        write_tone(tmp_path / "wavs" / f"story-{number}.wav", 300)
        with items.open("a") as stream:
            stream.write(json.dumps({"id": f"story-{number}", "instruction": f"a tone of {hertz} Hz"}) + "\n")
    command = commands.load("evaluate/judge.py")
    who = ["--backend", "openai", "--model", "m-1", "--base_url", f"{server.root}/v1", "--yes"]
    what = ["--wavs", str(tmp_path / "wavs"), "--items", str(items), "--output", str(tmp_path / "other")]
    assert command.main([*what, *who]) == 0
    assert (tmp_path / "rubric.jsonl").read_text() == drawn
    scores = means(report(tmp_path, "other"))
    assert scores["rubric satisfaction"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert scores["instruction following"] == pytest.approx(5 / 3)
    assert "reasoning logic" not in scores  # it shows no plan


def test_items_can_share_a_question(run, server, tmp_path):
    assert run("--axes", "rubric", "--items_per_call", "5") == 0
    assert len(server.requests) == 3 + 3 * 3
    assert means(report(tmp_path))["rubric satisfaction"] == 1


def test_a_story_that_was_not_told_is_named_and_counts_nothing(run, told, tmp_path, capsys):
    (told / "story-1" / "failure.json").write_text("{}")
    assert run("--axes", "coherence") == 0
    assert "1 stories could not be told by their system (story-1)" in capsys.readouterr().out
    score = report(tmp_path)["scores"]["judged"]["coherence"]
    whole = report(tmp_path)["scores"]["judged"]["coherence: spread over calls"]
    assert (score["num"], whole["num"]) == (3, 2)
    assert score["low"] == 0.0


def test_nothing_is_sent_before_somebody_agrees(options, server, capsys, monkeypatch):
    command = commands.load("evaluate/judge.py")
    options.remove("--yes")
    monkeypatch.setattr("sys.stdin", None)
    assert command.main(options) == 2
    out, err = capsys.readouterr()
    assert "minutes of sound to hear" in out
    assert err == "error: nothing was sent: give --yes to agree to the estimate above\n"

    class Terminal:
        isatty = staticmethod(lambda: True)

    monkeypatch.setattr("sys.stdin", Terminal)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert command.main(options) == 2
    assert server.requests == []
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert command.main([*options, "--axes", "coherence"]) == 0


def test_the_estimate_uses_the_prices_given(run, tmp_path, capsys):
    (tmp_path / "prices.json").write_text('{"m-1": {"text": 0, "audio": 0, "written": 1000000}}')
    run("--axes", "coherence", "--prices", str(tmp_path / "prices.json"))
    assert "9 questions, 0.1 minutes of sound to hear" in (printed := capsys.readouterr().out)
    assert f"about ${9 * 110:.2f}" in printed


@pytest.mark.parametrize("code", [400, 401, 404, 429, 500])
def test_a_server_that_echoes_the_key_gets_it_into_no_file_and_no_output(run, server, tmp_path, capfd, caplog, code):
    caplog.set_level("DEBUG")
    server.misdeeds.extend([loopback.status(code, message="you sent {Authorization}")] * 40)
    assert run("--axes", "coherence", "--tries", "2", "--in_flight", "2") in (1, 2)
    server.misdeeds.clear()
    server.answer = lambda request: loopback.fair(request).replace('"heard"', f'"{KEY}"')
    assert run("--axes", "coherence") == 0
    out, err = capfd.readouterr()
    written = "".join(file.read_text() for file in tmp_path.rglob("*.*") if file.suffix in (".json", ".jsonl", ".md"))
    for text in (out, err, caplog.text, written):
        assert not any(KEY[at : at + 6] in text for at in range(len(KEY) - 5))
    assert '"reason": "(key)"' in written
    assert KEY in server.requests[0].headers["Authorization"]


def test_a_wrong_key_ends_the_run_at_once_with_one_line(run, server, capsys):
    server.misdeeds.extend([loopback.status(401)] * 40)
    assert run("--axes", "coherence", "--in_flight", "1") == 2
    assert len(server.requests) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "error: the server answered 401: the key is wrong, or may not do this; what was answered before is kept"
    )


def test_gemini_judges_too(server, told, tmp_path, monkeypatch):
    pytest.importorskip("google.genai", reason="needs the extra `judge`")
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    what = ["--told", str(told), "--output", str(tmp_path / "judged"), "--axes", "instruction", "rubric", "--yes"]
    who = ["--backend", "gemini", "--model", "gemini-2.5-flash", "--base_url", server.root, "--calls", "1"]
    assert commands.load("evaluate/judge.py").main([*what, *who]) == 0
    scores = means(report(tmp_path))
    assert scores["instruction following"] == 5
    assert scores["rubric satisfaction"] == 1
    assert all(request.headers.get("x-goog-api-key") == KEY for request in server.requests)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--wavs", "x"], "give --told, or --wavs with --items"),
        (["--told", "nowhere"], "there is no folder nowhere of told stories"),
        (["--calls", "0"], "--calls should be 1 or more, got 0"),
        (["--timeout", "nan"], "--timeout should be more than 0, got nan"),
        (["--temperature", "3"], "--temperature goes from 0 to 2"),
        (["--axes", "coherence", "--shuffle", "1"], "--shuffle has nothing to tell"),
        (["--num", "1", "--shuffle", "1"], "at least 2"),
        (["--items", "nowhere"], "there is no file nowhere"),
        (["--prices", "nowhere"], "there is no file nowhere"),
        (["--base_url", "localhost"], "--base_url should be an address"),
        (["--key_env", "NOT_SET_HERE"], "NOT_SET_HERE of --key_env is not set"),
        (["--backend", "gemini"], "set GEMINI_API_KEY or GOOGLE_API_KEY"),
        (["--backend", "local", "--model", "nowhere"], r"nowhere holds no config.json"),
    ],
)
def test_a_slip_ends_with_one_line_and_nothing_is_sent(run, server, capsys, more, problem):
    assert run(*more) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert problem in err
    assert err.count("\n") == 1
    assert server.requests == []


def test_help_is_there_at_once_and_names_the_keys():
    began = time.perf_counter()
    done = subprocess.run([sys.executable, str(COMMAND), "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 4  # half a second on a machine that is free
    assert "GEMINI_API_KEY" in done.stdout
    assert "OPENAI_API_KEY" in done.stdout
    imports = f"""
import runpy, sys
sys.argv = ["judge.py", "--help"]
try:
    runpy.run_path({str(COMMAND)!r}, run_name="__main__")
except SystemExit:
    print([name for name in ("torch", "numpy", "httpx", "google") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", imports], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
