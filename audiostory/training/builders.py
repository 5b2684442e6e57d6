"""Brings a stage, a model's sizes and a data set together into something the loop can run.

One function for each kind of root module: `_codec`, `_text_to_audio`, `_hearing`, `_audiostory`. Where components come
from, `components` says.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiostory.dataset import manifest
from audiostory.dataset.mixture import Mixture, Source, seed_of
from audiostory.dataset.recordings import Recordings
from audiostory.dataset.rows import Lengths
from audiostory.dataset.sample import read_samples
from audiostory.dataset.shards import ShardSet
from audiostory.dataset.sources import Clips, Crops, Stories
from audiostory.dataset.store import INDEX, Store, read_index
from audiostory.model.audiostory import REASON_PARTS, AudioStory, TextToAudio
from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.hearing import Hearing
from audiostory.model.inputs import Losses
from audiostory.model.listener import ListenerProjector, log_mel
from audiostory.model.planner import LoraSettings
from audiostory.story import Layout
from audiostory.training import checkpoint, config, engine, listening, provenance
from audiostory.training.components import Components, checked
from audiostory.training.config import RunConfig
from audiostory.training.journal import Journal
from audiostory.training.loop import Hooks, Training
from audiostory.weights import ours

log = logging.getLogger(__name__)

MOST_LATENT_ERROR = 0.05  # mean, in standard deviations, between stored latents and the codec's own
NORMALISATION_BATCHES = 100  # crops from which the codec learns the mean and deviation of its latents
RUN_FILE = "run.json"
TARGETS = {  # what losses of stories compare with: by what a store tells that it has it, its name, the option for it
    "latents": ("has_codec", "latents", "--codec"),
    "teacher": ("has_teacher", "teacher states", "--text_encoder"),
    "clip_features": ("has_clip_encoder", "features of the clips", "--clip_encoder"),
}


@dataclass(frozen=True, kw_only=True)
class Root:
    """A root module with what is particular to its kind. `source` opens a data set, or with True its held-out part.

    `needs` are the TARGETS without which there is nothing to learn.
    """

    module: nn.Module
    losses: Callable[[nn.Module, Any], Losses]
    source: Callable[[str, bool], Source]
    listen: Callable[[Path], None]
    finish: Callable[[], None]
    export: Callable[[Path], None]
    needs: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training that knows its folder. `about` is kept with every checkpoint."""

    config: RunConfig
    composed: Mapping[str, Any]
    about: Mapping[str, Any]
    training: Training

    def start(self) -> bool:
        """Trains, or goes on; whether the stage came to its end."""
        output, stage, main = Path(self.config.output), self.config.stage, self.training.engine.main
        if main:
            aside = output / f".{RUN_FILE}.part"
            aside.write_text(json.dumps({**self.about, "config": self.composed}, indent=2) + "\n", encoding="utf-8")
            aside.replace(output / RUN_FILE)
        return self.training.run(
            output,
            journal=lambda step: Journal(
                output,
                step=step,
                steps=stage.steps,
                name=stage.name,
                logger=self.config.logger,
                settings=self.composed,
                silent=not main,
            ),
            about={**self.about, "config": self.composed},
        )


def build(run: RunConfig, composed: Mapping[str, Any]) -> Run:
    """`composed` is the same configuration as plain data, kept with the run. ValueError for whatever does not fit."""
    if run.runtime.threads:
        torch.set_num_threads(run.runtime.threads)
    processes = engine.start(run.runtime, clip_norm=run.stage.optimizer.clip_norm)
    components = Components(run)
    root = KINDS[run.stage.root].build(run, components)
    pieces = processes.micro_batches
    train = Mixture({name: root.source(name, False) for name in run.stage.mixture}, run.stage.mixture, pieces)
    _check_targets(run, root.needs, train.sources)
    held_out = {name: share for name, share in run.stage.mixture.items() if _source(run, name).val}
    val = Mixture({name: root.source(name, True) for name in held_out}, held_out, pieces) if held_out else None
    about = {"data": _data(run), "components": components.origins, **provenance.of_code()}
    fault = _prepare_output(run, composed, about) if processes.main else ""
    if fault := processes.gather(fault)[0]:
        raise ValueError(fault)
    if processes.main:
        log.info("%s learns; %s", run.stage.name, components.told())
    training = Training(
        root.module,
        run.stage,
        losses=root.losses,
        train=train,
        val=val,
        hooks=_hooks(run, root),
        runtime=run.runtime,
        engine=processes,
        seed=run.seed,
    )
    return Run(config=run, composed=composed, about=about, training=training)


