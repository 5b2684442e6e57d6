import pytest
import torch
from torch import nn

from audiostory.training import checkpoint, optim
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

    def save(self, folder, step: int, keep: int = 2):
        return checkpoint.save(folder, step, self.root, self.optimizer, self.averages, keep)

    def load(self, folder) -> int:
        return checkpoint.load(folder, self.root, self.optimizer, self.averages)


def test_a_checkpoint_brings_everything_back(tmp_path):
    saved, other = Run(0), Run(1)
    path = saved.save(tmp_path, 7)
    assert other.load(path) == 7
    for name, tensor in checkpoint.learnt(saved.root).items():
        assert torch.equal(tensor, checkpoint.learnt(other.root)[name])
    assert torch.equal(saved.averages.averaged["0.weight"], other.averages.averaged["0.weight"])
    for kind, average in (("AdamW", "exp_avg"), ("Muon", "momentum_buffer")):
        ours, theirs = (run.optimizer.state_dict()[kind]["state"] for run in (saved, other))
        assert ours
        assert all(torch.equal(ours[key][average], theirs[key][average]) for key in ours)


def test_only_what_learns_and_the_buffers_are_kept(tmp_path):
    names = set(checkpoint.learnt(Run().root))
    assert names == {"0.weight", "0.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_the_newest_stay(tmp_path):
    run = Run()
    for step in (5, 10, 1000000, 15):
        run.save(tmp_path, step)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step_000015", "step_1000000"]


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


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.AVERAGES, checkpoint.OPTIMIZER, checkpoint.STATE])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    path = Run().save(tmp_path, 5)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="step_000005 cannot be read"):
        Run().load(path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = Run().save(tmp_path, 5)
    with pytest.raises(ValueError, match="does not hold what this stage learns"):
        Run(width=4).load(path)


def test_differences_are_named_by_their_keys():
    old = {"stage": {"steps": 5, "parts": {"dit": 1}}, "seed": 0}
    assert checkpoint.differences(old, {"stage": {"steps": 6, "parts": {}}, "seed": 0}) == [
        "stage.steps: 5 -> 6",
        "stage.parts.dit: 1 -> absent",
    ]
