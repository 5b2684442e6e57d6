"""Several processes, started by torchrun as a user starts them, against one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from audiostory.training import checkpoint, engine, journal
from audiostory.training.config import Runtime
from audiostory.training.optim import Optimizers

COMPANY = Path(__file__).with_name("company.py")
TORCHRUN = Path(sys.executable).with_name("torchrun")
DDP = {"processes": "ddp"}


def zero(stage: int, **more) -> dict:
    return {"processes": "deepspeed", "deepspeed": {"zero_optimization": {"stage": stage}, **more}}


def run(output: Path, runtime: dict, num: int, *more: str) -> subprocess.CompletedProcess:
    start = [str(TORCHRUN), f"--nproc_per_node={num}", "--standalone"] if num > 1 else [sys.executable]
    command = [*start, str(COMPANY), str(output), json.dumps(runtime), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def logged(output: Path) -> list[tuple[float, float]]:
    lines = [line for line in journal.read(output / "log.jsonl") if "loss" in line]
    return [(line["loss"], line["gradient_norm/total"]) for line in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process that takes each step in two micro-batches."""
    output = tmp_path_factory.mktemp("alone") / "run"
    done = run(output, {"micro_batches": 2}, 1)
    assert done.returncode == 0, done.stderr
    return output


def check_same(output: Path, alone: Path, **tolerance) -> None:
    assert len(logged(output)) == 4
    for (loss, norm), (theirs, their_norm) in zip(logged(output), logged(alone), strict=True):
        assert loss == pytest.approx(theirs, **tolerance)
        assert norm == pytest.approx(their_norm, **tolerance)
    ours, theirs = (
        [line["val/flow"] for line in journal.read(folder / "log.jsonl") if "val/flow" in line]
        for folder in (output, alone)
    )
    assert ours == pytest.approx(theirs, **tolerance)


def test_two_processes_give_the_losses_of_one_and_go_on_when_one_was_killed(alone, tmp_path):
    killed = run(tmp_path / "run", DDP, 2, "3")
    assert killed.returncode != 0
    assert [path.name for path in checkpoint.complete(tmp_path / "run/checkpoints")] == ["step_000002"]
    done = run(tmp_path / "run", DDP, 2)
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "run", alone, rel=2e-6)


def test_one_process_goes_on_from_what_two_left(alone, tmp_path):
    """Recipes do not depend on the machine: a step's batch is cut alike however many processes take the pieces."""
    run(tmp_path / "run", DDP, 2, "3")
    done = run(tmp_path / "run", {"micro_batches": 2}, 1)
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "run", alone, rel=2e-6)


def test_zero_2_gives_the_losses_of_one_process_too(alone, tmp_path):
    done = run(tmp_path / "run", zero(2), 2)
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "run", alone, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_every_zero_stage_gives_the_losses_of_one_process_also_after_a_kill(alone, tmp_path, stage):
    killed = run(tmp_path / "run", zero(stage), 2, "3")
    assert killed.returncode != 0
    assert [path.name for path in checkpoint.complete(tmp_path / "run/checkpoints")] == ["step_000002"]
    done = run(tmp_path / "run", zero(stage), 2)
    assert done.returncode == 0, done.stderr
    check_same(tmp_path / "run", alone, rel=1e-5)
    assert (tmp_path / "run/export").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    "runtime",
    [
        zero(2, bf16={"enabled": True}),
        zero(2, zero_optimization={"stage": 2, "offload_optimizer": {"device": "cpu"}}),
        {**zero(3), "gradient_checkpointing": True},
    ],
    ids=["bf16", "offload", "checkpointing"],
)
def test_other_ways_to_share_the_work_train_too(alone, tmp_path, runtime):
    done = run(tmp_path / "run", runtime, 2)
    assert done.returncode == 0, done.stderr
    assert logged(tmp_path / "run")[0][0] == pytest.approx(logged(alone)[0][0], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [DDP, zero(2), zero(3)], ids=["ddp", "zero2", "zero3"])
def test_accumulated_over_two_rounds_a_step_is_that_of_one_process(tmp_path, runtime):
    for name, how, num in (("alone", {}, 1), ("shared", runtime, 2)):
        done = run(tmp_path / name, {**how, "micro_batches": 4}, num)
        assert done.returncode == 0, done.stderr
    check_same(tmp_path / "shared", tmp_path / "alone", rel=1e-5)


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_another_number_of_micro_batches_is_told(tmp_path, micro_batches, caplog):
    made = engine.start(Runtime(micro_batches=micro_batches), clip_norm=1.0)
    assert made.misfit({"kind": "one", "world": 1, "micro_batches": 2, "zero_stage": 0}) == ""
    assert ("other losses" in caplog.text) == (micro_batches != 2)


def test_what_deepspeed_shared_out_is_not_gone_on_from_otherwise():
    made = engine.start(Runtime(), clip_norm=1.0)
    fault = made.misfit({"kind": "deepspeed", "world": 2, "micro_batches": 2, "zero_stage": 2})
    assert "2 processes (ZeRO-2)" in fault


@pytest.mark.slow
def test_killed_at_twenty_random_steps_a_run_gives_the_same_losses_to_the_last_bit(tmp_path):
    steps, random = 60, np.random.default_rng(0)
    assert run(tmp_path / "whole", {}, 1, "-1", str(steps)).returncode == 0
    for step in sorted(random.choice(steps, 20, replace=False).tolist()):
        assert run(tmp_path / "killed", {}, 1, str(step), str(steps)).returncode == -signal.SIGKILL
    assert run(tmp_path / "killed", {}, 1, "-1", str(steps)).returncode == 0
    whole, killed = ((tmp_path / name / "log.jsonl") for name in ("whole", "killed"))
    timeless = [
        [
            {name: value for name, value in line.items() if "second" not in name and "waiting" not in name}
            for line in log
        ]
        for log in map(journal.read, (whole, killed))
    ]
    assert timeless[0] == timeless[1]
    ends = [load_file(tmp_path / name / f"checkpoints/step_{steps:06d}" / engine.MODEL) for name in ("whole", "killed")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_averages_are_those_of_one_process(alone, tmp_path):
    done = run(tmp_path / "run", DDP, 2)
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        load_file(folder / "checkpoints/step_000004" / engine.AVERAGES) for folder in (tmp_path / "run", alone)
    )
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-5 for name in ours)


@pytest.mark.parametrize(
    ("world", "runtime", "message"),
    [
        ("2", Runtime(), "for one process and torchrun started 2"),
        (None, Runtime(processes="ddp"), "torchrun --nproc_per_node=2"),
        (None, Runtime(processes="deepspeed"), "torchrun --nproc_per_node=2"),
        (None, Runtime(device="gpu"), "there is no device 'gpu'"),
    ],
)
def test_processes_that_do_not_fit_the_runtime_are_refused(monkeypatch, world, runtime, message):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if world is not None:
        monkeypatch.setenv("LOCAL_RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ValueError, match=message):
        engine.start(runtime, clip_norm=1.0)


def test_muon_cannot_be_shared_out_by_deepspeed():
    matrices = [torch.nn.Parameter(torch.ones(2, 2))]
    both = Optimizers(torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]), torch.optim.Muon(matrices))
    with pytest.raises(ValueError, match=r"a part of this stage learns by Muon; set stage\.parts"):
        both.only_adamw()
