"""The command that repeats the paper's tables, with stand-ins for what takes hours; one row for real is marked slow."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time

import commands
import pytest

from audiostory import composing
from audiostory.comparison import config as comparison
from audiostory.training import config, data

CONFIGS = commands.ROOT / "configs"
TRAINED = (4, 5, 6, 7, 11)

# Trains nothing, as told by the file `how` beside it: writes down that it was called, and leaves what train.py leaves.
TRAIN = """
import pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
given = dict(argument.split("=", 1) for argument in sys.argv[1:])
output = pathlib.Path(given["output"])
how = (here / "how").read_text() if (here / "how").exists() else ""
with (here / "calls").open("a") as calls:
    calls.write(output.name + "\\n")
if how == "wait":
    signal.signal(signal.SIGTERM, lambda *_: ((output / "saved").touch(), sys.exit(0)))
    (here / "waits").touch()
    time.sleep(60)
if how == "meet":
    for _ in range(600):
        if len((here / "calls").read_text().splitlines()) > 1:
            break
        time.sleep(0.1)
    else:
        sys.exit("nobody came")
if how == "fail" and "ablation" in given:
    print("starting\\ntrain.py: out of luck")
    sys.exit(2)
if how != "stop":
    (output / "checkpoints/step_000002").mkdir(parents=True)
    (output / "export").mkdir()
"""
BENCHMARK = """
import json, pathlib, sys
given = dict(argument.split("=", 1) for argument in sys.argv[1:])
assert pathlib.Path(given["systems.mini.model_path"]).is_dir()
score = {"mean": 0.25 + 0.5 * ("no_captions" in given["output"]), "low": 0.2, "high": 0.8, "num": 7}
report = {"scores": {"mini": {"place stays the same": score, "ear FD": {**score, "low": None, "high": None}}}}
(pathlib.Path(given["output"]) / "report.json").write_text(json.dumps(report))
"""
TABLE = """
table: 4
headline: [full]
left_out: {no reasoning: it is a trial}
rows:
  no interleaved captions: {changes: captions, stages: {planner: &mute [ablation=no_captions], stage3: *mute}}
  full: {changes: nothing, stages: {planner: [], stage3: []}}
