import json
import os
import shutil
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from audiostory.dataset.mixture import Mixture
from audiostory.model import tiny
from audiostory.model.audiostory import AudioStory
from audiostory.model.planner import LoraSettings
from audiostory.training import checkpoint, engine, journal
from audiostory.training.config import Logger, Runtime
from audiostory.training.loop import Hooks, Training
from audiostory.training.stages import Optimizer, Pace, Part, Stage

STAGE = Stage(
    name="s",
    teaches="",
    root="audiostory",
    lora=True,
    parts={
        "planner": Part(learns=("planner.*.lora_*",), learning_rate=1e-3),
        "rest": Part(learns=("bridge.*", "dit.*"), learning_rate=1e-3, ema=True),
    },
    losses={"semantic": 1.0, "text": 1.0, "flow": 1.0},
    mixture={"stories": 1.0},
    steps=6,
    optimizer=Optimizer(warmup_steps=2),
    pace=Pace(log=1, save=2, validate=0, listen=0),
)


class KilledError(Exception):
    pass


class Stories:
    """Another batch for every step. `at` says what happens when a step's batch is asked for."""

    def __init__(self, at=lambda index: None):
        self.at = at

    def batch(self, index: int, piece: int = 0, pieces: int = 1):
        self.at(index)
        batch = tiny.story_batch(seed=index)
        return replace(batch, sample_ids=(f"row-{index}",))


def training(
    stage: Stage = STAGE, at=lambda index: None, val: bool = False, dropout: float = 0.1, **runtime
) -> Training:
    def made() -> AudioStory:
        torch.manual_seed(99)  # a run must not depend on what the generator was at
        planner = tiny.planner()
        torch.manual_seed(0)
        planner.add_lora(LoraSettings(rank=2, dropout=dropout))
        return AudioStory(planner, tiny.bridge(), tiny.dit(), condition_dropout=0.3)

    root = made()
    nothing = Hooks(
        listen=lambda folder: None,
        finish=lambda: None,
        export=lambda folder: folder.mkdir(parents=True),
        rebuild=lambda: (made(), nothing),
    )
    settings = Runtime(autocast="none", **runtime)
    processes = engine.start(settings, clip_norm=stage.optimizer.clip_norm)
    pieces = processes.micro_batches
    return Training(
        root,
        stage,
        losses=lambda root, batch: root(batch, wanted=set(stage.losses)),
        train=Mixture({"stories": Stories(at)}, {"stories": 1}, pieces),
        val=Mixture({"stories": Stories()}, {"stories": 1}, pieces) if val else None,
        hooks=nothing,
        runtime=settings,
        engine=processes,
        seed=3,
    )


def run(made: Training, output, name: str = "none") -> bool:
    output.mkdir(exist_ok=True)
    opened = partial(journal.Journal, output, steps=made.stage.steps, name="s", logger=Logger(kind=name), settings={})
    return made.run(output, journal=lambda step: opened(step=step))


def poison(made: Training, *rows: str) -> None:
    """The losses of these rows become NaN."""
    computed = made._losses
    made._losses = lambda root, batch: computed(
        root, replace(batch, latents=batch.latents * (float("nan") if batch.sample_ids[0] in rows else 1.0))
    )


def kill(at: int, index: int) -> None:
    if index == at:
        raise KilledError


def logged(output) -> list[tuple]:
    return [
        (line["step"], line["loss"], line["gradient_norm/total"])
        for line in journal.read(output / "log.jsonl")
        if "loss" in line
    ]


