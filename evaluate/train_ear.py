"""Trains the ear that scores told stories: on ground-truth clips of the sound world, never on the model's sound.

    python scripts/make_soundworld.py corpora/clips-train --kind clip --split train --num 3000
    python scripts/make_soundworld.py corpora/clips-val --kind clip --split val --num 300
    python evaluate/train_ear.py --train corpora/clips-train --held-out corpora/clips-val --output runs/ear

Three thousand clips take some three minutes of one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = arguments.add_argument
    add("--train", type=Path, required=True, metavar="DIR", help="corpus to learn from (a folder with manifest.jsonl)")
    add("--held-out", type=Path, required=True, metavar="DIR", help="corpus to test on")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for ear.safetensors and ear.json")
    add("--num", type=int, metavar="N", help="learn from the first N stories or clips only (all)")
    add("--epochs", type=int, help="how often each clip is heard (8)")
    add("--seed", type=int, default=0, help="of the first weights and the order of clips (0)")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 when something must be asked or prepared differently (said on stderr)."""
    options = parser().parse_args(argv)
    try:
        train(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def train(options: argparse.Namespace) -> None:
    from audiostory.benchmark import ear
    from audiostory.benchmark.items import read_truth

    if options.num is not None and options.num < 1:
        raise ValueError(f"--num must be at least 1, got {options.num}")
    chosen = {} if options.epochs is None else {"epochs": options.epochs}
    settings = ear.EarSettings(seed=options.seed, **chosen)
    learn, test = (read_truth(folder / "manifest.jsonl") for folder in (options.train, options.held_out))
    learn = [event for story in learn[: options.num] for event in story.events]
    test = [event for story in test for event in story.events]
    listener, facts = ear.train(learn, test, settings)
    listener.save(options.output, facts)
    for question, share in facts["held_out_accuracy"].items():
        print(f"{question} right in {share:.1%} of the held-out clips that have one")
    print(f"{len(learn)} clips learnt, {len(test)} held out; written to {options.output}")


if __name__ == "__main__":
    sys.exit(main())
