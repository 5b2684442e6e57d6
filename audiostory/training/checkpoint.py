"""Checkpoints that survive: written aside and renamed, so that a folder with a step's name is always complete.

A checkpoint holds what cannot be had again: the parameters that learn, the buffers, the averages, the optimiser and the
step. What rests comes back from where the stage started; random numbers need no saving, since every step seeds its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audiostory.training.optim import Averages, Optimizers

MODEL, AVERAGES, OPTIMIZER, STATE = "model.safetensors", "averages.safetensors", "optimizer.pt", "state.json"


def save(folder: Path, step: int, root: nn.Module, optimizer: Optimizers, averages: Averages, keep: int) -> Path:
    """Writes `folder`/step_000500 after 500 steps, and removes all but the newest `keep`."""
    final = folder / f"step_{step:06d}"
    with replacing(final) as aside:
        save_file(learnt(root), aside / MODEL)
        if averages.averaged:
            save_file(averages.averaged, aside / AVERAGES)
        torch.save(optimizer.state_dict(), aside / OPTIMIZER)
        (aside / STATE).write_text(json.dumps({"step": step}))
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load(checkpoint: Path, root: nn.Module, optimizer: Optimizers, averages: Averages) -> int:
    """Puts a checkpoint back into place; the number of steps done. ValueError when it does not fit or is damaged."""
    try:
        step = json.loads((checkpoint / STATE).read_text())["step"]
        _fill(learnt(root), load_file(checkpoint / MODEL), checkpoint / MODEL)
        if averages.averaged:
            _fill(averages.averaged, load_file(checkpoint / AVERAGES), checkpoint / AVERAGES)
        optimizer.load_state_dict(torch.load(checkpoint / OPTIMIZER, weights_only=True, map_location="cpu"))
    except (OSError, SafetensorError, RuntimeError, KeyError, EOFError, json.JSONDecodeError) as error:
        raise ValueError(
            f"the checkpoint {checkpoint} cannot be read ({type(error).__name__}: {error}); delete that folder to go "
            "on from the one before it, or start anew with resume=false"
        ) from error
    return step


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """A new folder to fill, which then takes the place of `final`; when filling it fails, `final` stays as it was."""
    aside = final.with_name(f".{final.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    for path in aside.rglob("*"):
        _to_disk(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(aside, final)
    _to_disk(final.parent)


def clear(output: Path) -> None:
    """Forgets what a run has done so far: its checkpoints and its logs."""
    for name in ("checkpoints", "listen", "tensorboard"):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / "log.jsonl").unlink(missing_ok=True)


def complete(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    found = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def learnt(root: nn.Module) -> dict[str, Tensor]:
    """Views of what training changes: the parameters that learn, and the buffers that belong to the weights."""
    tensors = {name: p.detach() for name, p in root.named_parameters() if p.requires_grad}
    kept = root.state_dict(keep_vars=True)
    return tensors | {name: buffer for name, buffer in root.named_buffers() if name in kept}


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What changed between two configurations, as lines such as "stage.steps: 500 -> 800"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        absent = "absent"
        found = [differences(old.get(k, absent), new.get(k, absent), f"{where}.{k}" if where else str(k)) for k in keys]
        return [line for lines in found for line in lines]
    return [] if old == new else [f"{where}: {old} -> {new}"]


@torch.no_grad()
def _fill(targets: Mapping[str, Tensor], values: Mapping[str, Tensor], source: Path) -> None:
    wrong = sorted(set(targets) ^ set(values))
    wrong += [name for name in targets if name in values and targets[name].shape != values[name].shape]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"{source} does not hold what this stage learns: {', '.join(wrong[:5])}{more}; was it written with another "
            "configuration? Give this run another output"
        )
    for name, target in targets.items():
        target.copy_(values[name])


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
