"""Packs what the stages of the paper start from, so that they can be trained without the pre-training: half the size.

    python scripts/pack_pretrained.py runs --output data/mini-pretrained
    cp -r data/mini-pretrained/. runs/          # and then: python train.py stage=stage1_warmup

Taken are the exports of codec, tangoflux, hearing and reading in the folder of runs, with the tokenizers; --runs names
others. The folder is put in place whole.
"""

import argparse
import shutil
import sys
from pathlib import Path

PRETRAINED = ("codec", "tangoflux", "hearing", "reading")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the folder of runs")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; one that is there is replaced")
    parser.add_argument("--runs", nargs="+", default=PRETRAINED, metavar="NAME", help=f"({' '.join(PRETRAINED)})")
    arguments = parser.parse_args(argv)

    from audiostory import disk

    try:
        with disk.replacing_folder(arguments.output) as aside:
            for run in arguments.runs:
                _pack(arguments.source / run / "export", aside / run / "export")
            if (arguments.source / "tokenizers").is_dir():
                shutil.copytree(arguments.source / "tokenizers", aside / "tokenizers")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    num_bytes = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    print(f"{arguments.output}: {num_bytes / 1e6:.1f} MB")
    return 0


def _pack(export: Path, output: Path) -> None:
    """The components of an export in half precision but for what is always read whole (the text encoder, the DiT's
    duration embedder), and all else that lies there as it is."""
    import torch

    from audiostory.weights import ours

    if not export.is_dir():
        raise ValueError(f"there is no {export}; train that stage to its end, or leave it out with --runs")
    shutil.copytree(export, output)
    for name in ours.CLASSES:
        if (output / name / "config.json").is_file():
            component = ours.read_component(output, name, torch.float16)
            shutil.rmtree(output / name)
            component.save_pretrained(str(output / name))


if __name__ == "__main__":
    sys.exit(main())
