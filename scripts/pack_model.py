"""Packs a trained model into a folder to ship: half the size, and only what telling a story needs.

    python scripts/pack_model.py runs/stage3/export --output audiostory/assets/audiostory-mini

The source is the export of a stage that has planner, bridge, DiT and codec. The folder is put in place whole.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a model's folder")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; one that is there is replaced")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16", help="of the files")
    arguments = parser.parse_args(argv)

    import torch

    from audiostory.pipeline import AudioStoryPipeline

    aside = arguments.output.with_name(f".{arguments.output.name}.unfinished")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        pipeline = AudioStoryPipeline.from_pretrained(arguments.source, dtype=getattr(torch, arguments.dtype))
        pipeline.save_pretrained(aside)
        shutil.rmtree(arguments.output, ignore_errors=True)
        os.replace(aside, arguments.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    num_bytes = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    print(f"{arguments.output}: {num_bytes / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
