"""train.py as a user runs it, from the data that lie in the repository: shared by two processes, killed, resumed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from audiostory.training import checkpoint, journal

ROOT = Path(__file__).parents[2]
TORCHRUN = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node=2"]
QUICK = (
    *(
        "model=tiny",
        "data=tiny",
        "logger=none",
        f"data.folder={ROOT}/data/tiny",
        "stage.pace.log=1",
        "stage.pace.save=2",
    ),
    *("stage.pace.validate=0", "stage.pace.listen=0", "stage.optimizer.warmup_steps=1", "runtime.autocast=none"),
    *("runtime.device=cpu", "runtime.workers=0", "stage.batch.rows=4"),
)
ZERO2 = ("runtime=deepspeed_zero2", "runtime.deepspeed.bf16.enabled=false")  # float32, to be compared


def start(folder: Path, *overrides: str, launcher: list[str]) -> subprocess.Popen:
    command = [*launcher, str(ROOT / "train.py"), "stage=stage3", *QUICK, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen, seconds: float = 150) -> str:
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return output


def wait_for_step(output: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not (output / f"checkpoints/step_{step:06d}").is_dir():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.02)


def kill_all(folder: Path) -> None:
    """Every process that works in the folder, at once and unasked: torchrun puts its own into groups of their own."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").resolve() == folder.resolve():
                os.kill(int(process.name), signal.SIGKILL)


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in journal.read(output / "log.jsonl")]


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="finds the processes to kill in /proc")
def test_a_stage_that_two_processes_share_is_killed_goes_on_and_tells_a_story(tmp_path):
    from audiostory.pipeline import AudioStoryPipeline
    from audiostory.sound import Waveform
    from audiostory.story import Event, Storyline

    steps = "stage.steps=60"
    killed = start(tmp_path, steps, *ZERO2, "output=shared", launcher=TORCHRUN)
    wait_for_step(tmp_path / "shared", 4, killed)
    kill_all(tmp_path)
    finish(killed)
    assert not (tmp_path / "shared/export").exists()
    again = start(tmp_path, steps, *ZERO2, "output=shared", launcher=TORCHRUN)
    told = finish(again)
    assert again.returncode == 0, told
    alone = start(tmp_path, steps, "runtime.micro_batches=2", "output=alone", launcher=[sys.executable])
    told = finish(alone)
    assert alone.returncode == 0, told
    assert losses(tmp_path / "shared") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)

    pipeline = AudioStoryPipeline.from_pretrained(tmp_path / "shared/export")
    events = (Event(caption="a dog barks", seconds=1.2), Event(caption="a bell rings", seconds=1.0, start=1.2))
    plan = pipeline.plan_from_storyline(Storyline(summary="a dog and a bell", events=events))
    story = pipeline.render(plan, steps=2, progress=False).story
    assert story.seconds == pytest.approx(2.2, abs=0.01)
    assert np.isfinite(story.samples).all()
    noise = Waveform(samples=np.random.default_rng(0).normal(0, 0.1, (1, 16000)), sample_rate=16000)
    assert isinstance(pipeline.describe(noise, "What comes last?", max_new_tokens=5, progress=False), str)


def test_asked_to_end_all_processes_save_the_same_step_and_stop(tmp_path):
    process = start(tmp_path, "stage.steps=2000", "runtime=ddp", "runtime.workers=1", "output=run", launcher=TORCHRUN)
    wait_for_step(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGTERM)
    finish(process, 60)
    (*_, last) = checkpoint.complete(tmp_path / "run/checkpoints")
    assert len(losses(tmp_path / "run")) == checkpoint.read_state(last)["step"] < 2000
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


def test_a_runtime_that_does_not_fit_the_processes_is_told_without_a_traceback(tmp_path):
    process = start(tmp_path, "runtime=ddp", launcher=[sys.executable])
    told = finish(process)
    assert process.returncode == 2
    assert "torchrun --nproc_per_node=2" in told
    assert "Traceback" not in told
