"""Brings a stage, a model's sizes and a data set together into something the loop can run.

Three kinds of root module exist, one function for each: `_codec`, `_text_to_audio`, `_audiostory`. A component comes
from where `start_from` says, or from fresh weights; a table says which class it is, so nothing that a file names is
ever imported.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from audiostory.dataset import manifest
from audiostory.dataset.mixture import Mixture, Source, seed_of
from audiostory.dataset.sources import Clips, Crops, Stories
from audiostory.dataset.store import Store
from audiostory.model.audiostory import REASON_PARTS, AudioStory, TextToAudio
from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT
from audiostory.model.planner import LoraSettings, Planner, PlannerConfig
from audiostory.model.text_encoder import TextEncoder
from audiostory.story import Vocabulary
from audiostory.training import checkpoint, config, listening
from audiostory.training.config import RunConfig
from audiostory.training.journal import Journal
from audiostory.training.loop import Hooks, Training
from audiostory.weights import ours

log = logging.getLogger(__name__)

T = TypeVar("T")

NORMALISATION_BATCHES = 100  # crops from which the codec learns the mean and deviation of its latents
RUN_FILE = "run.json"


@dataclass(frozen=True, kw_only=True)
class Root:
    """A root module with what is particular to its kind. `source` opens a data set, or with True its held-out part."""

    module: nn.Module
    losses: Callable[[Any], Any]
    source: Callable[[str, bool], Source]
    hooks: Hooks


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training that knows its folder."""

    config: RunConfig
    composed: Mapping[str, Any]
    training: Training

    def start(self) -> bool:
        """Trains, or goes on; whether the stage came to its end."""
        output = Path(self.config.output)
        (output / RUN_FILE).write_text(json.dumps(self.composed, indent=2) + "\n")
        logger, name = self.config.logger, self.config.stage.name
        steps = self.config.stage.steps
        return self.training.run(
            output,
            journal=lambda step: Journal(
                output, step=step, steps=steps, name=name, logger=logger, settings=self.composed
            ),
        )


def build(run: RunConfig, composed: Mapping[str, Any]) -> Run:
    """`composed` is the same configuration as plain data, kept with the run. ValueError for whatever does not fit."""
    prepare_output(run, composed)
    if run.runtime.threads:
        torch.set_num_threads(run.runtime.threads)
    root = KINDS[run.stage.root].build(run)
    train = Mixture({name: root.source(name, False) for name in run.stage.mixture}, run.stage.mixture)
    _check_targets(run, train.sources)
    held_out = {name: share for name, share in run.stage.mixture.items() if _source(run, name).val}
    val = Mixture({name: root.source(name, True) for name in held_out}, held_out) if held_out else None
    training = Training(
        root.module,
        run.stage,
        losses=root.losses,
        train=train,
        val=val,
        hooks=root.hooks,
        runtime=run.runtime,
        seed=run.seed,
    )
    return Run(config=run, composed=composed, training=training)


def prepare_output(run: RunConfig, composed: Mapping[str, Any]) -> None:
    """The output folder, fit to be trained in. ValueError when an earlier run there was configured otherwise."""
    output = Path(run.output)
    output.mkdir(parents=True, exist_ok=True)
    if not run.resume:
        checkpoint.clear(output)
    if run.accept_changes or not checkpoint.complete(output / "checkpoints"):
        return
    earlier = json.loads((output / RUN_FILE).read_text())
    changed = [
        line
        for line in checkpoint.differences(_what_matters(earlier), _what_matters(composed))
        if not line.startswith("stage.pace.")
    ]
    if changed:
        raise ValueError(
            f"the run in {output} was made with other settings:\n  " + "\n  ".join(changed) + "\nGive this one another "
            "output=..., start anew there with resume=false, or go on with the new settings with accept_changes=true"
        )