"""


@pytest.fixture
def ablate(tmp_path, monkeypatch):
    """The command over a table of two rows with two stages each; `ablate.folder` has the stand-ins, and `out`."""
    command = commands.load("scripts/ablate.py")
    for name, text in (("train.py", TRAIN), ("benchmark.py", BENCHMARK), ("table_04.yaml", TABLE)):
        (tmp_path / name).write_text(text)
    (tmp_path / "shortened.yaml").write_text("every: [logger=none]\nstages: {planner: [stage.steps=6], stage3: []}")
    monkeypatch.setattr(command, "TABLES", tmp_path)
    monkeypatch.setattr(command, "TRAIN", tmp_path / "train.py")
    monkeypatch.setattr(command, "BENCHMARK", tmp_path / "benchmark.py")
    command.folder = tmp_path
    command.run = lambda *more: command.main(
        ["--table", "4", "--output", str(tmp_path / "out"), "--base", str(tmp_path / "base"), *more]
    )
    command.calls = lambda: [name.rpartition("-")[0] for name in (tmp_path / "calls").read_text().splitlines()]
    return command


def test_rows_are_trained_measured_and_put_beside_the_papers(ablate, capsys):
    assert ablate.run("--seeds", "3", "4") == 0
    assert ablate.calls() == [
        *("planner-no_captions-seed3", "stage3-no_captions-seed3"),
        *("planner-seed3", "stage3-seed3", "planner-seed4", "stage3-seed4"),
    ]
    page = (ablate.folder / "out/ablations.md").read_text()
    assert "| full | *measured here* | - | - | - | - | 0.250 (0.250 to 0.250) | 0.250 (0.250 to 0.250) |" in page
    assert "| no interleaved captions | *measured here* | - | - | - | - | 0.750 (0.200 to 0.800) | 0.750 |" in page
    assert "The paper has *full* before *no interleaved captions*, here it is the other way round" in page
    assert "*no reasoning* is missing here: it is a trial." in page
    told = json.loads((ablate.folder / "out/ablations.json").read_text())["tables"]["4"]
    assert told["measured"]["full"]["ear FD"]["num"] == 2
    assert len(told["by_seed"]["full"]) == 2
    assert told["measured"]["no interleaved captions"]["ear FD"]["low"] is None
    assert not list(ablate.folder.glob("out/runs/*/checkpoints"))
    assert ablate.run("--seeds", "3", "4") == 0
    assert len(ablate.calls()) == 6, "what is done was done again"
    assert "ablations.md" in capsys.readouterr().out


def test_a_run_that_other_settings_made_under_the_same_name_is_refused(ablate, capsys):
    assert ablate.run() == 0
    (folder,) = (ablate.folder / "out/runs").glob("planner-seed0-*")
    composed = dict(config.compose(CONFIGS, ["stage=planner", "logger=none", "stage.steps=6", "seed=0"]))
    of = data.fingerprints(composing.build(config.RunConfig, composed))
    told = {"config": composed, "data": of}
    (folder / "run.json").write_text(json.dumps(told))
    assert ablate.run() == 0
    clip = composed["stage"]["optimizer"]["clip_norm"]
    changed = {
        **composed,
        "stage": {**composed["stage"], "optimizer": {**composed["stage"]["optimizer"], "clip_norm": 7}},
    }
    for before, said in (({**told, "config": changed}, f"clip_norm: 7 -> {clip}"), ({**told, "data": {}}, "data.")):
        (folder / "run.json").write_text(json.dumps(before))
        assert ablate.run() == 2
        error = capsys.readouterr().err
        assert f"{folder} was trained with other settings" in error
        assert said in error
    assert len(ablate.calls()) == 4


def test_what_fails_is_named_and_the_rest_goes_on(ablate, capsys):
    (ablate.folder / "how").write_text("fail")
    assert ablate.run() == 1
    said = capsys.readouterr().err
    assert "train.py: out of luck (exit code 2;" in said
    assert "it needs planner-no_captions-seed0-" in said
    assert ablate.calls() == ["planner-no_captions-seed0", "planner-seed0", "stage3-seed0"]
    assert "*no interleaved captions* is missing here: not measured yet" in (
        (ablate.folder / "out/ablations.md").read_text()
    )
    (ablate.folder / "how").unlink()
    assert ablate.run() == 0
    assert ablate.calls()[3:] == ["planner-no_captions-seed0", "stage3-no_captions-seed0"]


def test_a_run_that_stops_before_its_end_is_not_taken_for_done(ablate, capsys):
    (ablate.folder / "how").write_text("stop")
    assert ablate.run() == 1
    assert "it stopped before its end" in capsys.readouterr().err


def test_two_go_at_a_time(ablate):
    (ablate.folder / "how").write_text("meet")
    assert ablate.run("--jobs", "2") == 0


def test_when_it_is_told_to_stop_what_runs_may_save(ablate):
    (ablate.folder / "how").write_text("wait")

    def stop() -> None:
        while not (ablate.folder / "waits").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert ablate.run() == 130
    assert len(list(ablate.folder.glob("out/runs/*/saved"))) == 1
    assert (ablate.folder / "out/ablations.md").exists()


def test_a_dry_run_tells_steps_and_hours_and_starts_nothing(ablate, capsys):
    log = ablate.folder / "base/planner/log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"step": 10, "seconds_per_step": 1200.0}\n{"step": 10, "val/text": 1.0}\n')
    assert ablate.run("--dry_run") == 0
    said = capsys.readouterr().out
    assert "0 of 6  planner-seed0-" in said
    assert "2.00 h left" in said
    assert "4 runs and 2 measurements to do, 4.0 hours of training one by one, and 2 runs of unknown speed" in said
    assert not (ablate.folder / "calls").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--", "stage.stepz=3"), "did you mean steps?"),
        (("--num", "1"), "--num at least 2"),
        (("--table", "9"), "tables that can be repeated are 4"),
    ],
)
def test_a_slip_costs_a_line_and_no_run(ablate, capsys, more, message):
    assert ablate.run(*more) == 2
    assert message in capsys.readouterr().err
    assert not (ablate.folder / "calls").exists()


def test_two_commands_do_not_share_a_folder(ablate, capsys):
    (ablate.folder / "out").mkdir()
    with (ablate.folder / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ablate.run() == 2
    assert "another ablate.py works in" in capsys.readouterr().err


def test_a_table_of_systems_is_read_from_the_benchmarks_report(tmp_path, capsys):
    main = commands.load("scripts/ablate.py").main
    score = {"mean": 0.5, "low": 0.4, "high": 0.6, "num": 7}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"scores": {"mini": {"sound right": score}, "cascade": {"sound right": score}}}))
    asked = ["--table", "1", "--output", str(tmp_path / "out")]
    assert main(asked) == 2
    assert "give the benchmark's report.json" in capsys.readouterr().err
    assert main([*asked, "--report", str(report)]) == 0
    page = (tmp_path / "out/ablations.md").read_text()
    assert "| AudioStory | *measured here* |" in page
    assert "| LLM + TangoFlux | *measured here* |" in page
    assert "*TangoFlux* is missing here: not measured yet" in page


# All tables as they lie in the repository


@pytest.fixture(scope="module")
def planned():
    """The cells of all tables that are trained, their jobs, and each stage's configuration as train.py has it."""
    from audiostory.benchmark.ablations.plan import ordered, plan, read_table

    command = commands.load("scripts/ablate.py")
    options = command.build_parser().parse_args(["--table", *map(str, TRAINED), "--base", "runs/v1"])
    tables = {number: read_table(command.TABLES, number) for number in TRAINED}
    cells = plan(command.TABLES, tables, command.read_settings(options))
    jobs = ordered(cells)
    return cells, jobs, {chosen: run for chosen, (run, _) in command.compose(jobs).items()}


