"""Proves that our classes compute what the released system computed, number by number, on its recorded runs.

    python scripts/check_parity.py                    # the recording in tests/data/golden
    python scripts/check_parity.py DIR                # any other in that format

The checkpoint is rebuilt in a temporary folder and read as a downloaded one would be. One line per check: name, largest
absolute error, tolerance, ok or FAIL; where ours is meant to differ, a note below says how and why. Exit status 1 if
any failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "golden"


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", nargs="?", type=Path, default=GOLDEN, metavar="DIR", help="the recording")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """0 when all passed, 1 when some failed, 2 when the folder holds no recording."""
    folder = parser().parse_args(argv).folder
    from audiostory.parity import compare
    from audiostory.parity.recording import Recording

    try:
        subject = compare.load(Recording(folder))
    except (ValueError, OSError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    passed = num_failed = 0
    for check in compare.run(subject):
        print(check, flush=True)
        passed, num_failed = passed + check.passed, num_failed + (not check.passed)
    print(f"{passed} passed, {num_failed} failed")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
