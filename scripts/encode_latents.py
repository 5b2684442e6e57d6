"""Computes once what training would compute again and again: every event's latents and every caption's teacher states.

    corpus=corpora/clips-train
    python scripts/encode_latents.py $corpus/manifest.jsonl --codec runs/codec/export --output $corpus/latents
    ... and once there is a text encoder, into the same folder:  --text_encoder runs/tangoflux/export

Run it again after it was stopped, or after the manifest or a network changed: shards that still fit are kept, others
are made anew. A recording that cannot be read is named and left out; too many of them are an error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from tqdm import tqdm

    from audiostory.dataset.manifest import Damage, Manifest, Row
    from audiostory.model.codec import Codec
    from audiostory.model.text_encoder import TextEncoder

CLIPS_PER_SHARD = 512
CAPTIONS_PER_SHARD = 4096
CAPTIONS_PER_BATCH = 256
SECONDS_PER_BATCH = 60.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--codec", type=Path, help="make latents with codec/ of this exported folder")
    parser.add_argument(
        "--text_encoder", type=Path, help="make teacher states with text_encoder/ of this exported folder"
    )
    parser.add_argument("--num_tokens", type=int, default=16, help="semantic tokens per event [%(default)s]")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--damaged_share", type=float, default=0.01, help="recordings that may be left out [%(default)s]"
    )
    arguments = parser.parse_args(argv)
    if arguments.codec is None and arguments.text_encoder is None:
        parser.error("nothing to do: give --codec, --text_encoder, or both")
    try:
        encode(arguments)
    except (ValueError, OSError) as error:
        print(f"encode_latents.py: {error}", file=sys.stderr)
        return 2
    return 0


def encode(arguments: argparse.Namespace) -> None:
    """Makes what was asked for, then the index: a store whose index is missing or of another manifest is not read."""
    from audiostory.dataset import manifest, store
    from audiostory.weights import ours

    rows = manifest.read(arguments.manifest, damaged_share=arguments.damaged_share)
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    index = store.read_index(folder)
    made = {name for name in ("codec", "text_encoder") if getattr(arguments, name) is not None}
    if (
        stale := sorted({"codec", "text_encoder"} & set(index) - made)
        if index.get("manifest") != rows.fingerprint
        else []
    ):
        raise ValueError(
            f"{rows.path} has changed since {folder} was made, so its part of the {stale[0]} must be made anew too; "
            f"give --{stale[0]} as well"
        )
    if "codec" in made:
        codec_print = store.fingerprint(arguments.codec / "codec")
        codec = ours.read_component(arguments.codec, "codec").to(arguments.device)
        encode_latents(rows, codec, folder, codec_print, arguments.damaged_share)
        index |= {"codec": codec_print, "frame_rate": codec.frame_rate}
    if "text_encoder" in made:
        encoder_print = store.fingerprint(arguments.text_encoder / "text_encoder")
        encoder = ours.read_component(arguments.text_encoder, "text_encoder").to(arguments.device)
        encode_captions(rows, encoder, folder, encoder_print, arguments.num_tokens)
        index |= {"text_encoder": encoder_print, "num_tokens": arguments.num_tokens}
    store.write_index(folder, {**index, "manifest": rows.fingerprint})


def encode_latents(rows: Manifest, codec: Codec, folder: Path, codec_print: str, damaged_share: float) -> None:
    from audiostory.dataset import store
    from audiostory.dataset.manifest import Damage

    damage = Damage(rows.path, share=damaged_share)
    clips = [(row, event) for row in rows.rows for event in range(len(row.clips)) if row.clips[event].audio]
    shards = [clips[first : first + CLIPS_PER_SHARD] for first in range(0, len(clips), CLIPS_PER_SHARD)]
    with _bar(len(clips), "latents", "clip") as bar:
        for number, shard in enumerate(shards):
            path = folder / f"latents-{number:05d}.safetensors"
            metadata = {"of": _digest([codec_print, *(_what(row, event) for row, event in shard)])}
            if _fits(path, metadata):
                bar.update(len(shard))
                continue
            tensors = {f"latents:{key}": store.half(one) for key, one in _latents(shard, codec, damage, bar)}
            damage.check(len(clips))
            store.write_shard(path, tensors, metadata)
    _drop_old(folder, "latents", len(shards))


def _latents(clips: Sequence[tuple[Row, int]], codec: Codec, damage: Damage, bar: tqdm) -> Iterator[tuple[str, Tensor]]:
    """Clips with as many frames go through the codec together, so none is padded."""
    import numpy as np
    import torch

    from audiostory.dataset.sample import read_samples

    by_frames: dict[int, list[tuple[str, np.ndarray]]] = {}
    for row, event in clips:
        path, key = row.clips[event].audio, row.clip_key(event)
        assert path is not None
        try:
            samples = read_samples(path, sample_rate=codec.sample_rate, audio_channels=codec.config["audio_channels"])
            by_frames.setdefault(codec.num_frames(samples.shape[1]), []).append((key, samples))
        except (OSError, ValueError) as error:
            damage.note(key, error)
            bar.update()
    for num_frames, alike in sorted(by_frames.items()):
        size = max(1, int(SECONDS_PER_BATCH * codec.frame_rate / num_frames))
        for first in range(0, len(alike), size):
            batch = alike[first : first + size]
            room = num_frames * codec.hop
            padded = np.stack([np.pad(samples, ((0, 0), (0, room - samples.shape[1]))) for _, samples in batch])
            with torch.no_grad():
                latents = codec.encode(torch.from_numpy(padded).to(codec.device)).cpu()
            yield from zip((key for key, _ in batch), latents, strict=True)
            bar.update(len(batch))


def encode_captions(rows: Manifest, encoder: TextEncoder, folder: Path, encoder_print: str, num_tokens: int) -> None:
    """Each caption once, however many events it stands for."""
    from audiostory.dataset import store

    captions = sorted({event.caption for row in rows.rows for event in row.storyline.events})
    shards = [captions[first : first + CAPTIONS_PER_SHARD] for first in range(0, len(captions), CAPTIONS_PER_SHARD)]
    with _bar(len(captions), "teacher states", "caption") as bar:
        for number, shard in enumerate(shards):
            path = folder / f"teacher-{number:05d}.safetensors"
            metadata = {"of": _digest([encoder_print, str(num_tokens), *shard])}
            if not _fits(path, metadata):
                tensors: dict[str, Tensor] = {}
                for first in range(0, len(shard), CAPTIONS_PER_BATCH):
                    batch = shard[first : first + CAPTIONS_PER_BATCH]
                    states = encoder.encode(batch, num_tokens).cpu()
                    names = (f"teacher:{store.caption_key(caption)}" for caption in batch)
                    tensors |= {name: store.half(one) for name, one in zip(names, states, strict=True)}
                store.write_shard(path, tensors, metadata)
            bar.update(len(shard))
    _drop_old(folder, "teacher", len(shards))


def _fits(path: Path, metadata: dict[str, str]) -> bool:
    """Whether a shard is there and was made of the same things."""
    from safetensors import SafetensorError

    from audiostory.dataset import store

    try:
        return path.is_file() and store.shard_metadata(path) == metadata
    except SafetensorError:
        return False


def _drop_old(folder: Path, kind: str, num_shards: int) -> None:
    """Shards of an earlier, longer manifest."""
    for path in folder.glob(f"{kind}-*.safetensors"):
        if int(path.stem.rpartition("-")[2]) >= num_shards:
            path.unlink()


def _what(row: Row, event: int) -> str:
    """What a clip's latents depend on, apart from the codec. A recording that was replaced has another size or time."""
    clip = row.clips[event]
    assert clip.audio is not None
    try:
        status = clip.audio.stat()
    except OSError:
        return json.dumps([row.clip_key(event), str(clip.audio), "absent"])
    return json.dumps([row.clip_key(event), str(clip.audio), status.st_size, status.st_mtime_ns])


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _bar(total: int, what: str, unit: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True)


if __name__ == "__main__":
    sys.exit(main())
