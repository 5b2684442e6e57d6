"""Scores answers about recordings, and captions of them: accuracy, balanced accuracy, CIDEr-D, SPIDEr and their kin.

    python evaluate/understanding.py --references clotho.jsonl --answers runs/mine.jsonl runs/other.jsonl \\
        --output runs/understanding --tools jars

References are lines of {"id", "answer"} (questions; rows of a manifest are such lines) or {"id", "captions": [...]};
answers are lines of {"id", "answer"}, one for each, and each file of them is a column beside "shuffled", which is
chance. "heard" in a reference names its recording, over which intervals are drawn. Captions need
pip install "audiostory[captions]"; METEOR, SPICE and SPIDEr a Java of 8 to 13 and --tools too, the folder of jars that
aac_metrics.download fetches (audiostory/benchmark/metrics/captions.py). OUTPUT gets report.md and report.json.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audiostory.benchmark.report import Report

SHUFFLED = "shuffled"
HOW_TO_READ = """\
Every system answers the same. An answer is right when its words are those of the truth; case, space and punctuation do
not matter. Balanced accuracy is the mean over the different answers of the share that is right among them: who always
says the same gets that of one. CIDEr-D goes from 0 to 10, the other measures of captions to 1; papers often print a
hundred times these. In brackets stands the 95 % bootstrap interval over recordings. What is said to be split in Python
does not compare with figures of papers, whose words Java split.
"""


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--references", type=Path, required=True, metavar="FILE", help="what people said, a line of JSON each")
    add("--answers", type=Path, nargs="+", required=True, metavar="FILE", help="what a system said; a file is a column")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the reports")
    add("--tools", type=Path, metavar="DIR", help="jars for METEOR, SPICE and SPIDEr (without: none of them)")
    add("--java", default="java", metavar="FILE", help="that runs them (java)")
    add("--seed", type=int, default=0, help="of what is shuffled, and of intervals (0)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 when something must be asked or prepared differently (said on stderr)."""
    options = parser().parse_args(argv)
    try:
        understanding(options)
    except (ValueError, OSError) as error:
        print(f"understanding.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def understanding(options: argparse.Namespace) -> None:
    from audiostory.benchmark import report

    found = _report(options)
    report.write(options.output, found)
    print(f"{found.title}\n\n{report.table(found.columns)}\nwritten to {options.output}: report.md, report.json")


def _report(options: argparse.Namespace) -> Report:
    from audiostory.benchmark import understanding
    from audiostory.benchmark.report import Report
    from audiostory.disk import sha256

    references = understanding.read_references(options.references)
    files = {file.stem: file for file in options.answers}
    if len(files) < len(options.answers) or SHUFFLED in files:
        raise ValueError(f"each file of --answers is a column by its own name, and {SHUFFLED} is taken; rename one")
    said = {name: understanding.read_said(file, references) for name, file in files.items()}
    said[SHUFFLED] = understanding.shuffled(references, options.seed)
    how: dict[str, Any] = {"tools": options.tools, "java": options.java, "seed": options.seed}
    return Report(
        title=f"{len(references)} answers and captions of {len({one.recording for one in references})} recordings",
        columns={name: understanding.score(references, one, **how) for name, one in said.items()},
        about={
            **{name: str(file) for name, file in files.items()},
            SHUFFLED: "chance: each is given what a person said to another one",
        },
        how_to_read=HOW_TO_READ,
        facts={
            "references": {"file": str(options.references), "sha256": sha256(options.references)},
            "answers": {name: {"file": str(file), "sha256": sha256(file)} for name, file in files.items()},
            "java": options.java if options.tools else None,
            "seed": options.seed,
            "versions": {name: _version(name) for name in ("audiostory", "aac-metrics", "numpy")},
        },
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
