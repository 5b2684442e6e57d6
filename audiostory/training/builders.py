"""Brings a stage, a model's sizes and a data set together into something the loop can run.

One function for each kind of root module: `_codec`, `_text_to_audio`, `_hearing`, `_audiostory`. Where components come
from, `components` says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from audiostory import composing
from audiostory.dataset.mixture import Mixture, Source, seed_of
from audiostory.dataset.recordings import Recordings
from audiostory.dataset.sources import Clips, Crops, Stories
from audiostory.disk import write_text
from audiostory.model.audiostory import REASON_PARTS, AudioStory, TextToAudio
from audiostory.model.dit import VelocityDiT
from audiostory.model.hearing import Hearing
from audiostory.model.inputs import Losses
from audiostory.model.listener import log_mel
from audiostory.model.planner import LoraSettings
from audiostory.story import Layout
from audiostory.training import checkpoint, data, engine, listening, provenance
from audiostory.training.components import Components, checked
from audiostory.training.config import RunConfig
from audiostory.training.journal import Journal
from audiostory.training.loop import Hooks, Training
from audiostory.weights import ours

log = logging.getLogger(__name__)

NORMALISATION_BATCHES = 100  # crops from which the codec learns the mean and deviation of its latents
RUN_FILE = "run.json"


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
            write_text(output / RUN_FILE, json.dumps({**self.about, "config": self.composed}, indent=2) + "\n")
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
    if run.runtime.attention == "eager":
        _spell_out_attention(root.module)
    pieces = processes.micro_batches
    train = Mixture({name: root.source(name, False) for name in run.stage.mixture}, run.stage.mixture, pieces)
    data.check_targets(run, root.needs, train.sources)
    held_out = {name: share for name, share in run.stage.mixture.items() if data.source_files(run, name).val}
    val = Mixture({name: root.source(name, True) for name in held_out}, held_out, pieces) if held_out else None
    about = {"data": data.fingerprints(run), "components": components.origins, **provenance.of_code()}
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


def _spell_out_attention(root: nn.Module) -> None:
    for module in root.modules():
        if isinstance(module, PreTrainedModel):
            module.set_attn_implementation("eager")
        elif isinstance(module, VelocityDiT):
            module.use_plain_attention()


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
    changed = changes(before, {**about, "config": composed})
    if not changed:
        return ""
    return (
        f"the run in {output} was made with other settings:\n  " + "\n  ".join(changed) + "\nGive this one another "
        "output=..., start anew there with resume=false, or go on with the new settings with accept_changes=true"
    )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two runs differ that makes them two, by their `config` and `data` as RUN_FILE has them: lines such as
    "stage.steps: 500 -> 800"."""
    one, other = ({**_what_matters(told["config"]), "data": told["data"]} for told in (before, now))
    return [line for line in checkpoint.differences(one, other) if not line.startswith("stage.pace.")]


