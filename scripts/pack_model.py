"""Packs a trained model into a folder to ship: half the size, and only what telling a story and listening need.

    python scripts/pack_model.py runs/stage3/export --output audiostory/assets/audiostory-mini

The source is the export of a stage that has planner, bridge, DiT and codec; its listener comes along. --audio_encoder
adds the ear that the listener was trained with, where the export lacks it; --text_encoder the text encoder, so that
training can go on from the folder. The folder is put in place whole.
"""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a model's folder")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write; one that is there is replaced")
    parser.add_argument(
        "--text_encoder", type=Path, metavar="DIR", help="add the one of this folder, for more training"
    )
    parser.add_argument("--audio_encoder", type=Path, metavar="DIR", help="add the one of this folder, to listen with")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16", help="of the files")
    arguments = parser.parse_args(argv)

    import torch

    from audiostory import disk
    from audiostory.pipeline import AudioStoryPipeline
    from audiostory.weights import ours

    try:
        dtype = getattr(torch, arguments.dtype)
        pipeline = AudioStoryPipeline.from_pretrained(arguments.source, dtype=dtype)
        if arguments.audio_encoder is not None:
            ear = {"audio_encoder": ours.read_component(arguments.audio_encoder, "audio_encoder", dtype)}
            pipeline = AudioStoryPipeline(**{**pipeline.components, **ear}, settings=pipeline.settings)
        with disk.replacing_folder(arguments.output) as aside:
            pipeline.save_pretrained(aside)
            if arguments.text_encoder is not None:
                text_encoder = ours.read_component(arguments.text_encoder, "text_encoder")
                text_encoder.to(dtype).save_pretrained(aside / "text_encoder")
                parts = {name: getattr(pipeline, name) for name in ours.read_names(aside)}
                ours.write_index(aside, {**parts, "text_encoder": text_encoder}, pipeline.settings)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    num_bytes = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    print(f"{arguments.output}: {num_bytes / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
