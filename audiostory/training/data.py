"""What a run learns from: its manifests, shards and stores, opened, and checked against what its losses need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from audiostory.dataset import manifest
from audiostory.dataset.mixture import Source, seed_of
from audiostory.dataset.parts import encode
from audiostory.dataset.rows import DamagedSampleError, Lengths, Rows
from audiostory.dataset.sample import read_samples
from audiostory.dataset.shards import ShardSet
from audiostory.dataset.store import INDEX, Made, Store, Tensors, read_index
from audiostory.disk import sha256
from audiostory.model.bridge import Bridge
from audiostory.model.dit import VelocityDiT
from audiostory.model.listener import ListenerProjector
from audiostory.training import config
from audiostory.training.config import RunConfig

MOST_ERROR = 0.05  # mean, as a share of the mean size, between what is stored and what a network makes now
ROWS_LOOKED_AT = 100  # for something that a network can make once more
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
    run: RunConfig, name: str, val: bool, rows: manifest.Manifest | ShardSet, needs: Sequence[str]
) -> Store | ShardSet | None:
    """The source's latents, teacher states and features; None for one that has words alone.

    ValueError for a store that lacks what its source could give and the stage `needs`.
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
    return store


def check_networks(rows: Rows, made: Made, networks: Mapping[str, Any]) -> None:
    """ValueError when what was computed once is not what the run's own codec, text encoder or audio encoder make: each
    makes one piece again. Networks that were rounded to half precision pass.

    A piece is looked for in the first ROWS_LOOKED_AT rows; where recordings are no longer there, none is found.
    """
    waiting = [name for name in networks if made.index.get(name)]
    for number in range(min(ROWS_LOOKED_AT, len(rows.lengths.clips))):
        try:
            row, tensors = rows.read(number)
        except DamagedSampleError:  # named and counted when its batch is made
            continue
        assert tensors is not None, "rows with something made of them have it"
        for name in list(waiting):
            found = _MADE_AGAIN[name](networks[name], row, tensors, made)
            if found is None:
                continue
            waiting.remove(name)
            stored, again = found
            if stored.shape != again.shape or (again - stored).abs().mean() > MOST_ERROR * again.abs().mean():
                raise ValueError(
                    f"what the {name} made of {rows.path} is not what this run's {name} makes (seen on row {row.id}); "
                    f"run scripts/encode_latents.py again with that --{name}, or name in weights.{name} the one that "
                    "was used"
                )
        if not waiting:
            return


def _latents_again(codec: Any, row: manifest.Row, tensors: Tensors, made: Made) -> tuple[Tensor, Tensor] | None:
    samples = _read(row.clips[0].audio if row.clips else None, codec.sample_rate, codec.config["audio_channels"])
    if samples is None:
        return None
    num_frames = made.num_frames_of_all or codec.num_frames(samples.shape[1])
    return tensors.latents(row.clip_key(0)), encode(codec, [samples], num_frames)[0]


def _teacher_again(text_encoder: Any, row: manifest.Row, tensors: Tensors, made: Made) -> tuple[Tensor, Tensor] | None:
    if not row.storyline.events:
        return None
    caption = row.storyline.events[0].caption
    return tensors.teacher(caption), text_encoder.encode([caption], made.index["num_tokens"])[0].cpu()


def _features_again(encoder: Any, row: manifest.Row, tensors: Tensors, made: Made) -> tuple[Tensor, Tensor] | None:
    samples = _read(row.instruction.audio, encoder.sample_rate, 1)
    if samples is None or row.heard_key is None:
        return None
    return tensors.features(row.heard_key), encoder.features(samples[0], made.num_listening).cpu()


_MADE_AGAIN = {"codec": _latents_again, "text_encoder": _teacher_again, "audio_encoder": _features_again}


def _read(path: Path | None, sample_rate: int, audio_channels: int) -> np.ndarray | None:
    """None for a recording that is not there any more or cannot be read: what was made of it is learnt from."""
    if path is None or not path.is_file():
        return None
    try:
        return read_samples(path, sample_rate=sample_rate, audio_channels=audio_channels)
    except (OSError, ValueError):
        return None


def check_frames(name: str, made: Made, dit: VelocityDiT) -> None:
    """ValueError when latents have other lengths than the DiT tells at: it must learn what it is to do."""
    if made.has_codec and made.num_frames_of_all != dit.fixed_frames:
        stored, told = (
            "each of its clip's own length" if num_frames is None else f"all of {num_frames} frames"
            for num_frames in (made.num_frames_of_all, dit.fixed_frames)
        )
        option = f"with --num_frames {dit.fixed_frames}" if dit.fixed_frames else "without --num_frames"
        raise ValueError(
            f"the latents of {name} are {stored}, and this DiT makes them {told} (model.dit.fixed_frames); run "
            f"scripts/encode_latents.py again {option}"
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