def _hooks(run: RunConfig, root: Root) -> Hooks:
    def rebuild() -> tuple[nn.Module, Hooks]:
        again = KINDS[run.stage.root].build(run, Components(run))
        return again.module, _hooks(run, again)

    return Hooks(listen=root.listen, finish=root.finish, export=root.export, rebuild=rebuild)


def _prepare_output(run: RunConfig, composed: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Makes the output folder fit to be trained in; what speaks against it: an earlier run that was configured
    otherwise or learnt from other data."""
    output = Path(run.output)
    output.mkdir(parents=True, exist_ok=True)
    if not run.resume:
        checkpoint.clear(output)
    before = checkpoint.newest_state(output / "checkpoints")
    if run.accept_changes or before is None:
        return ""
    changed = [
        line
        for line in checkpoint.differences(
            {**_what_matters(before["config"]), "data": before["data"]},
            {**_what_matters(composed), "data": about["data"]},
        )
        if not line.startswith("stage.pace.")
    ]
    if not changed:
        return ""
    return (
        f"the run in {output} was made with other settings:\n  " + "\n  ".join(changed) + "\nGive this one another "
        "output=..., start anew there with resume=false, or go on with the new settings with accept_changes=true"
    )


def _what_matters(composed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run cannot change on its way: not the sizes of components that it does not have, and not
    where it runs."""
    model = {"script": asdict(Layout()), **composed["model"]}  # runs of old know no other
    sizes = {name: model.get(name) for name in KINDS[composed["stage"]["root"]].sizes}
    kept = {name: composed[name] for name in ("stage", "weights", "seed")}
    return {**kept, "model": sizes, "sources": composed["data"]["sources"]}


def _data(run: RunConfig) -> dict[str, Any]:
    """Fingerprints of what a run learns from: of each manifest, and of the networks that made what its losses need."""
    by_clips = bool(run.model.bridge.get("semantic_teacher_width"))
    uses = {"flow": "codec", "semantic": "clip_encoder" if by_clips else "text_encoder", "residual": "clip_encoder"}
    networks = [uses[loss] for loss in run.stage.losses if loss in uses] + ["audio_encoder"]
    found: dict[str, Any] = {}
    for name in run.stage.mixture:
        files = _source(run, name)
        for part, path, folder in (("train", files.train, files.train_latents), ("val", files.val, files.val_latents)):
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
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def _codec(run: RunConfig, components: Components) -> Root:
    codec = components.get("codec")

    def source(name: str, val: bool) -> Crops:
        return Crops(
            _manifest(run, name, val),
            run.stage.batch,
            sample_rate=codec.sample_rate,
            audio_channels=codec.config["audio_channels"],
            seed=_data_seed(run, name, val),
            damaged_share=run.data.damaged_share,
        )

    def normalise() -> None:
        crops = source(next(iter(run.stage.mixture)), False)
        device = codec.device
        with torch.no_grad():
            latents = [codec.encode(crops.batch(i).samples.to(device)) for i in range(NORMALISATION_BATCHES)]
        codec.fit_normalisation(torch.cat(latents))

    return Root(
        module=codec,
        losses=lambda root, batch: root(batch),
        source=source,
        listen=lambda folder: listening.reconstructions(codec, _heard_rows(run), folder),
        finish=normalise,
        export=lambda folder: export(folder, {"codec": codec}),
    )


def _text_to_audio(run: RunConfig, components: Components) -> Root:
    text_encoder, dit = components.get("text_encoder"), components.get("dit")
    root = TextToAudio(text_encoder, dit, **checked(TextToAudio, run.model.flow, "model.flow", given=2))
    codec = components.get("codec") if components.origin("codec") else None
    if run.runtime.gradient_checkpointing:
        dit.enable_gradient_checkpointing()

    def source(name: str, val: bool) -> Clips:
        rows = _rows(run, name, val)
        store = _store(run, name, val, rows, codec, ["latents"])
        if store is None or not store.has_codec:
            raise ValueError(
                f"stage {run.stage.name} needs latents of {rows.path}; make them with scripts/encode_latents.py "
                f"--codec and name their folder in data.sources.{name}"
            )
        return Clips(
            rows,
            partial(text_encoder.tokenize, num_tokens=run.model.num_semantic),
            store,
            run.stage.batch,
            seed=_data_seed(run, name, val),
            damaged_share=run.data.damaged_share,
        )

    return Root(
        module=root,
        losses=lambda root, batch: root(batch),
        source=source,
        listen=lambda folder: listening.captions(root, codec, run.model.num_semantic, _heard_rows(run), folder),
        finish=lambda: None,
        export=lambda folder: export(folder, {"text_encoder": text_encoder, "dit": dit}),
    )


def _hearing(run: RunConfig, components: Components) -> Root:
    audio_encoder, text_encoder = components.get("audio_encoder"), components.get("text_encoder")
    torch.manual_seed(seed_of(run.seed, "weights", "hearing"))
    root = Hearing(audio_encoder, text_encoder)

    def source(name: str, val: bool) -> Recordings:
        return Recordings(
            _manifest(run, name, val),
            partial(text_encoder.tokenize, num_tokens=run.model.num_semantic),
            partial(log_mel, num_mels=audio_encoder.num_mels),
            run.stage.batch,
            sample_rate=audio_encoder.sample_rate,
            window_seconds=audio_encoder.window_seconds,
            seed=_data_seed(run, name, val),
            damaged_share=run.data.damaged_share,
        )

    return Root(
        module=root,
        losses=lambda root, batch: root(batch),
        source=source,
        listen=lambda folder: None,
        finish=lambda: None,
        export=lambda folder: export(folder, {"audio_encoder": audio_encoder}),
    )


def _audiostory(run: RunConfig, components: Components) -> Root:
    wanted = {*run.stage.losses, *(REASON_PARTS if "reason" in run.stage.losses else ())}
    latents = "flow" in wanted
    used = {"planner": True, "bridge": not wanted.isdisjoint(("flow", "semantic", "residual")), "dit": latents}
    # What no loss of the stage reaches is handed on, or if no stage has taught it yet, is there in shape alone.
    used = {name: reached or components.handed_on(name) for name, reached in used.items()}
    planner, bridge, dit = (components.get(name) if used[name] else components.fresh(name) for name in used)
    needs = _needs(run, bridge)
    vocabulary = components.vocabulary
    planner.qwen.set_attn_implementation(run.runtime.attention)
    if used["bridge"] and components.origin("bridge") is None and components.origin("text_encoder") is not None:
        bridge.set_unconditional(components.get("text_encoder").unconditional(run.model.num_semantic))
    if run.stage.lora:
        torch.manual_seed(seed_of(run.seed, "weights", "lora"))
        planner.add_lora(config.build(LoraSettings, run.model.lora, "model.lora"))
    if run.runtime.gradient_checkpointing:
        planner.enable_gradient_checkpointing()
        dit.enable_gradient_checkpointing()
    listens = _learns(run, "listener_projector") or components.origin("listener_projector") is not None
    projector = components.get("listener_projector") if listens else None
    audio_encoder = components.get("audio_encoder") if listens else None
    root = AudioStory(planner, bridge, dit, projector, **checked(AudioStory, run.model.flow, "model.flow", given=4))
    codec = components.get("codec") if latents or components.handed_on("codec") else None
    trained_codec = codec if codec is not None and components.origin("codec") is not None else None
    layout = run.model.script
    settings = ours.Settings(**{**checked(ours.Settings, run.model.settings, "model.settings"), "script": layout})

    def source(name: str, val: bool) -> Stories:
        rows = _rows(run, name, val)
        store = _store(run, name, val, rows, trained_codec, needs) if needs or listens else None
        heard = "clip_features" in needs and store is not None and store.has_clip_encoder
        if heard and store is not None:
            _check_clip_features(name, store.clip_features_shape, bridge)
        made = Stories(
            rows,
            vocabulary,
            store,
            run.stage.batch,
            seed=_data_seed(run, name, val),
            latents=latents and store is not None and store.has_codec,
            teacher="teacher" in needs,
            clip_features=heard,
            layout=layout,
            damaged_share=run.data.damaged_share,
        )
        if made.rows.lengths.windows.any():
            _check_listening(run, name, made.rows.lengths, projector)
        return made

    def save(folder: Path) -> None:
        """What the stage taught, used or was handed: a model, once that is all."""
        parts = {"planner": planner, "bridge": bridge, "dit": dit}
        parts = {name: part for name, part in parts.items() if used[name]}
        more = {"codec": codec, "listener_projector": projector, "audio_encoder": audio_encoder}
        parts |= {name: part for name, part in more.items() if part is not None}
        with checkpoint.replacing(folder) as aside:
            _save_parts(aside, parts)
            ours.write_vocabulary(aside, vocabulary)
            if set(ours.TELLING) <= set(parts):
                ours.write_index(aside, parts, settings)

    return Root(
        module=root,
        losses=lambda root, batch: root(batch, wanted=wanted),
        source=source,
        listen=lambda folder: listening.stories(
            root, codec, audio_encoder, vocabulary, layout, _heard_rows(run), folder
        ),
        finish=lambda: None,
        export=save,
        needs=needs,
    )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a root is built, and which of the model's sizes it is built by."""

    build: Callable[[RunConfig, Components], Root]
    sizes: tuple[str, ...]


KINDS = {
    "codec": Kind(build=_codec, sizes=("codec",)),
    "text_to_audio": Kind(build=_text_to_audio, sizes=("num_semantic", "text_encoder", "dit", "flow")),
    "hearing": Kind(build=_hearing, sizes=("num_semantic", "audio_encoder")),
    "audiostory": Kind(
        build=_audiostory,
        sizes=(
            *("num_semantic", "num_residual", "planner", "lora", "bridge", "dit", "listener_projector", "flow"),
            "script",
        ),
    ),
}


def export(folder: Path, components: Mapping[str, nn.Module]) -> None:
    """One folder per component, written aside and put in place together."""
    with checkpoint.replacing(folder) as aside:
        _save_parts(aside, components)


def _save_parts(folder: Path, components: Mapping[str, Any]) -> None:
    for name, part in components.items():
        part.save_pretrained(folder / name)  # the planner's merges LoRA into what it writes


def _source(run: RunConfig, name: str) -> config.SourceFiles:
    if name not in run.data.sources:
        raise ValueError(
            f"stage {run.stage.name} learns from {name!r}, data {run.data.name} has {', '.join(run.data.sources)}"
        )
    return run.data.sources[name]


def _manifest(run: RunConfig, name: str, val: bool) -> manifest.Manifest:
    """For stages that need the recordings themselves, which shards do not hold."""
    path = _path(run, name, val)
    if Path(path).is_dir():
        raise ValueError(
            f"stage {run.stage.name} reads recordings, and data.sources.{name} names the folder {path}; name a manifest"
        )
    return manifest.read(path, damaged_share=run.data.damaged_share)


def _rows(run: RunConfig, name: str, val: bool) -> manifest.Manifest | ShardSet:
    """A manifest, or a folder of shards, which hold their tensors themselves."""
    path = _path(run, name, val)
    if Path(path).is_dir():
        return ShardSet(path, damaged_share=run.data.damaged_share)
    return _manifest(run, name, val)


def _path(run: RunConfig, name: str, val: bool) -> str:
    files = _source(run, name)
    return files.val if val and files.val else files.train


def _store(
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
    folder = _source(run, name).val_latents if val else _source(run, name).train_latents
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


def _needs(run: RunConfig, bridge: Bridge) -> list[str]:
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


def _check_clip_features(name: str, shape: tuple[int, int], bridge: Bridge) -> None:
    """ValueError when the clips were heard otherwise than the bridge's tokens are taught."""
    heads = [head for head in (bridge.semantic_head, bridge.residual_head) if head is not None]
    for wanted in [(bridge.num_semantic, head.out_features) for head in heads]:
        if wanted != shape:
            raise ValueError(
                f"the clips of {name} were heard as {shape[0]} means of width {shape[1]}, and the bridge is taught by "
                f"{wanted[0]} of width {wanted[1]}; run scripts/encode_latents.py again with --num_tokens {wanted[0]} "
                "and such a --clip_encoder, or set the teacher widths in model.bridge"
            )


def _check_listening(run: RunConfig, name: str, lengths: Lengths, projector: ListenerProjector | None) -> None:
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


def _learns(run: RunConfig, component: str) -> bool:
    return any(pattern.startswith(f"{component}.") for part in run.stage.parts.values() for pattern in part.learns)


def _check_targets(run: RunConfig, needs: Sequence[str], sources: Sequence[Source]) -> None:
    """ValueError when no source of the mixture has what a loss of the stage compares with."""
    for need in needs:
        if not any(getattr(source, need, False) for source in sources):
            _, called, option = TARGETS[need]
            raise ValueError(
                f"stage {run.stage.name} learns by {called}, and no store of {', '.join(run.stage.mixture)} has any; "
                f"make them with scripts/encode_latents.py {option} and name the folder in data.sources"
            )


def _heard_rows(run: RunConfig) -> list[manifest.Row]:
    """The first rows of each held-out source, one of each in turn: the same at every listening."""
    num = run.stage.pace.listen_items
    found = []
    for name in run.stage.mixture:
        rows = _rows(run, name, True)
        if isinstance(rows, ShardSet):
            found.append([rows.read(number)[0] for number in range(min(num, len(rows)))])
        else:
            found.append(list(rows.rows[:num]))
    return [row for turn in zip_longest(*found) for row in turn if row is not None][:num]


def _data_seed(run: RunConfig, name: str, val: bool) -> int:
    return seed_of(run.seed, "data", name, "val" if val else "train")
