"""Times and memory of telling one story with a scripted plan, phase by phase: no weights of worth are needed.

    python scripts/make_random_release.py --output runs/random-3b
    python scripts/bench_inference.py --model_path runs/random-3b/ckpt/audiostory-3B --dtype bf16 --events 2 --steps 2

The planner is asked for every token, as in a real story, and a script answers in its place, so that random weights plan
as long as trained ones would. Memory is the process's own (without files that are only mapped) and the GPU's peak.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
CAPTION = "steady rain falls on a tin roof while a dog barks far away"


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--model_path", type=Path, metavar="DIR", help="released folder or one of ours (the bundled audiostory-mini)")
    add("--tangoflux_model", type=Path, metavar="DIR", help="of a released folder (Flux_detokenizer beside it)")
    add("--dtype", choices=tuple(DTYPES), default="fp32")
    add("--device", default="cpu")
    add("--offload", action="store_true", help="keep each part on the GPU only while it works")
    add("--events", type=int, default=3, metavar="N", help="events of the story (3)")
    add("--seconds", type=float, default=5.0, metavar="S", help="length of each (5)")
    add("--steps", type=int, default=50, metavar="N", help="denoising steps (50)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        _bench(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _bench(options: argparse.Namespace) -> None:
    import torch

    from audiostory.model.planner import reciting
    from audiostory.pipeline import MINI, AudioStoryPipeline
    from audiostory.story import Event, Instruction, Storyline, script
    from audiostory.weights import released

    if options.events < 1 or not 0.1 <= options.seconds <= 60:
        raise ValueError("--events must be 1 or more and --seconds 0.1 to 60")
    device, dtype = torch.device(options.device), getattr(torch, DTYPES[options.dtype])
    print(f"{'phase':<28}{'seconds':>9}{'memory GB':>11}{'GPU peak GB':>13}")
    with _phase("load", device):
        if options.model_path is not None and released.looks_released(options.model_path):
            pipeline = AudioStoryPipeline.from_released(options.model_path, options.tangoflux_model, dtype=dtype)
        else:
            pipeline = AudioStoryPipeline.from_pretrained(options.model_path or MINI, dtype=dtype)
        if options.offload:
            pipeline.enable_model_cpu_offload(device=device)
        elif device.type != "cpu":
            pipeline.to(device)

    events = tuple(
        Event(caption=CAPTION, seconds=options.seconds, start=round(index * options.seconds, 6))
        for index in range(options.events)
    )
    instruction = Instruction(text=CAPTION, total_seconds=round(options.events * options.seconds, 3))
    storyline = Storyline(summary=CAPTION, events=events)
    prompt = script.prompt(instruction, pipeline.vocabulary, pipeline.settings.lead_in)
    lead = pipeline.settings.lead_in
    layout = pipeline.settings.script
    answer = script.write(instruction, storyline, pipeline.vocabulary, lead=lead, layout=layout).ids[len(prompt) :]
    with _phase(f"plan ({len(answer)} tokens)", device):
        if options.offload:
            pipeline.planner.to(device)
        written = pipeline.planner.write(
            prompt,
            pipeline.vocabulary,
            max_new_tokens=len(answer),
            choose=reciting(answer, pipeline.vocabulary),
        )
        plan = pipeline.read_plan(written, instruction)
    with _phase(f"render ({options.steps} steps)", device):
        told = pipeline.render(plan, steps=options.steps, progress=False)
    print(f"{told.story.seconds:.1f} s of sound at {told.story.sample_rate} Hz, {options.dtype}, {device}")


@contextmanager
def _phase(name: str, device) -> Iterator[None]:
    import torch

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    yield
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    peak = f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f}" if on_gpu else "-"
    print(f"{name:<28}{seconds:>9.1f}{_own_memory():>11}{peak:>13}", flush=True)


def _own_memory() -> str:
    """Anonymous memory of this process, where the system tells it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)
    return "-" if kilobytes is None else f"{kilobytes * 1024 / 1e9:.2f}"


if __name__ == "__main__":
    sys.exit(main())
