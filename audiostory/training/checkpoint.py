"""Checkpoints that survive: written aside and renamed, so that a folder with a step's name is always complete.

A checkpoint holds what cannot be had again: the parameters that learn, the buffers, the averages, the optimiser and the
step. What rests comes back from where the stage started; random numbers need no saving, since every step seeds its own.
`state.json` says what run it is of, and `files.json` what each file must be, so that a damaged one is not gone on from.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from audiostory.disk import sha256
from audiostory.training.engine import Engine
from audiostory.training.optim import Averages, Optimizers

log = logging.getLogger(__name__)

STATE, FILES = "state.json", "files.json"
SCORE = "validation"  # in the state, after a step that was validated: the weighted sum of the held-out losses
UNWRITABLE = (OSError, RuntimeError, SafetensorError)  # what the writers raise when the disk is full


def save(
    folder: Path,
    step: int,
    engine: Engine,
    root: nn.Module,
    optimizer: Optimizers,
    averages: Averages,
    *,
    state: Mapping[str, Any],
    keep: int,
) -> None:
    """Writes `folder`/step_000500 after 500 steps, with `state`; all processes must call.

    Then only the newest `keep` stay, and of the validated ones the best. OSError when it cannot be written; what was
    there stays.
    """
    final = folder / f"step_{step:06d}"
    aside = _aside(final)
    try:
        if engine.main:
            _empty(aside)
        engine.wait()
        engine.save(aside, root, optimizer, averages)
        engine.wait()
        if engine.main:
            (aside / STATE).write_text(json.dumps({"step": step, **state}, indent=2) + "\n")
            (aside / FILES).write_text(json.dumps(_digests(aside), indent=2) + "\n")
            _put(aside, final)
    except UNWRITABLE as error:
        if engine.main:
            shutil.rmtree(aside, ignore_errors=True)
        before = complete(folder)
        goes_on = f"goes on from {before[-1].name}" if before else "starts from the beginning"
        raise OSError(
            f"the checkpoint of step {step} could not be written to {folder} ({error}); make room, then the same "
            f"command {goes_on}"
        ) from error
    if engine.main:
        for path in _superfluous(folder, keep):
            shutil.rmtree(path, ignore_errors=True)
    engine.wait()


def load(folder: Path, engine: Engine, root: nn.Module, optimizer: Optimizers, averages: Averages) -> int:
    """Goes on from the newest whole checkpoint; the steps done, 0 without one. All processes must call.

    A damaged one is named, put aside, and the one before it taken. ValueError when all are damaged, or when the
    checkpoint does not fit the stage.
    """
    newest = engine.gather(_newest(folder) if engine.main else None)[0]
    if newest is None:
        return 0
    state = read_state(newest)
    if fault := engine.misfit(state.get("processes", {})):
        raise ValueError(f"the checkpoint {newest} {fault}")
    try:
        engine.load(newest, root, optimizer, averages)
    except (OSError, SafetensorError, RuntimeError, KeyError, EOFError) as error:
        raise ValueError(
            f"the checkpoint {newest} cannot be gone on from ({type(error).__name__}: {error}); go on with the runtime "
            "that wrote it, or start anew with resume=false"
        ) from error
    return state["step"]


def read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / STATE).read_text())


def newest_state(folder: Path) -> dict[str, Any] | None:
    """What the newest checkpoint that can tell says of its run; None when there is none."""
    for path in reversed(complete(folder)):
        with suppress(OSError, ValueError):
            return read_state(path)
    return None


@contextmanager
def replacing(final: Path) -> Iterator[Path]:
    """A new folder to fill, which then takes the place of `final`; when filling it fails, `final` stays as it was."""
    aside = _aside(final)
    _empty(aside)
    try:
        yield aside
        _put(aside, final)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{final} could not be written ({error}); make room, then run the same command again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def clear(output: Path) -> None:
    """Forgets what a run has done so far: its checkpoints and its logs."""
    for name in ("checkpoints", "export", "listen", "tensorboard"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("log.jsonl", "not_finite.jsonl", "wandb_id.txt"):
        (output / name).unlink(missing_ok=True)


def complete(folder: Path) -> list[Path]:
    """All checkpoints that were written to their end, oldest first."""
    found = [path for path in folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What changed between two configurations, as lines such as "stage.steps: 500 -> 800"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        absent = "absent"
        found = [differences(old.get(k, absent), new.get(k, absent), f"{where}.{k}" if where else str(k)) for k in keys]
        return [line for lines in found for line in lines]
    return [] if old == new else [f"{where}: {old} -> {new}"]


def _newest(folder: Path) -> Path | None:
    checkpoints = complete(folder)
    for path in reversed(checkpoints):
        if not (fault := _fault(path)):
            return path
        damaged = path.with_name(f"damaged_{path.name}")
        shutil.rmtree(damaged, ignore_errors=True)
        path.rename(damaged)
        log.warning("the checkpoint %s is damaged (%s) and now lies in %s", path, fault, damaged.name)
    if checkpoints or list(folder.glob("damaged_step_*")):
        raise ValueError(
            f"every checkpoint in {folder} is damaged, see the damaged_* folders there; bring one back from a copy, or "
            "start anew with resume=false"
        )
    return None


def _fault(checkpoint: Path) -> str:
    """What is wrong with a checkpoint's files; empty when nothing is."""
    try:
        expected = json.loads((checkpoint / FILES).read_text())
        wrong = [name for name, digest in expected.items() if sha256(checkpoint / name) != digest]
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"{', '.join(wrong)} changed since it was written" if wrong else ""


def _superfluous(folder: Path, keep: int) -> list[Path]:
    checkpoints = complete(folder)
    scores = {path: score for path in checkpoints if (score := _score(path)) is not None}
    best = min(scores, key=scores.__getitem__) if scores else None
    return [path for path in checkpoints[:-keep] if path != best]


def _score(checkpoint: Path) -> float | None:
    """None for one that was not validated, or cannot be read, or went astray."""
    try:
        score = read_state(checkpoint).get(SCORE)
    except (OSError, ValueError):
        return None
    return score if score is not None and math.isfinite(score) else None


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILES)
    return {str(path.relative_to(folder)): sha256(path) for path in files}


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.part")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _put(aside: Path, final: Path) -> None:
    for path in aside.rglob("*"):
        _to_disk(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(aside, final)
    _to_disk(final.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