def _what_matters(composed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run cannot change on its way: not the sizes of components that it does not have."""
    sizes = {name: composed["model"].get(name) for name in KINDS[composed["stage"]["root"]].sizes}
    return {"stage": composed["stage"], "model": sizes, "data": composed["data"], "seed": composed["seed"]}


def _codec(run: RunConfig) -> Root:
    codec = component(run, "codec")

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

    hooks = Hooks(
        listen=lambda folder: listening.reconstructions(codec, _heard_rows(run), folder),
        finish=normalise,
        export=lambda folder: export(folder, {"codec": codec}),
    )
    return Root(module=codec, losses=codec, source=source, hooks=hooks)


def _text_to_audio(run: RunConfig) -> Root:
    text_encoder, dit = component(run, "text_encoder"), component(run, "dit")
    root = TextToAudio(text_encoder, dit, **_checked(TextToAudio, run.model.flow, "model.flow", given=2))
    codec = component(run, "codec") if "codec" in run.stage.start_from else None

    def source(name: str, val: bool) -> Clips:
        rows = _manifest(run, name, val)
        store = _store(run, name, val, rows)
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

    hooks = Hooks(
        listen=lambda folder: listening.captions(root, codec, run.model.num_semantic, _heard_rows(run), folder),
        finish=lambda: None,
        export=lambda folder: export(folder, {"text_encoder": text_encoder, "dit": dit}),
    )
    return Root(module=root, losses=root, source=source, hooks=hooks)


def _audiostory(run: RunConfig) -> Root:
    vocabulary = _vocabulary(run)
    planner, bridge, dit = component(run, "planner"), component(run, "bridge"), component(run, "dit")
    planner.qwen.set_attn_implementation(run.runtime.attention)
    if "text_encoder" in run.stage.start_from:
        bridge.unconditional.copy_(component(run, "text_encoder").unconditional(run.model.num_semantic))
    if run.stage.lora:
        planner.add_lora(config.build(LoraSettings, run.model.lora, "model.lora"))
    root = AudioStory(planner, bridge, dit, **_checked(AudioStory, run.model.flow, "model.flow", given=3))
    codec = component(run, "codec") if "codec" in run.stage.start_from else None
    wanted = {*run.stage.losses, *(REASON_PARTS if "reason" in run.stage.losses else ())}
    latents, teacher = "flow" in wanted, "semantic" in wanted
    settings = ours.Settings(**_checked(ours.Settings, run.model.settings, "model.settings"))

    def source(name: str, val: bool) -> Stories:
        rows = _manifest(run, name, val)
        store = _store(run, name, val, rows) if latents or teacher else None
        return Stories(
            rows,
            vocabulary,
            store,
            run.stage.batch,
            seed=_data_seed(run, name, val),
            latents=latents and store is not None and store.has_codec,
            teacher=teacher,
            damaged_share=run.data.damaged_share,
        )

    def save(folder: Path) -> None:
        """What the stage taught or was given, not what it made from nothing and left so; a model, once that is all."""
        parts = {"planner": planner, "bridge": bridge, "dit": dit, "codec": codec}
        taught = {name.partition(".")[0] for name, parameter in root.named_parameters() if parameter.requires_grad}
        parts = {name: part for name, part in parts.items() if name in taught or name in run.stage.start_from}
        with checkpoint.replacing(folder) as aside:
            _save_parts(aside, parts)
            ours.write_vocabulary(aside, vocabulary)
            if set(parts) == set(ours.TELLING):
                ours.write_index(aside, parts, settings)

    hooks = Hooks(
        listen=lambda folder: listening.stories(root, codec, vocabulary, _heard_rows(run), folder),
        finish=lambda: None,
        export=save,
    )
    return Root(module=root, losses=partial(root, wanted=wanted), source=source, hooks=hooks)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a root is built, and which of the model's sizes it is built by."""

    build: Callable[[RunConfig], Root]
    sizes: tuple[str, ...]


KINDS = {
    "codec": Kind(build=_codec, sizes=("codec",)),
    "text_to_audio": Kind(build=_text_to_audio, sizes=("num_semantic", "text_encoder", "dit", "flow")),
    "audiostory": Kind(
        build=_audiostory, sizes=("num_semantic", "num_residual", "planner", "lora", "bridge", "dit", "flow")
    ),
}


def component(run: RunConfig, name: str) -> Any:
    """From the export of the run that `start_from` names, or fresh with the seed of the run."""
    start = run.stage.start_from.get(name)
    if start is None:
        torch.manual_seed(seed_of(run.seed, "weights", name))
        return _fresh(run, name)
    folder = _exported(run, start)
    if not (folder / name).is_dir():
        raise ValueError(
            f"stage {run.stage.name} starts from the {name} of {start}, but there is no {folder / name}; train that "
            f"stage first (python train.py stage={start}), or name another folder under {run.runs}/ in "
            f"stage.start_from.{name}"
        )
    return ours.read_component(folder, name)


def _exported(run: RunConfig, start: str) -> Path:
    """What a run of that name exported, or a model's folder where `start` is a path to one."""
    return Path(start) if len(Path(start).parts) > 1 else Path(run.runs) / start / "export"


def export(folder: Path, components: Mapping[str, nn.Module]) -> None:
    """One folder per component, written aside and put in place together."""
    with checkpoint.replacing(folder) as aside:
        _save_parts(aside, components)


def _save_parts(folder: Path, components: Mapping[str, Any]) -> None:
    for name, part in components.items():
        part.save_pretrained(folder / name)  # the planner's merges LoRA into what it writes


def _fresh(run: RunConfig, name: str) -> nn.Module:
    sizes = run.model
    if name == "planner":
        values = {**sizes.planner, "vocab_size": len(_vocabulary(run))}
        return Planner.random(config.build(PlannerConfig, values, "model.planner"))
    if name == "text_encoder":
        return _fresh_text_encoder(run)
    cls = {"bridge": Bridge, "dit": VelocityDiT, "codec": Codec}[name]
    values = dict(getattr(sizes, name))
    if name == "bridge":
        values |= {"num_semantic": sizes.num_semantic, "num_residual": sizes.num_residual}
    return cls(**_checked(cls, values, f"model.{name}"))


@dataclass(frozen=True, kw_only=True)
class TextEncoderSizes:
    """Of a fresh T5 encoder. Its feed-forward is gated, as Flan-T5's."""

    width: int
    layers: int
    heads: int
    head_width: int
    intermediate: int


def _fresh_text_encoder(run: RunConfig) -> TextEncoder:
    from tokenizers import Tokenizer
    from transformers import T5Config

    sizes = config.build(TextEncoderSizes, run.model.text_encoder, "model.text_encoder")
    path = Path(run.runs) / run.model.tokenizers / "text_tokenizer" / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"no tokenizer for the text encoder at {path}; make it with scripts/make_tokenizer.py")
    tokenizer = Tokenizer.from_file(str(path))
    t5 = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=sizes.width,
        num_layers=sizes.layers,
        num_heads=sizes.heads,
        d_kv=sizes.head_width,
        d_ff=sizes.intermediate,
        feed_forward_proj="gated-gelu",
    )
    return TextEncoder.random(t5, tokenizer)


