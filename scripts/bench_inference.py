"""Measures telling a story: seconds by phase, tokens and steps a second, peak memory, time to the first sound.

    python scripts/bench_inference.py                                   the bundled model, real instructions
    python scripts/bench_inference.py --released_way --fill             beside the same weights, run as the release does
    python scripts/bench_inference.py --scale medium --released_way --events 4
    python scripts/make_random_release.py --output runs/random-3b
    python scripts/bench_inference.py --scale 3b --released_way --device cuda --dtype bf16 --events 10 --seconds 15
    python scripts/bench_inference.py --events 1 2 4 8 16 32 64         what more events cost, told and streamed

Seconds are medians of --repeats, summed over the stories; both ways take turns in one run, and what they tell is
compared: the same ids, and latents (and samples, unless the codec looks for the phase) that differ by rounding alone.
A model of random weights, and any with --events, recites a script: it is asked for every token all the same.
Memory, and the time from a command's start to its first sound, are those of processes that tell one story, cold.
The folder --output gets bench.json, or with several --events events.json and events.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiostory.quick_imports import quick_imports

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for the folder bench, however this is started

if TYPE_CHECKING:
    import torch
    from bench.equality import Equality
    from bench.measure import Peak
    from bench.ours import Ours, Streamed, Telling
    from bench.released_way import ReleasedWay
    from bench.subjects import Story

    from audiostory.pipeline import AudioStoryPipeline

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
WAYS = ("told", "streamed", "released_way")  # of a process that tells one story
PASSED_ON = (
    "scale",
    "model_path",
    "tangoflux_model",
    "dtype",
    "device",
    "seconds",
    "total_seconds",
    "steps",
    "guidance",
)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--scale", choices=("mini", "medium", "3b"), default="mini", help="mini: bundled; medium: 0.4 B, random (mini)")
    add("--model_path", type=Path, metavar="DIR", help="another model: released folder or one of ours")
    add("--tangoflux_model", type=Path, metavar="DIR", help="of a released folder (Flux_detokenizer beside it)")
    add("--released_way", action="store_true", help="beside the way the release computes, with the same outcome")
    add("--fill", action="store_true", help="that way with all clips as long as the longest, as the release's are")
    add("--events", type=int, nargs="+", metavar="N", help="recite so many events; several numbers: a curve")
    add("--seconds", type=float, default=5.0, metavar="S", help="length of a recited event (5)")
    add("--total_seconds", type=float, default=30.0, metavar="S", help="length of a story from an instruction (30)")
    add("--stories", type=int, metavar="N", help="how many (3; recited: 1)")
    add("--repeats", type=int, default=3, metavar="N", help="of each story (3)")
    add("--warmup", type=int, default=1, metavar="N", help="tellings before the clock counts (1)")
    add("--steps", type=int, metavar="N", help="denoising steps (the model's own)")
    add("--guidance", type=float, metavar="G", help="(the model's own)")
    add("--solver", metavar="NAME", help="(the model's own; with --released_way euler)")
    add("--dtype", choices=tuple(DTYPES), default="fp32")
    add("--device", default="cpu")
    add("--int8", action="store_true", help="keep the weights of planner and DiT in 8 bits")
    add("--compile", action="store_true", help="compile planner and DiT, before the clock counts (a CPU needs g++)")
    add("--offload", action="store_true", help="keep each part on the GPU only while it works; no stream then")
    add("--skip_memory", action="store_true", help="start no process to measure memory and the cold start")
    add("--output", type=Path, default=Path("runs/bench_inference"), metavar="DIR", help="(runs/bench_inference)")
    add("--one", choices=WAYS, help=argparse.SUPPRESS)  # tell one story and print what it took, as JSON
    return arguments


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        _check(options)
        with quick_imports():  # as evaluate/inference.py starts
            import audiostory.pipeline  # noqa: F401
        if options.one:
            print(json.dumps(_tell_one(options)))
            return 0
        if options.events and len(options.events) > 1:
            _grow(options)
            return 0
        return _compare(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _check(options: argparse.Namespace) -> None:
    if options.events and min(options.events) < 1:
        raise ValueError(f"--events must be 1 or more, got {min(options.events)}")
    if not 0.1 <= options.seconds <= 60:
        raise ValueError(f"--seconds must be 0.1 to 60, got {options.seconds:g}")
    for name, least in (("stories", 1), ("repeats", 1), ("warmup", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be {least} or more, got {value}")
    if options.fill and not options.released_way and options.one != "released_way":
        raise ValueError("--fill is a manner of --released_way; give both")
    if options.offload and options.released_way:
        raise ValueError("the release keeps all its parts on the device; leave out --offload or --released_way")
    if options.compile and (options.offload or options.released_way):
        raise ValueError(
            "what is compiled stays where it is, and the release's way has the DiT in common with ours; leave out "
            "--compile, or --offload and --released_way"
        )
    if options.int8 and options.released_way:
        raise ValueError("the release keeps its weights whole, with 8 bits the outcome is another; leave out --int8")
    if options.released_way and options.solver not in (None, "euler"):
        raise ValueError(f"the release's solver is euler, with {options.solver} the outcome is another; leave it out")


# A table


def _compare(options: argparse.Namespace) -> int:
    from bench import report
    from bench.equality import compare
    from tqdm.auto import tqdm

    from audiostory import disk

    loaded = time.perf_counter()
    ours = _ours(options)
    loaded = time.perf_counter() - loaded
    theirs, notes = _theirs(ours, options) if options.released_way else (None, [])
    stories = _stories(ours.pipeline, options)
    record = {**_record(ours, options), "notes": notes}
    print("\n".join([_about(record), *notes]), flush=True)
    ways: dict[str, Any] = {"ours": ours, **({"released_way": theirs} if theirs else {})}
    runs: dict[str, list[list[Telling]]] = {way: [[] for _ in stories] for way in ways}
    streams: list[list[Streamed]] = [[] for _ in stories]
    rounds = options.warmup + options.repeats
    with tqdm(total=rounds * len(stories) * len(ways), desc="telling", unit=" stories") as bar:
        for turn in range(rounds):
            for seed, story in enumerate(stories):
                for way in list(ways) if turn % 2 else list(ways)[::-1]:
                    runs[way][seed].append(ways[way].tell(story, seed))
                    bar.update()
                if not options.offload:
                    streams[seed].append(ours.stream(story, seed))
    pairs = zip(runs["ours"], runs["released_way"], strict=True) if theirs else []
    samples = not options.fill or ours.pipeline.dit.fixed_frames is not None  # these are filled in both ways
    equal = [compare(ours, told[0], other[0], seed, samples=samples) for seed, (told, other) in enumerate(pairs)]
    measured = {
        way: report.summed([[_counted(one, ways[way], ours) for one in told[options.warmup :]] for told in runs[way]])
        for way in ways
    }
    measured["ours"] |= {"load": loaded, "first_audio": _first(streams, options.warmup)}
    if theirs:
        measured["released_way"]["first_audio"] = measured["released_way"]["whole"] / len(stories)  # silent until done
    for way in ways if not options.skip_memory else ():
        measured[way] |= _cold(options, way)
    print(report.table(measured))
    for way in ways if not options.skip_memory else ():
        print(f"memory of the {way.replace('_', ' ')}: {report.phases_of_memory(measured[way]['phases_peak'])}")
    for seed, one in enumerate(equal):
        print(f"story {seed + 1}: {_told_equality(one)}")
    record |= {
        "stories": [
            {
                "instruction": story.instruction.text,
                "recited": story.answer is not None,
                "tokens": len(told[0].ids),
                "events": len(told[0].plan.storyline.events),
                "audio_seconds": told[0].audio.story.seconds,
            }
            for story, told in zip(stories, runs["ours"], strict=True)
        ],
        **measured,
        "equality": [one.values() for one in equal],
    }
    path = options.output / "bench.json"
    disk.write_text(path, json.dumps(record, indent=2) + "\n")
    print(path)
    return 0 if all(one.equal for one in equal) else 1


def _counted(told: Telling, way: Ours | ReleasedWay, ours: Ours) -> dict[str, Any]:
    from audiostory.model import solvers

    solver = ours.solver if way is ours else "euler"
    return {
        "seconds": told.seconds,
        "whole": told.whole,
        "tokens": len(told.ids),
        "evaluations": len(told.latents) * solvers.evaluations(solver, way.steps),
        "audio_seconds": told.audio.story.seconds,
    }


def _first(streams: list[list[Streamed]], warmup: int) -> float | None:
    """A mean over the stories."""
    from statistics import mean, median

    return mean(median(one.first for one in told[warmup:]) for told in streams) if streams[0] else None


def _told_equality(one: Equality) -> str:
    if not one.same_ids:
        return "NOT EQUAL: the ids differ"
    heard = "" if one.samples is None else f", samples by {one.samples:.1e} (allowed {one.samples_allowed:.1e})"
    return (
        f"{'equal' if one.equal else 'NOT EQUAL'}: the same ids, latents differ by {one.latents:.1e} "
        f"(allowed {one.latents_allowed:.1e}){heard}"
    )


# Processes that tell one story


def _tell_one(options: argparse.Namespace) -> dict[str, Any]:
    from bench.measure import Peak

    ours = _ours(options)
    way: Any = ours
    if options.one == "released_way":
        way, _ = _theirs(ours, options)
        ours.pipeline.register_modules(planner=way.planner, codec=way.codec)  # not both in memory
    story = _stories(ours.pipeline, options)[0]
    if options.warmup:
        from bench.subjects import scripted

        (way.stream if options.one == "streamed" else way.tell)(scripted(ours.pipeline, 1, options.seconds), 0)
    if options.one == "streamed":
        streamed = ours.stream(story, 0)
        first_at, seconds, heard = streamed.first_at, streamed.whole, streamed.audio_seconds
        peaks: dict[str, Peak] = {"stream": streamed.peak}
    else:
        told = way.tell(story, 0)
        first_at, seconds, heard, peaks = time.time(), told.whole, told.audio.story.seconds, dict(told.peaks)
    return {
        "way": options.one,
        "seconds": seconds,
        "audio_seconds": heard,
        "first_at": first_at,
        "peak": Peak.most(list(peaks.values())).values(),
        "phases_peak": {phase: peak.values() for phase, peak in peaks.items()},
    }


def _cold(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """Of a way, from processes of their own: its memory, and from the command's start to the first sound."""
    began = time.time()
    told = _child(options, "told" if way == "ours" else way, options.events, warmup=0)
    found = {"peak": told["peak"], "phases_peak": told["phases_peak"]}
    if way == "ours" and not options.offload:
        began = time.time()
        told = _child(options, "streamed", options.events, warmup=0)
        found["streamed_peak"] = told["peak"]
    return {**found, "start_to_first_audio": told["first_at"] - began}