def _what_matters(composed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run cannot change on its way: not the sizes of components that it does not have, and not
    where it runs."""
    model = {"script": asdict(Layout()), **composed["model"]}  # runs of old know no other
    sizes = {name: model.get(name) for name in KINDS[composed["stage"]["root"]].sizes}
    kept = {name: composed[name] for name in ("stage", "weights", "seed")}
    return {**kept, "model": sizes, "sources": composed["data"]["sources"]}


def _codec(run: RunConfig, components: Components) -> Root:
    examples = cache(partial(data.examples, run))
    codec = components.get("codec")

    def source(name: str, val: bool) -> Crops:
        return Crops(
            data.read_manifest(run, name, val),
            run.stage.batch,
            sample_rate=codec.sample_rate,
            audio_channels=codec.config["audio_channels"],
            seed=data.seed(run, name, val),
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
        listen=lambda folder: listening.reconstructions(codec, examples(), folder),
        finish=normalise,
        export=lambda folder: export(folder, {"codec": codec}),
    )


def _text_to_audio(run: RunConfig, components: Components) -> Root:
    examples = cache(partial(data.examples, run))
    text_encoder, dit = components.get("text_encoder"), components.get("dit")
    root = TextToAudio(text_encoder, dit, **checked(TextToAudio, run.model.flow, "model.flow", given=2))
    codec = components.get("codec") if components.origin("codec") else None
    if run.runtime.gradient_checkpointing:
        dit.enable_gradient_checkpointing()

    def source(name: str, val: bool) -> Clips:
        rows = data.read_rows(run, name, val)
        store = data.open_store(run, name, val, rows, ["latents"])
        if store is None or not store.has_codec:
            raise ValueError(
                f"stage {run.stage.name} needs latents of {rows.path}; make them with scripts/encode_latents.py "
                f"--codec and name their folder in data.sources.{name}"
            )
        data.check_frames(name, store, dit)
        made = Clips(
            rows,
            partial(text_encoder.tokenize, num_tokens=run.model.num_semantic),
            store,
            run.stage.batch,
            seed=data.seed(run, name, val),
            damaged_share=run.data.damaged_share,
        )
        data.check_networks(made.rows, store, {"codec": codec} if codec is not None else {})
        return made

    return Root(
        module=root,
        losses=lambda root, batch: root(batch),
        source=source,
        listen=lambda folder: listening.captions(root, codec, run.model.num_semantic, examples(), folder),
        finish=lambda: None,
        export=lambda folder: export(folder, {"text_encoder": text_encoder, "dit": dit}),
    )


def _hearing(run: RunConfig, components: Components) -> Root:
    audio_encoder, text_encoder = components.get("audio_encoder"), components.get("text_encoder")
    torch.manual_seed(seed_of(run.seed, "weights", "hearing"))
    root = Hearing(audio_encoder, text_encoder)

    def source(name: str, val: bool) -> Recordings:
        return Recordings(
            data.read_manifest(run, name, val),
            partial(text_encoder.tokenize, num_tokens=run.model.num_semantic),
            partial(log_mel, num_mels=audio_encoder.num_mels),
            run.stage.batch,
            sample_rate=audio_encoder.sample_rate,
            window_seconds=audio_encoder.window_seconds,
            seed=data.seed(run, name, val),
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
    examples = cache(partial(data.examples, run))
    wanted = {*run.stage.losses, *(REASON_PARTS if "reason" in run.stage.losses else ())}
    latents = "flow" in wanted
    used = {"planner": True, "bridge": not wanted.isdisjoint(("flow", "semantic", "residual")), "dit": latents}
    # What no loss of the stage reaches is handed on, or if no stage has taught it yet, is there in shape alone.
    used = {name: reached or components.handed_on(name) for name, reached in used.items()}
    planner, bridge, dit = (components.get(name) if used[name] else components.fresh(name) for name in used)
    needs = data.needs(run, bridge)
    vocabulary = components.vocabulary
    begins = used["bridge"] and components.origin("bridge") is None
    # Later stages only compare what it made of captions with what is stored, and do without where it is gone.
    asked = begins or ("teacher" in needs and components.is_there("text_encoder"))
    text_encoder = components.get("text_encoder") if asked and components.origin("text_encoder") is not None else None
    if begins and text_encoder is not None:
        bridge.set_unconditional(text_encoder.unconditional(run.model.num_semantic))
    if run.stage.lora:
        torch.manual_seed(seed_of(run.seed, "weights", "lora"))
        planner.add_lora(composing.build(LoraSettings, run.model.lora, "model.lora"))
    if run.runtime.gradient_checkpointing:
        planner.enable_gradient_checkpointing()
        dit.enable_gradient_checkpointing()
    listens = _learns(run, "listener_projector") or components.origin("listener_projector") is not None
    projector = components.get("listener_projector") if listens else None
    audio_encoder = components.get("audio_encoder") if listens else None
    root = AudioStory(planner, bridge, dit, projector, **checked(AudioStory, run.model.flow, "model.flow", given=4))
    codec = components.get("codec") if latents or components.handed_on("codec") else None
    candidates = {"codec": codec, "text_encoder": text_encoder, "audio_encoder": audio_encoder}
    networks = {
        called: one for called, one in candidates.items() if one is not None and components.origin(called) is not None
    }
    layout = run.model.script
    settings = ours.Settings(**{**checked(ours.Settings, run.model.settings, "model.settings"), "script": layout})

    def source(name: str, val: bool) -> Stories:
        rows = data.read_rows(run, name, val)
        store = data.open_store(run, name, val, rows, needs) if needs or listens else None
        if latents and store is not None:
            data.check_frames(name, store, dit)
        heard = "clip_features" in needs and store is not None and store.has_clip_encoder
        if heard and store is not None:
            data.check_clip_features(name, store.clip_features_shape, bridge)
        made = Stories(
            rows,
            vocabulary,
            store,
            run.stage.batch,
            seed=data.seed(run, name, val),
            latents=latents and store is not None and store.has_codec,
            teacher="teacher" in needs,
            clip_features=heard,
            layout=layout,
            damaged_share=run.data.damaged_share,
        )
        if made.rows.lengths.windows.any():
            data.check_listening(run, name, made.rows.lengths, projector)
        if store is not None:
            data.check_networks(made.rows, store, networks)
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
        listen=lambda folder: listening.stories(root, codec, audio_encoder, vocabulary, layout, examples(), folder),
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


def _learns(run: RunConfig, component: str) -> bool:
    return any(pattern.startswith(f"{component}.") for part in run.stage.parts.values() for pattern in part.learns)
