"""Draws the curves of one or more runs from their logs.

python scripts/plot_run.py runs/codec                                   writes runs/codec/curves.png
python scripts/plot_run.py runs/stage1 runs/trial --output curves.png   two runs in one picture
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

GROUPS = {  # what begins so is drawn together, under this title
    "gradient_norm/": "gradient norm",
    "rate/": "learning rate",
    "padding_share/": "padding, share",
    "waiting_share": "waiting for data, share of the time",
    "tokens_per_second": "script tokens per second",
    "audio_seconds_per_second": "seconds of audio per second",
}
SMOOTHING = 0.05  # share of a curve that its running mean spans


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of train.py")
    parser.add_argument("--output", type=Path, help="the picture [curves.png in the first run]")
    arguments = parser.parse_args(argv)
    try:
        draw(arguments.runs, arguments.output or arguments.runs[0] / "curves.png")
    except (ValueError, OSError) as error:
        print(f"plot_run.py: {error}", file=sys.stderr)
        return 2
    return 0


def draw(runs: Sequence[Path], output: Path) -> None:
    """One panel per loss, with held-out values as points, then gradient norms, learning rates, padding and speed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    logs = {run.name: curves(run / "log.jsonl") for run in runs}
    named = dict.fromkeys(name for log in logs.values() for name in log)
    groups = [group for group in GROUPS if any(name.startswith(group) for name in named)]
    panels = [name for name in named if name.startswith("loss/")] + groups
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.5 * columns, 3 * rows), squeeze=False, layout="constrained")
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid.flat, panels, strict=False):
        for run, log in logs.items():
            _panel(axes, panel, log, run if len(runs) > 1 else "")
        axes.set(title=GROUPS.get(panel, panel.removeprefix("loss/").replace("_", " ")), xlabel="step")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=110)
    print(output)


def curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """{name: (steps, values)} of one log."""
    from audiostory.training import journal

    if not path.is_file():
        raise ValueError(f"no log at {path}; give the output folder of a run that has begun")
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in journal.read(path):
        for name, value in line.items():
            if name != "step":
                steps, values = found.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    if not found:
        raise ValueError(f"{path} holds no step yet; wait for the run's first log line")
    return found


def _panel(axes, panel: str, log: dict[str, tuple[list[float], list[float]]], run: str) -> None:
    if panel in GROUPS:
        for name in (name for name in log if name.startswith(panel)):
            steps, values = log[name]
            axes.plot(steps, smooth(values), label=" ".join((run, name.removeprefix(panel))).strip())
        return
    steps, values = log.get(panel, ([], []))
    (line,) = axes.plot(steps, smooth(values), label=run or None)
    axes.plot(steps, values, color=line.get_color(), alpha=0.2)
    held_out = log.get(panel.replace("loss/", "val/"))
    if held_out and panel.startswith("loss/"):
        axes.plot(*held_out, "o", color=line.get_color(), markersize=3, label=f"{run} held out".strip())
    positive = [value for value in values if value > 0]
    if positive and max(positive) > 20 * min(positive):
        axes.set_yscale("log")


def smooth(values: Sequence[float]) -> list[float]:
    """A centred running mean over a share of the curve."""
    reach = int(len(values) * SMOOTHING / 2)
    windows = (values[max(0, place - reach) : place + reach + 1] for place in range(len(values)))
    return [sum(window) / len(window) for window in windows]


if __name__ == "__main__":
    sys.exit(main())
