"""The training loop: next batch, losses, backward, step; then log, validate, listen, save.

It knows no stage and no model: a root module and its losses, a mixture whose items are the micro-batches of each step,
a Stage that says the rest, and an Engine that says on how many processes. Everything random in a micro-batch is seeded
by (seed, step, place in the step), so a run that was killed and goes on from a checkpoint gives the same losses as one
that was not, on a CPU to the last bit, and several processes give those of one that cuts its batches alike.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from audiostory.dataset.mixture import Mixture, seed_of
from audiostory.model.inputs import Losses
from audiostory.training import checkpoint, optim
from audiostory.training.config import Runtime
from audiostory.training.engine import Engine
from audiostory.training.journal import Journal
from audiostory.training.measures import Measures
from audiostory.training.optim import TOTAL
from audiostory.training.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a kind of root does beside the steps. `listen` writes samples, `finish` runs once before `export`.

    `rebuild` makes root and hooks anew, to export a model whose parameters lie scattered over processes.
    """

    listen: Callable[[Path], None]
    finish: Callable[[], None]
    export: Callable[[Path], None]
    rebuild: Callable[[], tuple[nn.Module, Hooks]]


class Training:
    """One stage's run: `losses(root, batch)` on the micro-batches that `train` makes for each step."""

    def __init__(
        self,
        root: nn.Module,
        stage: Stage,
        *,
        losses: Callable[[nn.Module, Any], Losses],
        train: Mixture,
        val: Mixture | None,
        hooks: Hooks,
        runtime: Runtime,
        engine: Engine,
        seed: int,
    ):
        self.root, self.stage, self.train, self.val, self.hooks = root, stage, train, val, hooks
        self.runtime, self.engine, self.seed = runtime, engine, seed
        self.parts = optim.open_parts(root, stage)
        if runtime.frozen == "bfloat16":
            for parameter in root.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()
        if runtime.compile:
            for block in root.compilable_blocks():  # type: ignore[operator]
                block.compile(dynamic=True)
        root.to(engine.device)
        self.optimizer = optim.optimizers(root, self.parts, stage)
        self.model = engine.prepare(root, self.optimizer)
        self.averages = optim.Averages(self.parts, stage)
        self._losses = losses
        self._skipped = 0

    def run(self, output: Path, *, journal: Callable[[int], Journal], about: Mapping[str, Any] | None = None) -> bool:
        """Trains until the stage's steps are done and exports, or saves and stops early; whether it came to the end.

        A checkpoint in `output` is gone on from; `about` is kept with each. Raises ValueError, with the batch's rows,
        when more losses are not finite than may be.
        """
        self._checkpoints, self._about = output / "checkpoints", dict(about or {})
        done = checkpoint.load(self._checkpoints, self.engine, self.root, self.optimizer, self.averages)
        log = journal(done)
        try:
            with _stop_signals() as stopped:
                done = self._steps(done, output, log, stopped)
        finally:
            log.close()
        finished = done == self.stage.steps
        if finished:
            self._export(output / "export")
        self.engine.close()
        return finished

    def _steps(self, done: int, output: Path, log: Journal, stopped: list[int]) -> int:
        pace, deadline = self.stage.pace, time.monotonic() + 60 * (self.runtime.minutes or math.inf)
        window = Measures()
        for batches, waited in self._batches(done):
            window.waited += waited
            if not self.step(done, batches, window):
                self._note_not_finite(output, window)
            done += 1
            ended = self.engine.any(bool(stopped) or time.monotonic() > deadline)
            last = ended or done == self.stage.steps
            validated = _due(done, pace.validate) and self.val is not None and not ended
            told = last or validated or _due(done, pace.log) or _due(done, pace.save)  # it refuses what is not finite
            if told:
                self._report(done, window, log, output)
            scored = None
            if validated:
                found = self.validate()
                log.write(done, {f"val/{name}": value for name, value in found.items()})
                scored = sum(weight * found[name] for name, weight in self.stage.losses.items() if name in found)
            if last or scored is not None or _due(done, pace.save):
                self._save(done, scored)
            if _due(done, pace.listen) and not ended:
                self._listen(output / "listen" / f"step_{done:06d}", done, log)
            log.progress.update(1)
            if last:
                break
            if told:
                window = Measures()
        return done

    def _save(self, done: int, score: float | None) -> None:
        state = {**self._about, "processes": self.engine.about()}
        if score is not None:
            state[checkpoint.SCORE] = score
        checkpoint.save(
            self._checkpoints,
            done,
            self.engine,
            self.root,
            self.optimizer,
            self.averages,
            state=state,
            keep=self.stage.pace.keep,
        )

    def step(self, index: int, batches: Sequence[Any], measures: Measures) -> bool:
        """The `index`-th optimiser step on this process's micro-batches, noted in `measures`; False if left out."""
        self.root.train()
        optim.set_rates(self.optimizer, self.stage.optimizer, index, self.stage.steps)
        careful, sound = self.runtime.skip_not_finite > 0, True
        for turn, batch in enumerate(batches):
            place = self.engine.rank + turn * self.engine.world
            torch.manual_seed(seed_of(self.seed, "step", index, place))
            with self.engine.micro_batch():
                losses, total = self._compute(batch)
                measures.add(index, batch, losses, total)
                if careful and self.engine.any(not total.isfinite()):
                    sound = False
                    break
                self.engine.backward(total)
        if not sound:
            self.optimizer.zero_grad()
            return False
        norms = self.engine.step(self.optimizer, self.parts, careful)
        measures.norms[index] = norms
        if careful and not norms[TOTAL].isfinite():
            return False
        self.averages.update(index)
        return True

    def _compute(self, batch: Any) -> tuple[Losses, Tensor]:
        device = self.engine.device
        with self._autocast():
            losses = self._losses(self.model, batch.to(device, non_blocking=True))
            return losses, losses.weighted(self.stage.losses)

    def _autocast(self) -> torch.autocast:
        enabled = self.runtime.autocast == "bfloat16"
        return torch.autocast(self.engine.device.type, torch.bfloat16, enabled=enabled)

    def validate(self) -> Mapping[str, float]:
        """Mean losses by name on the first held-out batches, with the same noise each time."""
        assert self.val is not None
        engine, found = self.engine, Measures()
        with self._quietly():
            for index in range(self.stage.pace.validate_batches):
                for place in range(engine.rank, engine.micro_batches, engine.world):
                    torch.manual_seed(seed_of(self.seed, "validate", index, place))
                    batch = self.val[index * engine.micro_batches + place]
                    found.add(index, batch, *self._compute(batch))
        return Measures.together(engine.gather(found.summary())).losses

    def _listen(self, folder: Path, step: int, log: Journal) -> None:
        with self._quietly():
            whole = self._whole()
            if whole is not None:
                with self._autocast():  # what rests may be held in bfloat16, beside parts that learn in float32
                    whole[1].listen(folder)
        log.examples(step, folder)
        self.engine.wait()

    def _export(self, folder: Path) -> None:
        with self._quietly():
            whole = self._whole()
            if whole is not None:
                whole[1].finish()
                whole[1].export(folder)

    def _whole(self) -> tuple[nn.Module, Hooks] | None:
        """Root and hooks in the main process, None in the others. Of a model that lies scattered, a copy is put
        together there, because the original runs only in all processes at once."""
        root, hooks = self.root, self.hooks
        if self.engine.shared:
            state = self.engine.whole_state(root)
            if self.engine.main:
                root, hooks = self.hooks.rebuild()
                root.load_state_dict(state)
                root.eval().to(self.engine.device)
        return (root, hooks) if self.engine.main else None

    def _batches(self, done: int) -> Iterator[tuple[list[Any], float]]:
        """This process's micro-batches of the steps still to do, and the seconds each step's were waited for."""
        mixture, engine, workers = cast("Dataset[Any]", self.train), self.engine, self.runtime.workers
        places = range(engine.rank, engine.micro_batches, engine.world)
        order = [step * engine.micro_batches + place for step in range(done, self.stage.steps) for place in places]
        batches = iter(
            DataLoader(mixture, batch_size=None, sampler=order, num_workers=workers, worker_init_fn=_read_on)
        )
        while True:
            asked = time.perf_counter()
            try:
                batch = [one for one in (next(batches, None) for _ in places) if one is not None]
            except ValueError as error:  # from a reader process it comes with that one's traceback as its text
                raise ValueError(str(error).strip().rpartition("Error: ")[-1]) from error
            if len(batch) < engine.rounds:
                return
            yield batch, time.perf_counter() - asked

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """The averaged weights, in eval mode, without gradients; the next step trains again."""
        self.root.eval()
        # Compiled for the shapes of steps; a KV cache and its like would compile everything again.
        with torch.no_grad(), self.averages.in_place(), torch.compiler.set_stance("force_eager"):
            yield

    def _report(self, done: int, window: Measures, log: Journal, output: Path) -> None:
        """Writes the window's means. ValueError when something in it was not finite: nothing is saved after that."""
        if self.engine.any(not window.finite()) and not self.runtime.skip_not_finite:
            self._note_not_finite(output, window)
        found = Measures.together(self.engine.gather(window.summary()))
        rates = {f"rate/{group['part']}": group["lr"] for group in self.optimizer.param_groups}
        log.write(done, {**found.values(), **rates}, found.shown())

    def _note_not_finite(self, output: Path, window: Measures) -> None:
        """Keeps the rows of what was not finite; ValueError once it is more than may be left out."""
        everyone = [line for lines in self.engine.gather(window.not_finite()) for line in lines]
        window.forget({line["step"] for line in everyone})
        first = min(everyone, key=lambda line: line["step"])
        if not self.runtime.skip_not_finite:  # the steps after it went on from it
            everyone = [line for line in everyone if line["step"] == first["step"]]
        if self.engine.main:
            with (output / "not_finite.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in everyone)
        self._skipped += 1
        if self._skipped > self.runtime.skip_not_finite:
            kept = output / "not_finite.jsonl"
            raise ValueError(
                f"step {first['step']}: the loss or its gradient is not finite ({first['losses']}, norm "
                f"{first['norm']}) on the rows {', '.join(first['rows'])}. Look at those rows (more in {kept}), lower "
                "the learning rate, or let some steps be left out with runtime.skip_not_finite; the last checkpoint "
                "is from before"
            )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _read_on(worker: int) -> None:
    """In a reader process: whoever asks a run to end asks all its processes, and this one is needed until the save."""
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, signal.SIG_IGN)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when someone asks the process to end; the loop then saves and stops after its step."""
    received: list[int] = []
    previous = {
        kind: signal.signal(kind, lambda number, _: received.append(number)) for kind in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
