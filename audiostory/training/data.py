"""What a run learns from: its manifests, shards and stores, opened, and checked against what its losses need."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from audiostory.dataset import manifest
from audiostory.dataset.mixture import Source, seed_of
from audiostory.dataset.rows import Lengths
from audiostory.dataset.sample import read_samples
from audiostory.dataset.shards import ShardSet
from audiostory.dataset.store import INDEX, Store, read_index
from audiostory.disk import sha256
from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.listener import ListenerProjector
from audiostory.training import config
from audiostory.training.config import RunConfig

MOST_LATENT_ERROR = 0.05  # mean, in standard deviations, between stored latents and the codec's own
TARGETS = {  # what losses of stories compare with: by what a store tells that it has it, its name, the option for it
    "latents": ("has_codec", "latents", "--codec"),
    "teacher": ("has_teacher", "teacher states", "--text_encoder"),
    "clip_features": ("has_clip_encoder", "features of the clips", "--clip_encoder"),
}


def fingerprints(run: RunConfig) -> dict[str, Any]:
    """Fingerprints of what a run learns from: of each manifest, and of the networks that made what its losses need."""
    by_clips = bool(run.model.bridge.get("semantic_teacher_width"))
    uses = {"flow": "codec", "semantic": "clip_encoder" if by_clips else "text_encoder", "residual": "clip_encoder"}
    networks = [uses[loss] for loss in run.stage.losses if loss in uses] + ["audio_encoder"]
    found: dict[str, Any] = {}
    for name in run.stage.mixture:
        of = source_files(run, name)
        for part, path, folder in (("train", of.train, of.train_latents), ("val", of.val, of.val_latents)):
            if path is None:
                continue
            encoded = path if Path(path).is_dir() else folder
            index = read_index(Path(encoded)) if encoded else {}
            made = {network: index[network] for network in networks if network in index and run.stage.root != "codec"}
            found[f"{name}/{part}"] = {"manifest": _fingerprint(Path(path)), **made}
    return found


def _fingerprint(path: Path) -> str | None:
    """Of a manifest, or of a set of shards by its index."""
    path = path / INDEX if path.is_dir() else path
    return sha256(path)[:16] if path.is_file() else None


def source_files(run: RunConfig, name: str) -> config.SourceFiles:
    if name not in run.data.sources:
        raise ValueError(
            f"stage {run.stage.name} learns from {name!r}, data {run.data.name} has {', '.join(run.data.sources)}"
        )
    return run.data.sources[name]


def read_manifest(run: RunConfig, name: str, val: bool) -> manifest.Manifest:
    """For stages that need the recordings themselves, which shards do not hold."""
    path = _path(run, name, val)
    if Path(path).is_dir():
        raise ValueError(
            f"stage {run.stage.name} reads recordings, and data.sources.{name} names the folder {path}; name a manifest"
        )
    return manifest.read(path, damaged_share=run.data.damaged_share)


def read_rows(run: RunConfig, name: str, val: bool) -> manifest.Manifest | ShardSet:
    """A manifest, or a folder of shards, which hold their tensors themselves."""
    path = _path(run, name, val)
    if Path(path).is_dir():
        return ShardSet(path, damaged_share=run.data.damaged_share)
    return read_manifest(run, name, val)


def _path(run: RunConfig, name: str, val: bool) -> str:
    files = source_files(run, name)
    return files.val if val and files.val else files.train


def open_store(
    run: RunConfig,
    name: str,
    val: bool,
    rows: manifest.Manifest | ShardSet,
    codec: Codec | None,
    needs: Sequence[str],
) -> Store | ShardSet | None:
    """The source's latents, teacher states and features; None for one that has words alone.

    ValueError for a store that lacks what its source could give and the stage `needs`, or whose latents are another
    codec's.
    """
    files = source_files(run, name)
    folder = files.val_latents if val else files.train_latents
    if isinstance(rows, ShardSet):
        store: Store | ShardSet = rows
        recorded, told = bool(rows.lengths.frames.any()), bool(rows.lengths.clips.any())
    elif folder is None:
        return None
    else:
        store = Store(folder, manifest_fingerprint=rows.fingerprint)
        recorded = any(clip.audio is not None for row in rows.rows for clip in row.clips)
        told = any(row.clips for row in rows.rows)
    for need in needs:
        made, called, option = TARGETS[need]
        if (told if need == "teacher" else recorded) and not getattr(store, made):
            raise ValueError(f"{folder} holds no {called}; run scripts/encode_latents.py again with {option}")
    if codec is not None and recorded and isinstance(store, Store) and isinstance(rows, manifest.Manifest):
        _check_codec(codec, rows, store)
    return store


def _check_codec(codec: Codec, rows: manifest.Manifest, store: Store) -> None:
    """ValueError when stored latents are not those of the codec that the model will be exported with: encodes one
    recording again. Codecs that were rounded to half precision pass."""
    recorded = ((row.clip_key(0), row.clips[0].audio) for row in rows.rows if row.clips)
    found = next(((key, path) for key, path in recorded if path and path.is_file() and store.has_latents(key)), None)
    if found is None:
        return
    key, path = found
    samples = read_samples(path, sample_rate=codec.sample_rate, audio_channels=codec.config["audio_channels"])
    with torch.no_grad():
        encoded = codec.encode(torch.from_numpy(samples)[None])[0]
    stored = store.latents(key)
    if encoded.shape != stored.shape or (encoded - stored).abs().mean() > MOST_LATENT_ERROR:
        raise ValueError(
            f"the latents in {store.folder} are not those of this stage's codec (seen on {key}); run "
            "scripts/encode_latents.py again with that --codec, or name in weights.codec the one they were made with"
        )


def needs(run: RunConfig, bridge: Bridge) -> list[str]:
    """The TARGETS of the stage's losses. ValueError for a residual loss with a bridge that nothing teaches so."""
    losses, by_clips = run.stage.losses, bridge.semantic_head is not None
    if "residual" in losses and bridge.residual_head is None:
        raise ValueError(
            f"stage {run.stage.name} learns by residual, but nothing teaches the bridge's residual tokens; set "
            "model.bridge.residual_teacher_width, as ablation=residual_supervised does"
        )
    needs = {
        "latents": "flow" in losses,
        "teacher": "semantic" in losses and not by_clips,
        "clip_features": "residual" in losses or ("semantic" in losses and by_clips),
    }
    return [name for name, needed in needs.items() if needed]


