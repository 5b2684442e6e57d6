"""Writes a corpus of the sound world: a manifest and its recordings (data/README.md describes both).

    python scripts/make_soundworld.py data/soundworld/train --split train --num 5000 --workers 2
    python scripts/make_soundworld.py data/soundworld/clips --kind clip --num 20000 --workers 2
    python scripts/make_soundworld.py data/soundworld/test --split test --num 200 --whole
    python scripts/make_soundworld.py data/soundworld/questions --kind question --num 5000 --per_story 4 --workers 2
    python scripts/make_soundworld.py data/soundworld/continuations --kind continuation --num 5000 --workers 2

The same command again goes on where a stopped run was, and does nothing once the corpus is finished.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a checkout works before it is installed


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="where the corpus goes; one corpus to a folder")
    parser.add_argument(
        "--kind",
        choices=("story", "clip", "question", "continuation"),
        default="story",
        help="stories, single sounds, questions about stories, or stories that go on from an opening",
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="train", help="test holds what train lacks"
    )
    parser.add_argument("--num", type=int, default=1000, help="rows, or recordings to ask about (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="the first row's seed; later rows count on from it")
    parser.add_argument("--no-audio", dest="audio", action="store_false", help="write the manifest alone")
    parser.add_argument("--whole", action="store_true", help="write each story in one file too")
    parser.add_argument("--mixed", action="store_true", help="ask for stories in frames put together from several")
    parser.add_argument("--per_story", type=int, metavar="N", help="questions about each recording (default 4)")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes (default 1); any number writes the same corpus"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    # Imported late, so that --help and a mistyped option answer at once.
    from tqdm import tqdm

    from audiostory.soundworld.corpus import write_corpus

    began = time.monotonic()
    try:
        with tqdm(total=arguments.num, unit="row", desc=str(arguments.folder), delay=0.5) as bar:
            summary = write_corpus(**vars(arguments), on_rows=bar.update)
    except (ValueError, OSError) as error:
        print(f"make_soundworld: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    took = time.monotonic() - began
    events = ", ".join(f"{num_events}: {num_rows}" for num_events, num_rows in summary.num_events.items())
    print(f"{arguments.folder}: {summary.num_rows} rows ({summary.num_written} new), {summary.seconds:.1f} s of sound")
    print(f"rows by number of events: {events}")
    if arguments.audio and summary.num_written:
        seconds_written = summary.seconds * summary.num_written / summary.num_rows
        print(f"{took:.1f} s, {seconds_written / took:.0f} times faster than real time")


if __name__ == "__main__":
    main()
