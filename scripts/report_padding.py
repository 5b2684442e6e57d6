"""Tells what a corpus costs in padding and in time to make its batches, before anything is trained on it.

    python scripts/report_padding.py corpora/stories-train/manifest.jsonl --latents corpora/stories-train/latents \\
        --tokenizer runs/tokenizers --num_residual 8 --rows 16 --tokens 4096 --frames 2400 --pieces 4

The limits are a stage's `batch`. A set of shards stands in the manifest's place, without --latents. Tokens are counted
as training plans with them, to a few per cent; frames exactly. Rows stay whole, so events of a row that differ in
length pad each other: the last line is what no order of rows could save.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from audiostory.dataset.sources import Stories


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows_of", metavar="manifest", type=Path, help="a manifest, or the folder of a set of shards")
    parser.add_argument("--latents", type=Path, help="the store beside the manifest; without it, words alone")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the planner's tokenizer")
    parser.add_argument("--num_semantic", type=int, default=16, help="tokens per event [%(default)s]")
    parser.add_argument("--num_residual", type=int, default=8, help="tokens per event [%(default)s]")
    parser.add_argument("--rows", type=int, default=64, help="of a batch, at most [%(default)s]")
    parser.add_argument("--tokens", type=int, help="of a batch, at most")
    parser.add_argument("--frames", type=int, help="of a batch, at most")
    parser.add_argument("--pieces", type=int, default=1, help="that a batch is cut into [%(default)s]")
    parser.add_argument("--batches", type=int, default=20, help="to make, to see how long that takes [%(default)s]")
    try:
        report(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"report_padding.py: {error}", file=sys.stderr)
        return 2
    return 0


def report(arguments: argparse.Namespace) -> None:
    from audiostory.dataset import manifest, shards
    from audiostory.dataset.mixture import BatchLimits
    from audiostory.dataset.sources import Stories
    from audiostory.dataset.store import Store
    from audiostory.story import Vocabulary

    folder = arguments.tokenizer / "tokenizer"
    vocabulary = Vocabulary.from_folder(
        folder if folder.is_dir() else arguments.tokenizer,
        num_semantic=arguments.num_semantic,
        num_residual=arguments.num_residual,
    )
    if shards.is_set(arguments.rows_of):
        rows = store = shards.ShardSet(arguments.rows_of)
    else:
        rows, store = manifest.read(arguments.rows_of), Store(arguments.latents) if arguments.latents else None
    for alike in ("cost", "shape"):
        limits = BatchLimits(rows=arguments.rows, tokens=arguments.tokens, frames=arguments.frames, alike=alike)
        source = Stories(
            rows,
            vocabulary,
            store,
            limits,
            seed=0,
            latents=store is not None and store.has_codec,
            teacher=store is not None and store.has_teacher,
        )
        num_batches, tokens, frames = padding(source, arguments.pieces)
        print(f"alike={alike}: {num_batches} batches an epoch, padding {tokens:.1%} of tokens, {frames:.1%} of frames")
        began = time.perf_counter()
        for index in range(arguments.batches):
            source.batch(index % num_batches, 0, arguments.pieces)
        seconds = time.perf_counter() - began
        print(f"  {1000 * seconds / max(arguments.batches, 1):.1f} ms to make a batch, or the first piece of it")
    lengths = source.rows.lengths
    if lengths.frames.any():
        within = 1 - lengths.frames.sum() / (lengths.clips * lengths.longest()).sum()
        print(f"within rows: padding {within:.1%} of frames")


def padding(source: Stories, pieces: int) -> tuple[int, float, float]:
    """The batches of an epoch, and what of their tokens and of their frames is padding, each piece by itself."""
    import numpy as np

    lengths, plan = source.rows.lengths, source.plan
    ends, content, room = np.cumsum(lengths.clips), np.zeros(2), np.zeros(2)
    num_batches, num_rows = 0, 0
    while num_rows < len(plan.tokens):
        for piece in range(pieces):
            rows = plan.rows(num_batches, piece, pieces)
            held, room_held = _frames(lengths.frames, ends, lengths.clips, rows)
            content += plan.tokens[rows].sum(), held
            room += len(rows) * plan.tokens[rows].max(), room_held
            num_rows += len(rows)
        num_batches += 1
    tokens, frames = 1 - content / np.maximum(room, 1) if room[1] else np.array([1 - content[0] / room[0], 0.0])
    return num_batches, float(tokens), float(frames)


def _frames(frames: np.ndarray, ends: np.ndarray, clips: np.ndarray, rows: list[int]) -> tuple[int, int]:
    """Those of a batch's events, and with their padding."""
    held = [frames[ends[row] - clips[row] : ends[row]] for row in rows]
    longest = max((one.max() for one in held if len(one)), default=0)
    return sum(int(one.sum()) for one in held), sum(len(one) for one in held) * int(longest)


if __name__ == "__main__":
    sys.exit(main())
