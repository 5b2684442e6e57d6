"""Compares systems that tell stories: python evaluate/benchmark.py suite=soundworld system=mini

A suite says what is asked and how it is scored, a system who tells; several systems stand side by side:

    python evaluate/benchmark.py system=[mini,cascade,whole_caption,true_captions] suite.num=200
    python evaluate/benchmark.py suite.tasks=[questions,continuations] systems.mini.model_path=runs/stage3/export
    python evaluate/benchmark.py suite=as10k suite.items=items.jsonl suite.weights.clap=FOLDER \\
        system=folder systems.folder.folder=WAVS
    torchrun --nproc_per_node=8 evaluate/benchmark.py ...      each process tells its share

OUTPUT (runs/benchmark/SUITE, or output=DIR) gets the stories, report.md, report.json and index.html, a page to listen
by. The same command goes on where a stopped run was, and scores again without telling again. Every setting can be
overridden (docs/BENCHMARK.md); --cfg job shows them all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audiostory.comparison.config import Benchmark

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 when something must be asked or prepared differently (said on stderr)."""
    options = {group: sorted(file.stem for file in (CONFIGS / group).glob("*.yaml")) for group in ("suite", "system")}
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="choices:\n" + "\n".join(f"  {group}={'|'.join(names)}" for group, names in options.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="suite=NAME, system=NAME, and what else")
    parser.add_argument("--cfg", choices=("job",), help="print the composed settings as yaml and stop")
    arguments = parser.parse_args(argv)
    from audiostory import composing
    from audiostory.comparison import config

    try:
        composed = config.compose(CONFIGS, arguments.overrides)
        benchmark = config.build(composed)
        if arguments.cfg:
            print(composing.as_yaml(composed), end="")
            return 0
        _compare(benchmark)
    except (ValueError, OSError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _compare(benchmark: Benchmark) -> None:
    from audiostory.benchmark import report
    from audiostory.comparison import recordings, soundworld
    from audiostory.comparison.config import SoundWorld
    from audiostory.processes import Place

    place, suite = Place.of_environment(), benchmark.suite
    if isinstance(suite, SoundWorld):
        reports = soundworld.run(benchmark, suite, place)
    else:
        reports = recordings.run(benchmark, suite, place)
    for folder, found in reports:
        print(f"\n{found.title}\n\n{report.table(found.columns)}")
        for note in found.notes:
            print(f"note: {note}")
        print(
            f"written to {folder}: report.md, report.json"
            + (", index.html" if (folder / "index.html").is_file() else "")
        )


if __name__ == "__main__":
    sys.exit(main())