def test_every_run_of_every_table_can_be_composed(planned):
    _, jobs, runs = planned
    assert {job.chosen for job in jobs if job.stage} == set(runs)
    assert all(run.model.name == "mini" and run.runs == "runs/v1" for run in runs.values())


def test_every_measurement_is_one_that_the_benchmark_knows(planned):
    _, jobs, _ = planned
    for asked in {job.arguments[:-2] for job in jobs if job.stage is None}:  # without model and output
        suite = comparison.build(comparison.compose(CONFIGS, asked)).suite
        assert (suite.num, suite.controls) == (100, ())


@pytest.mark.parametrize("number", [4, 5, 6, 11])
def test_all_rows_of_a_table_are_trained_for_as_many_steps(planned, number):
    cells, _, runs = planned
    steps = {c.row: sum(runs[job.chosen].stage.steps for job in stages(c.job)) for c in cells if c.table == number}
    assert len(set(steps.values())) == 1, steps


def test_all_at_once_has_the_steps_of_the_order_that_is_used(planned):
    cells, _, runs = planned
    steps = {c.row: sum(runs[job.chosen].stage.steps for job in stages(c.job)) for c in cells if c.table == 7}
    assert steps["all at once"] == steps["bridge, together, understanding"]


def test_a_closing_step_teaches_nothing(planned):
    _, _, runs = planned
    closing = [run.stage for run in runs.values() if run.stage.steps == 1]
    assert [{part.learning_rate for part in stage.parts.values()} for stage in closing] == [{0.0}]


def test_apart_the_flow_loss_weighs_nothing_and_the_dit_rests_in_all_of_its_stages(planned):
    cells, _, runs = planned
    cell = next(cell for cell in cells if cell.row == "semantic alone, apart")
    trained = [runs[job.chosen] for job in stages(cell.job) if "flow" in runs[job.chosen].stage.losses]
    assert [run.stage.name for run in trained] == ["stage1", "stage3"]
    assert all(run.stage.losses["flow"] == 0 and not run.stage.parts["dit"].learns for run in trained)
    assert all(run.model.bridge["fusion"] == "none" for run in trained)


def stages(job):
    return [] if job is None else [*stages(job.after), *([job] if job.stage else [])]


@pytest.mark.slow
def test_a_row_is_trained_for_real_from_stage_to_stage(ablate, monkeypatch):
    from audiostory.weights import ours

    small = "model=tiny, data=tiny, logger=none, runtime.autocast=none, stage.steps=2, stage.batch.rows=4"
    quiet = "stage.pace.validate=0, stage.pace.listen=0, stage.optimizer.warmup_steps=1"
    (ablate.folder / "shortened.yaml").write_text(
        f"every: [{small}, {quiet}]\nstages: {{stage1_warmup: [], stage1: [], stage3: []}}"
    )
    row = "stages: {stage1_warmup: &one [ablation=residual_1], stage1: *one, stage3: *one}"
    (ablate.folder / "table_11.yaml").write_text(f'table: 11\nrows: {{"1": {{changes: one, {row}}}}}')
    monkeypatch.setattr(ablate, "TRAIN", commands.ROOT / "train.py")
    corpora = ["--corpora", str(commands.ROOT / "data/tiny"), "--runtime", "cpu"]
    assert ablate.run("--table", "11", *corpora) == 0
    export = next(ablate.folder.glob("out/runs/stage3-*/export"))
    assert {"planner", "bridge", "dit", "codec"} <= set(ours.read_names(export))
    bridge = json.loads((export / "bridge/config.json").read_text())
    assert bridge["num_residual"] == 1
    assert "| 1 | *measured here* |" in (ablate.folder / "out/ablations.md").read_text()
