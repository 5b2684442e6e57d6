"""Computes once what training would compute again and again: every event's latents, every caption's teacher states, and
what is heard in the recordings that instructions hold.

    corpus=corpora/clips-train
    python scripts/encode_latents.py $corpus/manifest.jsonl --codec runs/codec/export --output $corpus/latents
    ... and once there is a text encoder, into the same folder:  --text_encoder runs/tangoflux/export
    ... and for recordings that are listened to:                 --audio_encoder FOLDER --num_listening 20
    ... and for the ablations in which clips teach the tokens:   --clip_encoder FOLDER --num_tokens 16

A corpus too large to lie in so many pieces is better written as tar files of whole rows (docs/DATA.md):

    ... --format shards --tokenizer runs/tokenizers --output $corpus/shards

On several GPUs, or on several machines that share the folder, each process makes every N-th shard:

    torchrun --nproc_per_node=8 scripts/encode_latents.py ... --device cuda

Run it again after it was stopped, or after the manifest or a network changed: what is whole and still fits is kept, the
rest is made anew. A recording that cannot be read is named and left out; too many of them are an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiostory.processes import Place

if TYPE_CHECKING:
    from audiostory.dataset.encoding import Job, Wanted, Work


def main(argv: list[str] | None = None) -> int:
    wanted, device = parse(build_parser(__doc__), argv)
    place = Place.of_environment()
    try:
        from audiostory.dataset.encoding import open_work

        work = open_work(wanted, reader(place.device(device)))
        run(work, work.jobs[place.rank :: place.processes], str(place))
        if missing := work.finish():
            print(f"{wanted.output}{place}: {missing} shards are not there yet; the last process ends the work")
    except (ValueError, OSError) as error:
        print(f"encode_latents.py: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--codec", type=Path, help="make latents with codec/ of this folder, or with the folder's own")
    parser.add_argument("--text_encoder", type=Path, help="make teacher states with text_encoder/ of it, or its own")
    parser.add_argument("--audio_encoder", type=Path, help="make features of what is heard, likewise")
    parser.add_argument("--clip_encoder", type=Path, help="make features of each clip, likewise")
    parser.add_argument("--num_tokens", type=int, default=16, help="semantic tokens per event [%(default)s]")
    parser.add_argument(
        "--num_listening", type=int, default=20, help="tokens at which a window of a recording is heard [%(default)s]"
    )
    parser.add_argument(
        "--num_frames", type=int, help="fill each clip with silence to so many latent frames (TangoFlux's DiT: 645)"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--format", choices=("store", "shards"), default="store", help="a store beside the manifest, or tar files"
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="folder of the planner's tokenizer, to count the texts' tokens in shards"
    )
    parser.add_argument("--rows_per_shard", type=int, default=512, help="of tar files [%(default)s]")
    parser.add_argument("--device", default="cpu", help="of torch; under torchrun, cuda is each process's own GPU")
    parser.add_argument(
        "--damaged_share", type=float, default=0.01, help="recordings that may be left out [%(default)s]"
    )
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str] | None, without: Sequence[str] = ()) -> tuple[Wanted, str]:
    """What is wanted, and on which device. Options `without` are another command's own."""
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if name not in without}
    from audiostory.dataset.encoding import NETWORKS, Wanted

    networks = {name: given.pop(name) for name in NETWORKS}
    networks = {name: folder for name, folder in networks.items() if folder is not None}
    if not networks and given["tokenizer"] is None:
        parser.error(f"nothing to do: give {', '.join('--' + name for name in NETWORKS)}, or several of them")
    if given["tokenizer"] is not None and given["format"] == "store":
        parser.error("--tokenizer counts texts for --format shards; a store has none")
    if given["num_frames"] is not None and given["num_frames"] < 1:
        parser.error(f"a clip has at least one frame, not {given['num_frames']}")
    if given["rows_per_shard"] < 1:
        parser.error(f"a shard needs at least one row, not {given['rows_per_shard']}")
    device = given.pop("device")
    return Wanted(networks=networks, **given), device


def reader(device: str) -> Any:
    """Reads networks of any folder that stages start from, onto the device."""

    def read(folder: Path, name: str) -> Any:
        from audiostory.weights.origins import Origin

        return Origin(folder).read(name).to(device)

    return read


def run(work: Work, jobs: Sequence[Job], whose: str) -> None:
    for (kind, unit), alike in groupby(jobs, key=lambda job: (job.kind, job.unit)):
        mine = list(alike)
        with _bar(sum(len(job.items) for job in mine), f"{kind}{whose}", unit) as bar:
            for job in mine:
                work.make(job, bar.update)


def _bar(total: int, what: str, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True)


if __name__ == "__main__":
    sys.exit(main())
