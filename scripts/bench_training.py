"""Measures training: tokens and seconds of audio a second, the loader's share, memory, model FLOP utilisation.

    python scripts/bench_training.py stage=stage3 model=tiny data=tiny
    python scripts/bench_training.py stage=stage1 model=mini runtime=cpu --steps 10
    python scripts/bench_training.py stage=stage3 model=audiostory_3b weights=random data=NAME runtime=single_gpu

The overrides are train.py's; its loop trains, in this one process, and nothing is saved. Then the same batches are
gone through once more to count their FLOPs (torch.utils.flop_counter, forward and backward). Utilisation is FLOPs a
second against those of a large matrix product, timed in the same run in the precision of the steps. With gradient
checkpointing what is computed twice counts twice. The figures are printed, and written as JSON where --output says.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the folder bench, however this is started

if TYPE_CHECKING:
    import torch

    from audiostory.training.builders import Run
    from audiostory.training.loop import Training

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
QUIET = ("logger=none", "stage.pace.log=1", "stage.pace.save=0", "stage.pace.validate=0", "stage.pace.listen=0")
PRODUCT_WIDTH = {"cpu": 2048, "cuda": 8192}  # of the matrix product that is the measure of all
PRODUCTS = 5


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("overrides", nargs="+", metavar="key=value", help="stage=NAME, and whatever else train.py takes")
    add("--steps", type=int, default=10, metavar="N", help="that count (10)")
    add("--warmup", type=int, default=3, metavar="N", help="steps before them (3)")
    add("--output", type=Path, metavar="FILE", help="the figures as JSON")
    return arguments


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        found = measure(options.overrides, steps=options.steps, warmup=options.warmup)
        print("\n".join(f"{name:<34}{_short(value):>16}" for name, value in found.items()))
        if options.output:
            from audiostory import disk

            disk.write_text(options.output, json.dumps(found, indent=2) + "\n")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(overrides: list[str], *, steps: int, warmup: int) -> dict[str, Any]:
    """The figures by name; rates are medians over the steps that count. ValueError as train.py has it."""
    if steps < 1 or warmup < 0:
        raise ValueError(f"--steps must be 1 or more and --warmup 0 or more, got {steps} and {warmup}")
    from statistics import median

    with tempfile.TemporaryDirectory() as folder:
        run = _build([*overrides, *QUIET, f"stage.steps={warmup + steps}", f"output={folder}"])
        lines, peak = _train(run, Path(folder))
    counted, training = lines[warmup:], run.training
    seconds = [line["seconds_per_step"] for line in counted]
    flops = _flops(training, range(warmup, warmup + steps))
    product = _product(training.engine.device, run.config.runtime.autocast)
    return {
        "stage": run.config.stage.name,
        "model": run.config.model.name,
        "device": str(training.engine.device),
        "learning parameters": sum(one.numel() for one in training.root.parameters() if one.requires_grad),
        "all parameters": sum(one.numel() for one in training.root.parameters()),
        "seconds per step": median(seconds),
        "tokens per second": median(line["tokens_per_second"] for line in counted),
        "audio seconds per second": median(line["audio_seconds_per_second"] for line in counted),
        "loader's share": sum(line["waiting_share"] * line["seconds_per_step"] for line in counted) / sum(seconds),
        **{f"peak memory, {name.removesuffix('_gb')} GB": value for name, value in peak.items() if value is not None},
        "TFLOP per step": sum(flops) / steps / 1e12,
        "TFLOP/s": sum(flops) / sum(seconds) / 1e12,
        "TFLOP/s of a matrix product": product / 1e12,
        "model FLOP utilisation": sum(flops) / sum(seconds) / product,
    }


def _build(overrides: list[str]) -> Run:
    import logging
    import warnings

    from audiostory import composing
    from audiostory.training import builders, config

    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    composed = config.compose(CONFIGS, overrides)
    run = composing.build(config.RunConfig, composed)
    if run.runtime.processes != "one":
        raise ValueError(f"only one process is measured, not runtime.processes={run.runtime.processes}")
    return builders.build(run, composed)


def _train(run: Run, folder: Path) -> tuple[list[dict[str, float]], dict[str, float | None]]:
    """The log's line of each step, and the peak of memory; what a run does beside its steps is left out."""
    from dataclasses import replace
    from unittest.mock import patch

    from bench.measure import Watch

    from audiostory.training import checkpoint, journal

    training, watch = run.training, Watch(run.training.engine.device)
    training.hooks = replace(training.hooks, finish=lambda: None, export=lambda folder: None)
    with patch.object(checkpoint, "save"), watch.phase("train"):
        run.start()
    return journal.read(folder / "log.jsonl"), watch.peaks["train"].values()


def _flops(training: Training, steps: range) -> list[int]:
    """Of the steps as they were, each."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from tqdm.auto import tqdm

    from audiostory.training.measures import Measures

    counts, pieces = [], training.engine.micro_batches
    for step in tqdm(steps, desc="counting", unit="step"):
        batches = [training.train[step * pieces + place] for place in range(pieces)]
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            training.step(step, batches, Measures())
        counts.append(counter.get_total_flops())
    return counts


def _product(device: torch.device, autocast: str) -> float:
    """FLOP/s of the fastest of some products of large square matrices."""
    import torch

    dtype = torch.bfloat16 if autocast == "bfloat16" else torch.float32
    width, fastest = PRODUCT_WIDTH[device.type], float("inf")
    matrix = torch.randn(width, width, device=device).to(dtype)
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for it
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * width**3 / fastest


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
