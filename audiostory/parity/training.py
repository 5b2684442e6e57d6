"""Training: the losses of one forward, and the gradients of their sum, in the release's published formula (SPEC 5)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audiostory.model.audiostory import AudioStory, gather
from audiostory.model.inputs import StoryBatch
from audiostory.parity.checks import LOSS, Check, Checks, Subject, absolute, exact, relative
from audiostory.parity.parts import drawn, seeded
from audiostory.story.types import Role
from audiostory.weights.build import LORA_APART
from audiostory.weights.released import RELEASED

LOSSES = {"text": "lm_loss", "semantic": "audio_rec_loss", "flow": "audio_dit_loss"}
SUMS = 5e-4  # of a gradient's norm: its entries cancel, so rounding weighs more
SMALLEST_NORM = 1e-12
NEVER_LEARNT = ("tangoflux.text_encoder.", "seedx.whisper_resampler_llava.")


def train_forward(subject: Subject) -> Checks:
    model = _model(subject)
    yield from _step("train_forward", "train_losses", 3, subject, model)
    yield from _gradient_norms(subject, model)
    yield from _what_learns(subject, model)


def train_forward_audio_in(subject: Subject) -> Checks:
    recorded, projector = subject.recording.data("train_forward_audio_in"), subject.apart.listener_projector
    assert projector is not None
    heard = recorded["audio_embeds"][recorded["embeds_cmp_mask"]]
    yield absolute("train_forward_audio_in.whisper_tokens", projector(heard), recorded["whisper_tokens"])
    yield from _step("train_forward_audio_in", "train_losses_audio_in", 4, subject, _model(subject))


def _model(subject: Subject) -> AudioStory:
    """LoRA apart, no dropout, the formula and the times of the release; every gradient is zero."""
    part = subject.apart
    model = AudioStory(
        part.planner,
        part.bridge,
        part.dit,
        part.listener_projector,
        condition_dropout=0.0,
        sigma_distribution="logit_normal",
    ).eval()
    model.zero_grad()
    return model


def _step(name: str, losses_in_meta: str, offset: int, subject: Subject, model: AudioStory) -> Checks:
    recorded, weights = subject.recording.data(name), subject.apart.config.loss_weights
    compare = partial(relative, tolerance=LOSS)
    batch = _batch(recorded)
    assert batch.latents is not None
    with torch.enable_grad():
        losses = model.losses(batch, seeded(subject, offset))
        total = losses.weighted(weights)
        total.backward()
    values = {"total_loss": total, **{theirs: losses.named[ours] for ours, theirs in LOSSES.items()}}
    for theirs, value in values.items():
        yield compare(f"{name}.{theirs}", value[None], recorded[theirs])
        yield compare(f"meta.{losses_in_meta}.{theirs}", value, subject.recording.meta[losses_in_meta][theirs])

    yield from drawn(name, subject, offset, batch.latents)
    tokens = gather(model.planner.states(batch.ids, model.heard(batch)), batch)
    bridged = model.bridge(tokens)
    yield relative(f"{name}.recon_t5", bridged.semantic_prediction, recorded["recon_t5"])
    residual = model.bridge.residual_projector(tokens.residual) / model.bridge.feature_scale
    yield relative(f"{name}.recon_aud", residual, recorded["recon_aud"])
    yield relative(f"{name}.fused", bridged.fused, recorded["fused"])
    gradients = _gradients(model)
    for key, gradient in recorded.items():
        if key.startswith("grad:"):
            theirs = key.removeprefix("grad:")
            yield compare(
                f"{name}.grad:{theirs.removeprefix('seedx.llm.base_model.model.model.')}",
                gradients.get(theirs, math.nan),
                gradient,
            )


def _gradient_norms(subject: Subject, model: AudioStory) -> Checks:
    """L2 norm and sum of every gradient; sums are compared at the scale of their terms, since they cancel."""
    recorded: dict[str, Any] = subject.recording.json("train_grad_norms")
    ours = _gradients(model)
    yield exact("train_grad_norms.names", sorted(ours), sorted(recorded))
    worst: dict[str, tuple[float, str]] = {"norms": (0.0, ""), "sums": (0.0, "")}
    for name, (norm, total) in recorded.items():
        gradient = ours.get(name)
        if gradient is None:
            continue
        errors = {
            "norms": abs(gradient.double().norm().item() - norm) / max(norm, SMALLEST_NORM),
            "sums": abs(gradient.double().sum().item() - total) / max(norm, abs(total), SMALLEST_NORM),
        }
        worst = {kind: max(worst[kind], (error, name)) for kind, error in errors.items()}
    for kind, tolerance in (("norms", LOSS), ("sums", SUMS)):
        error, largest = worst[kind]
        note = f"relative, of {len(recorded)}; the largest at {largest}" if error > tolerance else ""
        name = f"train_grad_norms.{kind}"
        yield Check(name=name, error=error, tolerance=tolerance, note=note)


def _what_learns(subject: Subject, model: AudioStory) -> Checks:
    """What the release leaves open to learning and never teaches, ours closes or does not have (SPEC 9, row 20)."""
    meta = subject.recording.meta
    idle = meta["n_no_grad_but_trainable"]
    known = [name for name in idle if name.startswith(NEVER_LEARNT) or ".original_module." in name]
    yield exact("meta.n_no_grad_but_trainable", known, idle)
    theirs = _unified(subject)
    learnt = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    shut = sum(
        math.prod(theirs[name]["shape"]) for name in idle if not name.startswith("seedx.whisper_resampler_llava.")
    )
    yield exact(
        "meta.n_trainable",
        learnt + shut,
        meta["n_trainable"],
        f"the release counts {meta['n_trainable']:,}, {shut:,} of them in the text encoder and in copies of norms that "
        f"never get a gradient; ours opens the other {learnt:,}, so no parameter waits for a gradient in vain",
    )


def _batch(recorded: dict[str, Tensor]) -> StoryBatch:
    def slots(kind: str) -> Tensor:
        return torch.stack([mask.nonzero()[:, 0] for mask in recorded[f"ids_{kind}_gen_mask"]])

    rows, latents = recorded["input_ids"].shape[0], recorded["audio_latent"]
    batch: dict[str, Any] = {}
    if "ids_cmp_mask" in recorded:
        holding = recorded["ids_cmp_mask"].any(dim=1).nonzero()[:, 0]
        batch = {
            "audio_features": recorded["audio_embeds"][recorded["embeds_cmp_mask"]],
            "audio_row": holding,
            "audio_slots": torch.stack([recorded["ids_cmp_mask"][row].nonzero()[:, 0] for row in holding]),
        }
    return StoryBatch(
        ids=recorded["input_ids"],
        attention=recorded["attention_mask"].bool(),
        roles=torch.where(recorded["labels"] == -100, Role.PROMPT, Role.MARKER),
        event_row=torch.arange(rows),
        semantic_slots=slots("t5"),
        residual_slots=slots("aud"),
        seconds=recorded["duration"],
        frames=torch.full((rows,), latents.shape[1]),
        latents=latents,
        teacher=recorded["caption_embeds"],
        **batch,
    )


def _gradients(model: AudioStory) -> dict[str, Tensor]:
    """By the release's names."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            part, _, rest = name.partition(".")
            ours = f"{part}/{LORA_APART.to_ours(rest) if part == 'planner' else rest}"
            found[str(RELEASED.to_theirs(ours))] = parameter.grad
    return found


def _unified(subject: Subject) -> dict[str, Any]:
    """The manifest's entries for the file that holds all but the VAE."""
    files = subject.recording.manifest["files"]
    (path,) = [name for name in files if name.endswith("pytorch_model.bin")]
    return files[path]["keys"]
