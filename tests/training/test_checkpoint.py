import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from audiostory.training import checkpoint, engine, optim
from audiostory.training.config import Runtime
from audiostory.training.stages import Part, Stage

STAGE = Stage(
    name="s",
    teaches="",
    root="codec",
    parts={"all": Part(learns=("0.*",), learning_rate=0.1, optimizer="muon", ema=True)},
    losses={},
    mixture={},
    steps=10,
)

ENGINE = engine.start(Runtime(), clip_norm=1.0)


class Run:
    """Something with weights, a buffer, an optimiser that has stepped, and averages."""

    def __init__(self, seed: int = 0, width: int = 3):
        torch.manual_seed(seed)
        self.root = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        parts = optim.open_parts(self.root, STAGE)
        self.optimizer = optim.optimizers(self.root, parts, STAGE)
        self.averages = optim.Averages(parts, STAGE)
        self.root(torch.randn(4, 2)).square().sum().backward()
        self.optimizer.step()
        self.averages.update(0)

    def save(self, folder, step: int, keep: int = 2, **state):
        state = {"why": "test", **state}
        checkpoint.save(folder, step, ENGINE, self.root, self.optimizer, self.averages, state=state, keep=keep)
        return folder / f"step_{step:06d}"

    def load(self, folder) -> int:
        return checkpoint.load(folder, ENGINE, self.root, self.optimizer, self.averages)


def test_a_checkpoint_brings_everything_back(tmp_path):
    saved, other = Run(0), Run(1)
    path = saved.save(tmp_path, 7)
    assert other.load(tmp_path) == 7
    assert checkpoint.read_state(path) == {"step": 7, "why": "test"}
    for name, tensor in engine.learnt(saved.root).items():
        assert torch.equal(tensor, engine.learnt(other.root)[name])
    assert torch.equal(saved.averages.averaged["0.weight"], other.averages.averaged["0.weight"])
    for kind, average in (("AdamW", "exp_avg"), ("Muon", "momentum_buffer")):
        ours, theirs = (run.optimizer.state_dict()[kind]["state"] for run in (saved, other))
        assert ours
        assert all(torch.equal(ours[key][average], theirs[key][average]) for key in ours)


def test_only_what_learns_and_the_buffers_are_kept(tmp_path):
    names = set(engine.learnt(Run().root))
    assert names == {"0.weight", "0.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_the_newest_stay(tmp_path):
    run = Run()
    for step in (5, 10, 1000000, 15):
        run.save(tmp_path, step)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step_000015", "step_1000000"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills copies of this process")
def test_killed_at_any_touch_of_a_file_a_save_leaves_what_can_be_gone_on_from(tmp_path):
    run = Run()
    run.save(tmp_path, 5)
    run.save(tmp_path, 10, keep=1)
    touches = 0
    while True:
        child = os.fork()
        if child == 0:
            _die_at(touches, tmp_path)
            run.save(tmp_path, 15, keep=1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        done = Run(1).load(tmp_path)
        if os.WIFEXITED(status):
            break
        assert done in (10, 15)
        assert not list(tmp_path.glob("*damaged*"))
        touches += 1
        shutil.rmtree(tmp_path / "step_000015", ignore_errors=True)
        run.save(tmp_path, 10, keep=1)
    assert done == 15
    assert touches > 10


def _die_at(touch: int, folder: Path) -> None:
    left = iter(range(touch, -1, -1))

    def hook(event: str, arguments: tuple) -> None:
        touched = event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
        if touched and str(arguments[0]).startswith(str(folder)) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_a_save_that_fails_leaves_no_checkpoint(tmp_path, monkeypatch):
    run = Run()
    good = run.save(tmp_path, 5)
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        run.save(tmp_path, 10)
    assert checkpoint.complete(tmp_path) == [good]
    monkeypatch.undo()
    run.save(tmp_path, 10)  # what the failed one left is in nobody's way
    assert len(checkpoint.complete(tmp_path)) == 2


def test_the_best_of_the_validated_stays_with_the_newest(tmp_path):
    run = Run()
    for step, score in ((1, float("nan")), (2, 0.5), (3, 0.7), (4, None), (5, 0.6)):
        run.save(tmp_path, step, **({} if score is None else {checkpoint.SCORE: score}))
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step_000002", "step_000004", "step_000005"]


FILES = [engine.MODEL, engine.AVERAGES, engine.OPTIMIZER, checkpoint.STATE, checkpoint.FILES]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_named_put_aside_and_the_one_before_it_taken(tmp_path, caplog, name, harm):
    saved = Run()
    saved.save(tmp_path, 5)
    path = saved.save(tmp_path, 6)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).unlink()
    if harm != "gone":
        (path / name).write_bytes(content[: len(content) // 2] if harm == "cut" else content)
    assert Run(1).load(tmp_path) == 5
    assert "step_000006 is damaged" in caplog.text
    assert (tmp_path / "damaged_step_000006").is_dir()


def test_when_every_checkpoint_is_damaged_nothing_starts_anew_unasked(tmp_path):
    path = Run().save(tmp_path, 5)
    (path / engine.MODEL).write_bytes(b"")
    for _ in range(2):  # nor when it is started once more
        with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
            Run().load(tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    Run().save(tmp_path, 5)
    with pytest.raises(ValueError, match="does not hold what this stage learns"):
        Run(width=4).load(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="limits on a file's size are POSIX")
def test_a_full_disk_leaves_what_was_there_and_says_what_to_do(tmp_path):
    """In a process of its own, whose files may not grow: the kernel refuses the write, as on a full disk."""
    code = f"""
import resource, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from pathlib import Path
from test_checkpoint import Run
run, folder = Run(width=2000), Path({str(tmp_path)!r})
run.save(folder, 5)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    run.save(folder, 6)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "step 6 could not be written" in done.stdout, done.stderr
    assert "goes on from step_000005" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]
    assert Run(width=2000).load(tmp_path) == 5


def test_settings_are_the_stages_own_after_going_on(tmp_path):
    saved, other = Run(0), Run(1)
    saved.save(tmp_path, 5)
    for group in other.optimizer.param_groups:
        group |= {"lr": 0.5, "peak": 0.5}
    other.load(tmp_path)
    assert {group["peak"] for group in other.optimizer.param_groups} == {0.5}
    assert {group["peak"] for group in saved.optimizer.param_groups} == {0.1}


def test_a_save_is_made_whatever_state_older_checkpoints_are_in(tmp_path):
    run = Run()
    for step in (1, 2):
        (run.save(tmp_path, step) / checkpoint.STATE).write_text("{")
    run.save(tmp_path, 3)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step_000002", "step_000003"]
    assert checkpoint.newest_state(tmp_path) == {"step": 3, "why": "test"}


def test_differences_are_named_by_their_keys():
    old = {"stage": {"steps": 5, "parts": {"dit": 1}}, "seed": 0}
    assert checkpoint.differences(old, {"stage": {"steps": 6, "parts": {}}, "seed": 0}) == [
        "stage.steps: 5 -> 6",
        "stage.parts.dit: 1 -> absent",
    ]
