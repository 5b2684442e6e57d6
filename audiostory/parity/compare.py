"""Every data file of a recording, with the checks that cover it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from audiostory.model.bridge import Bridge
from audiostory.parity import parts, planning, stories, training
from audiostory.parity.checks import Check, CheckFile, Subject, failed
from audiostory.parity.recording import Recording
from audiostory.pipeline import AudioStoryPipeline
from audiostory.weights import released

FILES: dict[str, CheckFile] = {
    "meta": stories.meta,
    "conditioning": parts.conditioning,
    "fuser": parts.fuser,
    "flow_loss": parts.flow_matching,
    "sampler": parts.sampler,
    "vae": parts.vae,
    "crossfade": parts.crossfade,
    "generate_scripted": planning.generate_scripted,
    "generate_free": planning.generate_free,
    "train_forward": training.train_forward,
    "train_forward_audio_in": training.train_forward_audio_in,
    "end_to_end": stories.end_to_end,
    "inference_main": stories.inference_main,
}


def load(recording: Recording) -> Subject:
    """The recorded checkpoint, written into a folder that is gone afterwards and read as a user's would be.

    ValueError when it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        checkpoint = recording.rebuild(folder)
        models = [path.parent for path in checkpoint.glob("*/config.yaml")]
        if len(models) != 1:
            raise ValueError(f"{recording.folder}/ckpt_static holds {len(models)} folders with a config.yaml, not 1")
        model = models[0]
        folders = released.Folders(model=model, tangoflux=checkpoint / "Flux_detokenizer")
        merged = released.read(folders, text_encoder=True)
        apart = released.read(folders, keep_lora=True)
        # Mapped tensors would outlive their files, but not on every system.
        for part in (*vars(merged).values(), *vars(apart).values()):
            for tensor in (*part.parameters(), *part.buffers()) if isinstance(part, nn.Module) else ():
                tensor.data = tensor.data.clone()
    formula = cast(Bridge, Bridge.from_config(apart.bridge.config, release_training_formula=True)).eval()
    formula.load_state_dict(apart.bridge.state_dict())
    apart = replace(apart, bridge=formula)
    pipeline = AudioStoryPipeline(
        merged.planner, merged.vocabulary, merged.bridge, merged.dit, merged.codec, merged.settings
    )
    return Subject(recording=recording, merged=merged, apart=apart, pipeline=pipeline)


def run(subject: Subject, files: dict[str, CheckFile] = FILES) -> Iterator[Check]:
    """Check after check. A file that is missing or cannot be compared is one failed check that says why."""
    for name, check_file in files.items():
        try:
            with torch.no_grad():
                yield from check_file(subject)
        except Exception as error:  # a recording of another shape can break a computation anywhere
            yield failed(name, f"{type(error).__name__}: {error}")
