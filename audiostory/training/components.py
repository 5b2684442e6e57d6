"""Where the parts of a model come from, by one rule: from what `stage.start_from` exported, else from where `weights`
says, else fresh. What came from where is kept, printed and saved with the run, so that nothing starts afresh unseen.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from audiostory import composing
from audiostory.dataset.mixture import seed_of
from audiostory.model.bridge import Bridge
from audiostory.model.codec import Codec
from audiostory.model.dit import VelocityDiT
from audiostory.model.listener import AudioEncoder, AudioEncoderConfig, ListenerProjector
from audiostory.model.planner import Planner, PlannerConfig
from audiostory.model.text_encoder import TextEncoder
from audiostory.story import Vocabulary
from audiostory.training.config import RunConfig
from audiostory.weights import ours
from audiostory.weights.origins import Origin

FRESH = "fresh"
BRIDGE_ABLATIONS = ("fusion", "semantic_teacher_width", "residual_teacher_width")


@dataclass(frozen=True, kw_only=True)
class TextEncoderSizes:
    """Of a fresh T5 encoder. Its feed-forward is gated, as Flan-T5's."""

    width: int
    layers: int
    heads: int
    head_width: int
    intermediate: int


class Components:
    """The parts that a run asks for, read or made when it does; `origins` tells where each came from."""

    def __init__(self, run: RunConfig):
        self.run = run
        self.origins: dict[str, str] = {}
        self._opened: dict[str, Origin] = {}

    def get(self, name: str) -> Any:
        """The component. ValueError when its origin lacks it; fresh ones take the seed of the run."""
        origin = self.origin(name)
        if origin is None:
            return self.fresh(name)
        self.origins[name] = str(origin.folder)
        found = origin.read(name, self.vocabulary if name == "planner" else None)
        return self._as_asked(found) if name == "bridge" else found

    def fresh(self, name: str) -> Any:
        """The component from random weights, whatever there is elsewhere."""
        self.origins[name] = FRESH
        torch.manual_seed(seed_of(self.run.seed, "weights", name))
        return self._fresh(name)

    def origin(self, name: str) -> Origin | None:
        """Where a component comes from; None: it starts fresh, as does what `weights` has from this very stage."""
        if self.handed_on(name):
            return self._open(str(self.run.stage.start_from))
        named = getattr(self.run.weights, name)
        return None if named in (None, self.run.stage.name) else self._open(named)

    def is_there(self, name: str) -> bool:
        """Whether a component can be read from where it would come from."""
        try:
            origin = self.origin(name)
        except ValueError:
            return False
        return origin is not None and origin.holds(name)

    def handed_on(self, name: str) -> bool:
        """Whether the stage before exported the component."""
        before = self.run.stage.start_from
        return before is not None and self._open(before).holds(name)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The one that comes with the planner, or with a fresh planner the one of the model's tokenizers."""
        counts = {"num_semantic": self.run.model.num_semantic, "num_residual": self.run.model.num_residual}
        origin = self.origin("planner")
        folder = _below(self.run.runs, self.run.model.tokenizers)
        found = origin.vocabulary(**counts) if origin is not None else None
        return found or ours.read_vocabulary(folder, **counts)

    def told(self) -> str:
        """A line for people: what came from where."""
        return ", ".join(f"{name}: {origin}" for name, origin in self.origins.items())

    def _as_asked(self, bridge: Bridge) -> Bridge:
        """What the stage before made, with the changes that an ablation asks of it by name."""
        wanted = {name: self.run.model.bridge[name] for name in BRIDGE_ABLATIONS if name in self.run.model.bridge}
        wanted["num_residual"] = self.run.model.num_residual
        if not (changes := {name: value for name, value in wanted.items() if bridge.config[name] != value}):
            return bridge
        told = ", ".join(f"{name} {bridge.config[name]} -> {value}" for name, value in changes.items())
        self.origins["bridge"] += f" ({told})"
        torch.manual_seed(seed_of(self.run.seed, "weights", "bridge"))
        return bridge.changed(**changes)

    def _open(self, named: str) -> Origin:
        """A run of that name, as its export, or a folder."""
        if named not in self._opened:
            export = Path(self.run.runs) / named / "export"
            path = export if _is_name(named) else Path(named)
            if path == export and not export.is_dir():
                raise ValueError(
                    f"stage {self.run.stage.name} starts from {named}, but there is no {export}; train that stage "
                    f"first (python train.py stage={named}), or name another run or folder in stage.start_from or "
                    "weights"
                )
            self._opened[named] = Origin(path, self.run.weights.tangoflux)
        return self._opened[named]

    def _fresh(self, name: str) -> nn.Module:
        sizes = self.run.model
        if name == "planner":
            values = {"vocab_size": len(self.vocabulary), **sizes.planner}
            return Planner.random(composing.build(PlannerConfig, values, "model.planner"))
        if name == "text_encoder":
            return self._fresh_text_encoder()
        if name == "audio_encoder":
            return AudioEncoder.random(composing.build(AudioEncoderConfig, sizes.audio_encoder, "model.audio_encoder"))
        cls = {"bridge": Bridge, "dit": VelocityDiT, "codec": Codec, "listener_projector": ListenerProjector}[name]
        values = dict(getattr(sizes, name))
        if name == "bridge":
            values |= {"num_semantic": sizes.num_semantic, "num_residual": sizes.num_residual}
        return cls(**checked(cls, values, f"model.{name}"))

    def _fresh_text_encoder(self) -> TextEncoder:
        from tokenizers import Tokenizer
        from transformers import T5Config

        sizes = composing.build(TextEncoderSizes, self.run.model.text_encoder, "model.text_encoder")
        path = _below(self.run.runs, self.run.model.tokenizers) / "text_tokenizer" / "tokenizer.json"
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


def checked(cls: Callable[..., Any], values: Mapping[str, Any], where: str, given: int = 0) -> dict[str, Any]:
    """Keyword arguments of `cls`, of which the first `given` are not settings. ValueError for one it does not know."""
    known = list(inspect.signature(cls).parameters)[given:]
    for key in values:
        if key not in known:
            raise ValueError(composing.unknown_key(f"{where}.{key}", key, known))
    return dict(values)


def _below(runs: str, named: str) -> Path:
    """A name alone is of a folder among the runs; with a slash in it, it is a path of its own."""
    return Path(runs) / named if _is_name(named) else Path(named)


def _is_name(named: str) -> bool:
    return "/" not in named and os.sep not in named