def test_a_killed_run_goes_on_to_the_same_losses_and_weights(tmp_path):
    whole = training()
    assert run(whole, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(training(at=partial(kill, 5)), tmp_path / "killed")
    assert [path.name for path in checkpoint.complete(tmp_path / "killed/checkpoints")] == [
        "step_000002",
        "step_000004",
    ]
    again = training()
    assert run(again, tmp_path / "killed")
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    for (name, one), (_, other) in zip(whole.root.named_parameters(), again.root.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    for name, average in whole.averages.averaged.items():
        assert torch.equal(average, again.averages.averaged[name]), name


def test_validating_and_listening_leave_the_steps_as_they_are(tmp_path):
    run(training(), tmp_path / "plain")
    pace = replace(STAGE.pace, validate=1, validate_batches=2, listen=2)
    run(training(replace(STAGE, pace=pace), val=True), tmp_path / "busy")
    lines = journal.read(tmp_path / "busy/log.jsonl")
    assert [(x["step"], x["loss"]) for x in lines if "loss" in x] == [
        (s, loss) for s, loss, _ in logged(tmp_path / "plain")
    ]
    assert len([line for line in lines if "val/flow" in line]) == 6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_blocks_train_as_plain_ones_do(tmp_path):
    pace = replace(STAGE.pace, validate=2, validate_batches=1)
    for name in ("plain", "compiled"):
        # Without dropout: compiled code draws other random numbers.
        made = training(replace(STAGE, pace=pace), val=True, dropout=0.0, compile=name == "compiled")
        run(made, tmp_path / name)
    plain, compiled = (journal.read(tmp_path / name / "log.jsonl") for name in ("plain", "compiled"))
    for one, other in zip(plain, compiled, strict=True):
        for name in one.keys() & {"loss", "gradient_norm/total", "val/flow", "val/text"}:
            assert other[name] == pytest.approx(one[name], rel=1e-3), (one["step"], name)


def test_what_rests_does_not_change(tmp_path):
    made = training()
    before = {name: tensor.clone() for name, tensor in made.root.named_parameters()}
    run(made, tmp_path / "run")
    for name, tensor in made.root.named_parameters():
        assert torch.equal(tensor, before[name]) != tensor.requires_grad or name.startswith("bridge.residual"), name


def test_a_loss_that_is_not_finite_stops_and_names_its_rows(tmp_path):
    made = training(replace(STAGE, pace=replace(STAGE.pace, log=3)))
    poison(made, "row-4")
    with pytest.raises(ValueError, match=r"step 4: .* not finite .*nan.* row-4\."):
        run(made, tmp_path / "run")
    (line,) = (tmp_path / "run/not_finite.jsonl").read_text().splitlines()
    assert (json.loads(line)["step"], json.loads(line)["rows"]) == (4, ["row-4"])
    assert [path.name for path in checkpoint.complete(tmp_path / "run/checkpoints")] == ["step_000002", "step_000004"]


def test_a_step_that_is_validated_alone_is_looked_at_before_it_is_saved(tmp_path):
    made = training(replace(STAGE, pace=replace(STAGE.pace, log=6, save=6, validate=3, validate_batches=1)), val=True)
    poison(made, "row-2")
    with pytest.raises(ValueError, match=r"step 2: .* not finite .* row-2"):
        run(made, tmp_path / "run")
    assert not checkpoint.complete(tmp_path / "run/checkpoints")


def test_listening_computes_as_the_steps_do(tmp_path):
    """Parts that rest may be held in bfloat16 beside others in float32, which only autocast brings together."""
    made, found = training(replace(STAGE, pace=replace(STAGE.pace, listen=6)), frozen="bfloat16"), []
    planner = made.root.planner
    made.runtime = replace(made.runtime, autocast="bfloat16")
    made.hooks = replace(made.hooks, listen=lambda folder: found.append(planner.write([1, 2], tiny.vocabulary()).ids))
    assert run(made, tmp_path / "run")
    assert found


def test_losses_that_are_not_finite_are_left_out_up_to_a_number(tmp_path):
    made = training(skip_not_finite=1)
    poison(made, "row-1")
    assert run(made, tmp_path / "run")
    assert [step for step, *_ in logged(tmp_path / "run")] == [1, 3, 4, 5, 6]
    assert all(parameter.isfinite().all() for parameter in made.root.parameters())
    assert json.loads((tmp_path / "run/not_finite.jsonl").read_text())["rows"] == ["row-1"]
    made = training(skip_not_finite=1)
    poison(made, "row-1", "row-3")
    with pytest.raises(ValueError, match=r"step 3: .* row-3"):
        run(made, tmp_path / "other")


def test_a_gradient_that_is_not_finite_is_left_out_too(tmp_path):
    made = training(skip_not_finite=1)
    computed = made._losses

    def explode(root, batch):
        losses = computed(root, batch)
        if batch.sample_ids == ("row-2",):
            tensor = made.parts["rest"]["bridge.semantic_projector.0.weight"]
            losses.named["flow"] = losses.named["flow"] + (tensor.flatten()[0] * 0).sqrt()
        return losses

    made._losses = explode
    assert run(made, tmp_path / "run")
    (line,) = (tmp_path / "run/not_finite.jsonl").read_text().splitlines()
    assert (json.loads(line)["step"], json.loads(line)["rows"]) == (2, ["row-2"])
    assert all(parameter.isfinite().all() for parameter in made.root.parameters())


def test_cut_into_micro_batches_a_step_is_one_step(tmp_path):
    made = training(micro_batches=2)
    asked = []
    made.train.sources[0].batch = lambda index, piece, pieces: (
        asked.append((index, piece, pieces)) or replace(tiny.story_batch(seed=2 * index + piece), sample_ids=("x",))
    )
    assert run(made, tmp_path / "run")
    assert asked == [(step, piece, 2) for step in range(6) for piece in (0, 1)]
    assert len(logged(tmp_path / "run")) == 6


def test_asked_to_end_it_saves_and_stops(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    made = training(at=lambda index: os.kill(os.getpid(), signal.SIGTERM) if index == 2 else None)
    assert run(made, tmp_path / "run") is False
    assert [path.name for path in checkpoint.complete(tmp_path / "run/checkpoints")] == ["step_000002", "step_000003"]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert run(training(), tmp_path / "run") is True


def test_a_run_stops_when_its_time_is_up(tmp_path):
    assert run(training(minutes=1e-9), tmp_path / "run") is False
    assert logged(tmp_path / "run")[-1][0] == 1


def test_a_finished_run_only_exports_again(tmp_path):
    run(training(), tmp_path / "run")
    (tmp_path / "run/export").rmdir()
    assert run(training(at=partial(kill, 0)), tmp_path / "run")
    assert (tmp_path / "run/export").is_dir()


def test_the_log_goes_to_tensorboard_too(tmp_path):
    run(training(replace(STAGE, steps=1)), tmp_path / "run", "tensorboard")
    assert list((tmp_path / "run/tensorboard").glob("events*"))


def test_a_log_cut_off_in_the_middle_of_a_line_is_mended(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    log = journal.Journal(tmp_path, step=2, steps=5, name="s", logger=Logger(kind="none"), settings={})
    log.write(3, {"loss": 1.5})
    log.close()
    assert [line["loss"] for line in journal.read(path)] == [2.0, 1.5]
