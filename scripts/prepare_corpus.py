"""Encodes a corpus on a Ray cluster: the shards of scripts/encode_latents.py, made by its functions.

    pip install "audiostory[scale]"
    python scripts/prepare_corpus.py corpora/large/manifest.jsonl --output corpora/large/shards --format shards \\
        --codec runs/codec/export --text_encoder runs/tangoflux/export --tokenizer runs/tokenizers \\
        --ray_address auto --workers 16 --gpus_per_worker 1 --device cuda

It takes every option of encode_latents.py. Manifest, recordings, networks and output must lie under the same paths on
all machines. Run it again after it was stopped, or after machines were lost: it goes on. Without --ray_address it
starts a cluster of this machine alone.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from audiostory.dataset.encoding import Wanted


def main(argv: list[str] | None = None) -> int:
    from encode_latents import build_parser, parse

    parser = build_parser(__doc__)
    parser.add_argument("--ray_address", help="of a running cluster, or auto; without it, one is started here")
    parser.add_argument("--workers", type=int, default=1, help="that encode at a time [%(default)s]")
    parser.add_argument("--cpus_per_worker", type=float, default=1.0, help="[%(default)s]")
    parser.add_argument("--gpus_per_worker", type=float, default=0.0, help="[%(default)s]")
    scale = parser.parse_args(argv)
    own = ("ray_address", "workers", "cpus_per_worker", "gpus_per_worker")
    wanted, device = parse(parser, argv, without=own)
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f'prepare_corpus.py: {error}; install it with pip install "audiostory[scale]"', file=sys.stderr)
        return 2
    ray.init(address=scale.ray_address)
    try:
        encode(wanted, device, scale.workers, {"num_cpus": scale.cpus_per_worker, "num_gpus": scale.gpus_per_worker})
    except (ValueError, OSError) as error:
        print(f"prepare_corpus.py: {error}", file=sys.stderr)
        return 2
    finally:
        ray.shutdown()
    return 0


def encode(wanted: Wanted, device: str, workers: int, room: dict[str, float]) -> None:
    """Each worker opens the networks once and takes one shard after the other; the index is written here."""
    import ray.data  # pyright: ignore[reportMissingImports]
    from encode_latents import reader
    from tqdm import tqdm

    from audiostory.dataset.encoding import open_work

    work = open_work(wanted, reader("cpu"))
    # Items, not a range: reading one would ask for a CPU of its own, and wait for ever where workers have them all.
    numbers = [{"number": number} for number in range(len(work.jobs))]
    jobs = ray.data.from_items(numbers, override_num_blocks=max(1, len(numbers)))
    pool = ray.data.ActorPoolStrategy(size=workers)
    made = jobs.map_batches(Encoder, fn_constructor_args=(wanted, device), batch_size=1, compute=pool, **room)
    with tqdm(total=len(work.jobs), desc="encoded", unit="shard", dynamic_ncols=True) as bar:
        for batch in made.iter_batches(batch_size=1, batch_format="numpy"):
            for fault in filter(None, batch["fault"].tolist()):
                raise ValueError(fault)
            bar.update(len(batch["fault"]))
    if missing := work.finish():
        raise ValueError(f"{missing} shards are lacking in {wanted.output}; run it again")


class Encoder:
    """A worker's networks."""

    def __init__(self, wanted: Wanted, device: str):
        from encode_latents import reader

        from audiostory.dataset.encoding import open_work

        self.work = open_work(wanted, reader(device))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """What was wrong with each shard, "" where nothing was: Ray would bury an error among its own."""
        return {"fault": [self._fault(number) for number in batch["number"].tolist()]}

    def _fault(self, number: int) -> str:
        try:
            self.work.make(self.work.jobs[number], lambda _: None)
        except (ValueError, OSError) as error:
            return str(error)
        return ""


if __name__ == "__main__":
    sys.exit(main())
