"""The training loop: next batch, losses, backward, step; then log, validate, listen, save.

It knows no stage and no model: a root module and its losses, a mixture whose items are the batches of each step, and a
Stage that says the rest. Everything random in a step is seeded by (seed, step), so a run that was killed and goes on
from a checkpoint gives the same losses as one that was not, on a CPU to the last bit.

One process. Where many will enter: `accelerate` prepares root and optimiser in `Training.__init__`, `step` calls its
backward and clipping, the sampler takes every n-th batch, and only the first process writes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from audiostory.dataset.batch import fill
from audiostory.dataset.mixture import Mixture, seed_of
from audiostory.model.inputs import Losses
from audiostory.training import checkpoint, optim
from audiostory.training.config import Runtime
from audiostory.training.journal import Journal
from audiostory.training.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a kind of root does beside the steps. `listen` writes samples, `finish` runs once before `export`."""

    listen: Callable[[Path], None]
    finish: Callable[[], None]
    export: Callable[[Path], None]


@dataclass
class _Window:
    """What happened since the last log line; the tensors stay on the device until then."""

    losses: list[dict[str, Tensor]] = field(default_factory=list)
    totals: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    ids: list[tuple[str, ...]] = field(default_factory=list)
    content: float = 0.0
    room: float = 0.0
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)