def _child(options: argparse.Namespace, way: str, events: list[int] | None, warmup: int) -> dict[str, Any]:
    """What a process of its own found. ValueError with its last line when it failed."""
    given = {name: getattr(options, name) for name in PASSED_ON}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    flags += [f"--solver={solver}"] if (solver := _solver(options)) else []
    flags += [f"--{name}" for name in ("offload", "int8", "compile") if getattr(options, name)]
    flags += ["--fill"] if options.fill and way == "released_way" else []
    flags += ["--events", *map(str, events)] if events else []
    command = [sys.executable, str(Path(__file__).resolve()), *flags, f"--one={way}", f"--warmup={warmup}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the process that measures {way} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


# A curve


def _grow(options: argparse.Namespace) -> None:
    """What each number of events costs, each in a process of its own."""
    from bench import report
    from tqdm.auto import tqdm

    from audiostory import disk

    ways = [way for way in WAYS if way != "released_way" or options.released_way]
    ways = [way for way in ways if way != "streamed" or not options.offload]
    points = []
    with tqdm(total=len(options.events) * len(ways), desc="telling", unit=" stories") as bar:
        for events in options.events:
            for way in ways:
                points.append({"events": events, **_child(options, way, [events], options.warmup)})
                bar.update()
    print(report.growth_table(points))
    disk.write_text(
        options.output / "events.json", json.dumps({**_options(options), "points": points}, indent=2) + "\n"
    )
    with disk.replacing(options.output / "events.png") as unfinished:
        report.draw_growth(points, unfinished)
    print(options.output / "events.png")


# What is measured


def _ours(options: argparse.Namespace) -> Ours:
    import torch
    from bench import subjects
    from bench.ours import Ours

    from audiostory.model.int8 import weights_to_int8

    device, dtype = _device(options.device), getattr(torch, DTYPES[options.dtype])
    pipeline = subjects.open_model(options.scale, options.model_path, options.tangoflux_model, dtype)
    if options.int8:
        weights_to_int8(pipeline.planner, pipeline.dit)
    ours = Ours(pipeline, device, steps=options.steps, guidance=options.guidance, solver=_solver(options))
    if options.offload:
        pipeline.enable_model_cpu_offload(device=device)
    elif device.type != "cpu":
        pipeline.to(device)
    if options.compile:
        pipeline.compile()
    return ours


def _solver(options: argparse.Namespace) -> str | None:
    """None: the model's own. Beside the release's way it is the release's, in the processes that are started, too."""
    return options.solver or ("euler" if options.released_way else None)


def _theirs(ours: Ours, options: argparse.Namespace) -> tuple[ReleasedWay, list[str]]:
    from bench import released_way, subjects

    folder = subjects.folder_of(options.scale, options.model_path)
    planner, encoder, notes = released_way.planner_and_encoder(ours.pipeline, folder, options.tangoflux_model)
    planner.to(ours.device)
    if encoder is not None:
        encoder.to(ours.device)
    choices: dict[str, Any] = {"steps": ours.steps, "guidance": ours.guidance, "fill": options.fill}
    way = released_way.ReleasedWay(ours.pipeline, planner, encoder, **choices)
    length = "one length" if options.fill or ours.pipeline.dit.fixed_frames else "their own lengths, as it was trained"
    return way, [*notes, f"clips: {length}, one at a time"]


def _stories(pipeline: AudioStoryPipeline, options: argparse.Namespace) -> list[Story]:
    from bench import subjects

    if options.events:
        return [subjects.scripted(pipeline, options.events[0], options.seconds)] * (options.stories or 1)
    if options.scale != "mini" and options.model_path is None:
        return [subjects.scripted(pipeline, 4, options.seconds)] * (options.stories or 1)
    return subjects.asked(options.stories or 3, options.total_seconds)


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"no device {name!r} here; give --device cpu, or cuda where there is a GPU") from error


def _about(record: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in record["parameters"].items())
    return (
        f"{sizes}; {record['dtype']} on {record['device_name']}, {record['threads']} threads; "
        f"{record['steps']} steps of {record['solver']}, guidance {record['guidance']:g}"
    )


def _record(ours: Ours, options: argparse.Namespace) -> dict[str, Any]:
    import platform

    import torch

    return {
        **_options(options),
        **ours.choices,
        "device_name": torch.cuda.get_device_name(ours.device) if ours.device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": ours.parameters(),
    }


def _options(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


if __name__ == "__main__":
    sys.exit(main())
