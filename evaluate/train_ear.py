"""Trains the ear that scores told stories: on ground-truth clips of the sound world, never on the model's sound.

python scripts/make_soundworld.py --kind clip --split train --num 6000 --output corpora/clips-train
python scripts/make_soundworld.py --kind clip --split val --num 500 --output corpora/clips-val
python evaluate/train_ear.py --train corpora/clips-train --held-out corpora/clips-val --output runs/ear
"""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="corpus to learn from (a folder with manifest.jsonl)")
    parser.add_argument("--held-out", type=Path, required=True, help="corpus to test on")
    parser.add_argument("--output", type=Path, required=True, help="folder for ear.safetensors and ear.json")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)

    from audiostory.benchmark import ear
    from audiostory.benchmark.items import read_truth

    try:
        learn, test = (
            [event for story in read_truth(folder / "manifest.jsonl") for event in story.events]
            for folder in (arguments.train, arguments.held_out)
        )
        listener, facts = ear.train(learn, test, ear.EarSettings(epochs=arguments.epochs, seed=arguments.seed))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    listener.save(arguments.output, facts)
    for question, share in facts["held_out_accuracy"].items():
        print(f"{question} right in {share:.1%} of {len(test)} held-out clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