class Training:
    """One stage's run: `losses(batch)` of `root`, on the batches that `train` makes for each step."""

    def __init__(
        self,
        root: nn.Module,
        stage: Stage,
        *,
        losses: Callable[[Any], Losses],
        train: Mixture,
        val: Mixture | None,
        hooks: Hooks,
        runtime: Runtime,
        seed: int,
    ):
        self.root, self.stage, self.train, self.val, self.hooks = root.to(runtime.device), stage, train, val, hooks
        self.runtime, self.seed = runtime, seed
        self.parts = optim.open_parts(self.root, stage)
        self.optimizer = optim.optimizers(self.root, self.parts, stage)
        self.averages = optim.Averages(self.parts, stage)
        self._losses = losses
        if runtime.compile:
            for block in root.compilable_blocks():  # type: ignore[operator]
                block.compile(dynamic=True)

    def run(self, output: Path, *, journal: Callable[[int], Journal]) -> bool:
        """Trains until the stage's steps are done and exports, or saves and stops early; whether it came to the end.

        A checkpoint in `output` is gone on from. Raises ValueError, with the batch's rows, when a loss is not finite.
        """
        checkpoints = output / "checkpoints"
        found = checkpoint.complete(checkpoints)
        done = checkpoint.load(found[-1], self.root, self.optimizer, self.averages) if found else 0
        log = journal(done)
        try:
            with _stop_signals() as stopped:
                done = self._steps(done, checkpoints, output / "listen", log, stopped)
        finally:
            log.close()
        if done < self.stage.steps:
            return False
        self.root.eval()
        with self.averages.in_place():
            self.hooks.finish()
            self.hooks.export(output / "export")
        return True

    def _steps(self, done: int, checkpoints: Path, listen: Path, log: Journal, stopped: list[int]) -> int:
        pace, deadline = self.stage.pace, time.monotonic() + 60 * (self.runtime.minutes or float("inf"))
        window = _Window()
        for batch, waited in self._batches(done):
            window.waited += waited
            self._remember(window, batch, *self.step(done, batch))
            done += 1
            last = done == self.stage.steps or bool(stopped) or time.monotonic() > deadline
            told = last or _due(done, pace.log) or _due(done, pace.save)
            if told:
                self._report(done, window, log)
            if _due(done, pace.validate) and self.val is not None:
                log.write(done, self.validate())
            if _due(done, pace.listen):
                with self._quietly():
                    self.hooks.listen(listen / f"step_{done:06d}")
            if last or _due(done, pace.save):
                checkpoint.save(checkpoints, done, self.root, self.optimizer, self.averages, pace.keep)
            log.progress.update(1)
            if last:
                break
            if told:
                window = _Window()
        return done

    def step(self, index: int, batch: Any) -> tuple[Losses, Tensor, Tensor]:
        """One optimiser step, the `index`-th: the losses by name, their weighted sum and the gradient's norm."""
        torch.manual_seed(seed_of(self.seed, "step", index))
        self.root.train()
        optim.set_rates(self.optimizer, self.stage.optimizer, index, self.stage.steps)
        losses, total = self._compute(batch)
        total.backward()
        learning = [p for named in self.parts.values() for p in named.values()]
        norm = nn.utils.clip_grad_norm_(learning, self.stage.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.averages.update(index)
        return losses, total.detach(), norm.detach()

    def _compute(self, batch: Any) -> tuple[Losses, Tensor]:
        device = self.runtime.device
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=self.runtime.autocast == "bfloat16"):
            losses = self._losses(batch.to(device, non_blocking=True))
            return losses, losses.weighted(self.stage.losses)

    def validate(self) -> dict[str, float]:
        """Mean losses on the first held-out batches, with the same noise each time, as {"val/flow": ...}."""
        assert self.val is not None
        found: dict[str, list[Tensor]] = {}
        with self._quietly():
            for index in range(self.stage.pace.validate_batches):
                torch.manual_seed(seed_of(self.seed, "validate", index))
                for name, value in self._compute(self.val[index])[0].named.items():
                    found.setdefault(f"val/{name}", []).append(value)
        return {name: _mean(values) for name, values in found.items()}

    def _batches(self, done: int) -> Iterator[tuple[Any, float]]:
        """The batches of the steps still to do, and the seconds each was waited for."""
        mixture = cast("Dataset[Any]", self.train)
        steps = range(done, self.stage.steps)
        batches = iter(DataLoader(mixture, batch_size=None, sampler=steps, num_workers=self.runtime.workers))
        while True:
            asked = time.perf_counter()
            if (batch := next(batches, None)) is None:
                return
            yield batch, time.perf_counter() - asked

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """The averaged weights, in eval mode, without gradients; the next step trains again."""
        self.root.eval()
        # Compiled for the shapes of steps; a KV cache and its like would compile everything again.
        with torch.no_grad(), self.averages.in_place(), torch.compiler.set_stance("force_eager"):
            yield

    def _remember(self, window: _Window, batch: Any, losses: Losses, total: Tensor, norm: Tensor) -> None:
        window.losses.append({name: value.detach() for name, value in losses.named.items()})
        window.totals.append(total)
        window.norms.append(norm)
        window.ids.append(batch.sample_ids)
        content, room = fill(batch)
        window.content += content
        window.room += room

    def _report(self, done: int, window: _Window, log: Journal) -> None:
        """Writes the window's means. ValueError when something in it was not finite: nothing is saved after that."""
        totals, norms = torch.stack(window.totals).tolist(), torch.stack(window.norms).tolist()
        for index, (total, norm) in enumerate(zip(totals, norms, strict=True)):
            if not abs(total) + norm < float("inf"):
                values = {name: value.item() for name, value in window.losses[index].items()}
                raise ValueError(
                    f"step {done - len(totals) + index}: the loss is {total} and the gradient's norm {norm} ({values}) "
                    f"on the rows {', '.join(window.ids[index])}. Look at those rows, or lower the learning rate; the "
                    "last checkpoint is from before"
                )
        seconds = time.perf_counter() - window.began
        names = dict.fromkeys(name for losses in window.losses for name in losses)
        means = {f"loss/{name}": _mean([losses[name] for losses in window.losses if name in losses]) for name in names}
        rates = {f"rate/{group['part']}": group["lr"] for group in self.optimizer.param_groups}
        log.write(
            done,
            {
                "loss": sum(totals) / len(totals),
                **means,
                "gradient_norm": sum(norms) / len(norms),
                **rates,
                "seconds_per_step": seconds / len(totals),
                "waiting_share": window.waited / seconds,
                "padding_share": 1 - window.content / max(window.room, 1),
            },
            {name.removeprefix("loss/"): f"{value:.3f}" for name, value in means.items()},
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _mean(values: Sequence[Tensor]) -> float:
    return torch.stack(list(values)).float().mean().item()


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
