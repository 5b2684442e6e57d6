"""The script that trains the mini from zero, with a stand-in for Python that writes down what it is asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_mini.sh"
STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"{log}"
case "$*" in
    *{fails}*) sleep 1; exit 3 ;; # so that what runs beside it has set its trap
    *{waits}*)
        trap 'echo saved >>"{log}"; exit 0' TERM
        for _ in $(seq 200); do sleep 0.1; done
        echo "too late" >>"{log}" ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """(steps, fails, waits) -> (exit code, what Python was asked for, seconds)."""

    def go(*steps: str, fails: str = "nothing", waits: str = "nothing") -> tuple[int, list[str], float]:
        log, python = tmp_path / "log", tmp_path / "python"
        python.write_text(STAND_IN.format(log=log, fails=fails, waits=waits))
        python.chmod(0o755)
        began = time.monotonic()
        environment = {**os.environ, "PYTHON": str(python), "RUNTIME": "cpu"}
        done = subprocess.run(["bash", str(SCRIPT), *steps], env=environment, capture_output=True, text=True)
        asked = log.read_text().splitlines() if log.exists() else []
        return done.returncode, asked, time.monotonic() - began

    return go


def stages(asked: list[str]) -> list[str]:
    return [line.split("stage=")[1].split()[0] for line in asked if line.startswith("train.py")]


def test_steps_come_in_the_order_given(run):
    code, asked, _ = run("planner", "stage1_warmup", "stage1")
    assert code == 0
    assert stages(asked) == ["planner", "stage1_warmup", "stage1"]


def test_chains_side_by_side_keep_their_own_order_and_are_done_before_the_next_step(run):
    code, asked, _ = run("codec,tangoflux+planner", "stage1")
    found = stages(asked)
    assert code == 0
    assert sorted(found) == ["codec", "planner", "stage1", "tangoflux"]
    assert found.index("codec") < found.index("tangoflux")
    assert found[-1] == "stage1"


def test_when_a_chain_fails_the_other_saves_and_nothing_follows(run):
    code, asked, seconds = run("codec+planner", "stage1", fails="stage=codec", waits="stage=planner")
    assert code == 1
    assert asked[-1] == "saved"
    assert "stage1" not in stages(asked)
    assert seconds < 15


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_script_that_is_stopped_lets_its_step_save_and_begins_no_other(tmp_path, kind):
    """As Ctrl-C does, which reaches the script and what it runs; a stopped train.py says that all is well."""
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(STAND_IN.format(log=log, fails="nothing", waits="stage=planner").replace("TERM", "TERM INT"))
    python.chmod(0o755)
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "planner", "stage1"],
        env={**os.environ, "PYTHON": str(python), "RUNTIME": "cpu"},
        start_new_session=True,
        # Tests that run in the background ignore Ctrl-C, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (log.exists() and "stage=planner" in log.read_text()):
        time.sleep(0.05)
    time.sleep(0.3)  # until the stand-in has set its trap
    os.killpg(process.pid, kind)
    assert process.wait(20) == 130
    asked = log.read_text().splitlines()
    assert asked[-1] == "saved"
    assert stages(asked) == ["planner"]


def test_an_unknown_step_is_named_before_anything_runs(run):
    assert run("codec,wave+planner")[:2] == (2, [])
