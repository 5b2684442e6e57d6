"""What the measures of `bench_inference.py` look like: medians, a table for people, a picture. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

PHASES = ("plan", "bridge", "denoise", "decode", "stitch", "other")


def summed(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """One way's stories, each told several times: medians of each story, and of those the sum.

    A run is {"seconds": {phase: s}, "whole": s, "tokens": n, "evaluations": n, "audio_seconds": s}; counts are the same
    in every run of a story.
    """
    phases = {phase: sum(median(run["seconds"].get(phase, 0.0) for run in story) for story in runs) for phase in PHASES}
    whole = sum(median(run["whole"] for run in story) for story in runs)
    tokens, evaluations, heard = (
        sum(story[0][name] for story in runs) for name in ("tokens", "evaluations", "audio_seconds")
    )
    return {
        "phases": phases,
        "whole": whole,
        "audio_seconds": heard,
        "tokens_per_second": tokens / phases["plan"],
        "steps_per_second": evaluations / phases["denoise"],
        "real_time_factor": heard / whole,
    }


def table(measured: Mapping[str, Any]) -> str:
    """Phases by ways, and how many times faster ours is."""
    ways = [name for name in ("ours", "released_way") if name in measured]
    heads = [name.replace("_", " ") for name in ways] + (["times"] if len(ways) > 1 else [])
    lines = [f"{'':<30}" + "".join(f"{head:>14}" for head in heads)]

    def row(name: str, values: Sequence[float | None], digits: int = 2, turned: bool = False) -> None:
        cells = ["-" if value is None else f"{value:.{digits}f}" for value in values]
        if len(ways) > 1:
            one, other = values[::-1] if turned else values
            cells.append(f"{other / one:.1f}" if one and other is not None else "-")
        lines.append(f"{name:<30}" + "".join(f"{cell:>14}" for cell in cells))

    row("load, s", [measured[way].get("load") for way in ways])
    for phase in PHASES:
        row(f"{phase}, s", [measured[way]["phases"][phase] for way in ways], digits=3)
    row("whole without load, s", [measured[way]["whole"] for way in ways], digits=3)
    row("first audio, s", [measured[way]["first_audio"] for way in ways], digits=3)
    row("start to first audio, s", [measured[way].get("start_to_first_audio") for way in ways])
    row("tokens/s", [measured[way]["tokens_per_second"] for way in ways], digits=1, turned=True)
    row("denoising steps/s, by clip", [measured[way]["steps_per_second"] for way in ways], digits=1, turned=True)
    row("real-time factor", [measured[way]["real_time_factor"] for way in ways], turned=True)
    for name, said in (("own_gb", "peak own memory, GB"), ("gpu_gb", "peak GPU memory, GB")):
        row(said, [measured[way].get("peak", {}).get(name) for way in ways])
    return "\n".join(lines)


def phases_of_memory(peaks: Mapping[str, Mapping[str, float | None]]) -> str:
    """Where one way's peak lies."""
    told = {
        phase: [f"{value:.2f} GB {name.removesuffix('_gb')}" for name, value in peak.items() if value is not None]
        for phase, peak in peaks.items()
    }
    return "; ".join(f"{phase} {', '.join(values)}" for phase, values in told.items() if values)


def growth_table(points: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'events':>7}{'':>12}{'seconds':>10}{'of sound':>10}{'own GB':>9}{'GPU GB':>9}"]
    for point in points:
        memory = ["-" if value is None else f"{value:.3f}" for value in point["peak"].values()]
        lines.append(
            f"{point['events']:>7}{point['way']:>12}{point['seconds']:>10.2f}{point['audio_seconds']:>10.1f}"
            + "".join(f"{cell:>9}" for cell in memory)
        )
    return "\n".join(lines)


def draw_growth(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds and peak memory against the number of events, a line for each way of telling."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    memory = "gpu_gb" if points[0]["peak"]["gpu_gb"] is not None else "own_gb"
    panels = {
        "seconds": lambda point: point["seconds"],
        f"peak memory, GB ({'GPU' if memory == 'gpu_gb' else 'own'})": lambda point: point["peak"][memory],
    }
    figure, grid = plt.subplots(1, len(panels), figsize=(10, 4), layout="constrained")
    for axes, (title, value) in zip(grid, panels.items(), strict=True):
        for way in dict.fromkeys(point["way"] for point in points):
            own = [point for point in points if point["way"] == way and value(point) is not None]
            axes.plot([point["events"] for point in own], [value(point) for point in own], "o-", label=way)
        axes.set(title=title, xlabel="events")
        axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110, format="png")
    plt.close(figure)