def check_clip_features(name: str, shape: tuple[int, int], bridge: Bridge) -> None:
    """ValueError when the clips were heard otherwise than the bridge's tokens are taught."""
    heads = [head for head in (bridge.semantic_head, bridge.residual_head) if head is not None]
    for wanted in [(bridge.num_semantic, head.out_features) for head in heads]:
        if wanted != shape:
            raise ValueError(
                f"the clips of {name} were heard as {shape[0]} means of width {shape[1]}, and the bridge is taught by "
                f"{wanted[0]} of width {wanted[1]}; run scripts/encode_latents.py again with --num_tokens {wanted[0]} "
                "and such a --clip_encoder, or set the teacher widths in model.bridge"
            )


def check_listening(run: RunConfig, name: str, lengths: Lengths, projector: ListenerProjector | None) -> None:
    """ValueError when rows hold recordings that the model cannot hear."""
    if projector is None:
        raise ValueError(
            f"the rows of {name} hold recordings, and stage {run.stage.name} has no listener; give it a part that "
            "learns listener_projector.*, or leave that source out of the mixture"
        )
    if lengths.num_listening != projector.num_tokens:
        raise ValueError(
            f"{name} was listened to at {lengths.num_listening} tokens a window, the listener has "
            f"{projector.num_tokens}; run scripts/encode_latents.py again with --num_listening {projector.num_tokens}"
        )


def check_targets(run: RunConfig, needs: Sequence[str], sources: Sequence[Source]) -> None:
    """ValueError when no source of the mixture has what a loss of the stage compares with."""
    for need in needs:
        if not any(getattr(source, need, False) for source in sources):
            _, called, option = TARGETS[need]
            raise ValueError(
                f"stage {run.stage.name} learns by {called}, and no store of {', '.join(run.stage.mixture)} has any; "
                f"make them with scripts/encode_latents.py {option} and name the folder in data.sources"
            )


def examples(run: RunConfig) -> list[manifest.Row]:
    """The first rows of each held-out source, one of each in turn: the same at every listening."""
    num = run.stage.pace.listen_items
    found = []
    for name in run.stage.mixture:
        rows = read_rows(run, name, True)
        if isinstance(rows, ShardSet):
            found.append([rows.read(number)[0] for number in range(min(num, len(rows)))])
        else:
            found.append(list(rows.rows[:num]))
    return [row for turn in zip_longest(*found) for row in turn if row is not None][:num]


def seed(run: RunConfig, name: str, val: bool) -> int:
    return seed_of(run.seed, "data", name, "val" if val else "train")