def _vocabulary(run: RunConfig) -> Vocabulary:
    """The one that came with the planner the stage starts from, or the one the model's tokenizers hold."""
    start = run.stage.start_from.get("planner")
    folder = _exported(run, start) if start else Path(run.runs) / run.model.tokenizers
    return ours.read_vocabulary(folder, num_semantic=run.model.num_semantic, num_residual=run.model.num_residual)


def _checked(cls: Callable[..., Any], values: Mapping[str, Any], where: str, given: int = 0) -> dict[str, Any]:
    """Keyword arguments of `cls`, of which the first `given` are not settings. ValueError for one it does not know."""
    known = list(inspect.signature(cls).parameters)[given:]
    for key in values:
        if key not in known:
            raise ValueError(config.unknown_key(f"{where}.{key}", key, known))
    return dict(values)


def _source(run: RunConfig, name: str) -> config.SourceFiles:
    if name not in run.data.sources:
        raise ValueError(
            f"stage {run.stage.name} learns from {name!r}, data {run.data.name} has {', '.join(run.data.sources)}"
        )
    return run.data.sources[name]


def _manifest(run: RunConfig, name: str, val: bool) -> manifest.Manifest:
    files = _source(run, name)
    return manifest.read(files.val if val and files.val else files.train, damaged_share=run.data.damaged_share)


def _store(run: RunConfig, name: str, val: bool, rows: manifest.Manifest) -> Store | None:
    """The source's latents and teacher states; None for one that has words alone.

    ValueError for a store that lacks what its source could give and the stage learns by.
    """
    folder = _source(run, name).val_latents if val else _source(run, name).train_latents
    if folder is None:
        return None
    store = Store(folder, manifest_fingerprint=rows.fingerprint)
    if "semantic" in run.stage.losses and not store.has_teacher:
        raise ValueError(f"{folder} holds no teacher states; run scripts/encode_latents.py again with --text_encoder")
    recorded = any(clip.audio is not None for row in rows.rows for clip in row.clips)
    if "flow" in run.stage.losses and recorded and not store.has_codec:
        raise ValueError(f"{folder} holds no latents; run scripts/encode_latents.py again with --codec")
    return store


def _check_targets(run: RunConfig, sources: Sequence[Source]) -> None:
    """ValueError when no source of the mixture has what a loss of the stage compares with."""
    stories = [source for source in sources if isinstance(source, Stories)]
    for loss, has, option in (("flow", "latents", "--codec"), ("semantic", "teacher", "--text_encoder")):
        if stories and loss in run.stage.losses and not any(getattr(source, has) for source in stories):
            raise ValueError(
                f"stage {run.stage.name} learns by {loss}, but no store of {', '.join(run.stage.mixture)} has what it "
                f"takes; make it with scripts/encode_latents.py {option} and name it in data.sources"
            )


def _heard_rows(run: RunConfig) -> list[manifest.Row]:
    """The first rows of the first held-out manifest: the same at every listening."""
    name = next(iter(run.stage.mixture))
    return list(_manifest(run, name, True).rows[: run.stage.pace.listen_items])


def _data_seed(run: RunConfig, name: str, val: bool) -> int:
    return seed_of(run.seed, "data", name, "val" if val else "train")
