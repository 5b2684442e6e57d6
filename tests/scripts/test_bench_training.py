"""Training is measured on the real loop, and nothing is left behind."""

import json

import commands
import pytest
import torch

bench = commands.load("scripts/bench_training.py")
TINY = (
    *("stage=stage3", "model=tiny", "data=tiny", f"data.folder={commands.ROOT}/data/tiny", "stage.batch.rows=2"),
    *("runtime.autocast=none", "runtime.workers=0", "stage.optimizer.warmup_steps=1"),
)


@pytest.fixture(autouse=True)
def _small_products(monkeypatch):
    monkeypatch.setattr(bench, "PRODUCT_WIDTH", {"cpu": 64})


def test_steps_are_measured_and_nothing_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert bench.main([*TINY, "--steps", "2", "--warmup", "1", "--output", "figures.json"]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert (found["stage"], found["model"], found["device"]) == ("stage3", "tiny", "cpu")
    assert 0 <= found["loader's share"] <= 1
    assert 0 < found["learning parameters"] <= found["all parameters"]
    for name in ("tokens per second", "audio seconds per second", "seconds per step", "TFLOP/s of a matrix product"):
        assert found[name] > 0
    product = found["TFLOP/s of a matrix product"]
    assert found["model FLOP utilisation"] == pytest.approx(found["TFLOP/s"] / product)
    assert "model FLOP utilisation" in capsys.readouterr().out


def test_flops_are_those_of_forward_and_backward(monkeypatch):
    class Stand:
        """A linear layer in the loop's place: 2 N D forward, and 4 N D backward for weight and input."""

        engine = type("engine", (), {"micro_batches": 1})
        train = (torch.ones(5, 3, requires_grad=True),)

        def step(self, index, batches, measures):
            torch.nn.Linear(3, 7)(batches[0]).sum().backward()

    assert bench._flops(Stand(), range(1)) == [6 * 5 * 3 * 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=stage9"], "stage9"),
        ([*TINY, "stage.stepz=3"], "stage.stepz"),
        ([*TINY, "--steps", "0"], "--steps must be 1 or more"),
        ([*TINY, "runtime=ddp"], "only one process is measured"),
        (["stage=stage3", "model=tiny", "data=tiny", "data.folder=nowhere"], "nowhere"),
    ],
)
def test_a_mistake_ends_in_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert bench.main(arguments) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert message in said
    assert not list(tmp_path.iterdir())
