"""The parts, one by one: conditioning, fuser, flow, sampler, codec, cross-fade."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from audiostory import sound
from audiostory.model import flow
from audiostory.model.audiostory import draw, flow_loss
from audiostory.model.dit import guided_velocity
from audiostory.model.inputs import BridgeTokens, Condition
from audiostory.parity.checks import Checks, Subject, absolute, exact, relative
from audiostory.sound import Waveform

# What the recording says in words only.
TEXTS = ("rain and thunder", "a long audio of dogs barking in the distance")
SECOND_RUN = {"guidance": 2.5, "duration": 3.0, "seed": 77}


def conditioning(subject: Subject) -> Checks:
    recorded, part = subject.recording.data("conditioning"), subject.merged
    encoder = part.text_encoder
    assert encoder is not None
    ids, mask = encoder.tokenize([""], part.bridge.num_semantic)
    yield exact("conditioning.uncond_ids", ids, recorded["uncond_ids"])
    yield exact("conditioning.uncond_mask", mask.long(), recorded["uncond_mask"])
    fused = part.bridge(_hidden(subject)).fused[0]
    stack = torch.stack([part.bridge.unconditional, fused])
    yield absolute("conditioning.cond_stack", stack, recorded["cond_stack"])
    seconds = part.dit.duration_embedder(recorded["durations"])
    yield absolute("conditioning.duration_embeds", seconds[:, None], recorded["duration_embeds"])
    yield absolute("conditioning.fc_pooled", F.relu(part.dit.pooled(stack.mean(dim=1))), recorded["fc_pooled"])
    ids, mask = encoder.tokenize(TEXTS, recorded["t5_text_mask"].shape[1])
    yield exact("conditioning.t5_text_mask", mask.long(), recorded["t5_text_mask"].long())
    yield absolute("conditioning.t5_text_embeds", encoder(ids, mask), recorded["t5_text_embeds"])


def fuser(subject: Subject) -> Checks:
    recorded, bridge = subject.recording.data("fuser"), subject.merged.bridge
    scale = bridge.feature_scale
    tokens, generator = _hidden(subject), seeded(subject, 1)
    for kind in ("semantic", "residual"):
        hidden = torch.randn(recorded[f"hidden_{kind}"].shape, generator=generator)
        yield exact(f"fuser.hidden_{kind}", hidden, recorded[f"hidden_{kind}"])
    semantic, residual = bridge.semantic_projector(tokens.semantic), bridge.residual_projector(tokens.residual)
    yield absolute("fuser.proj_semantic", semantic, recorded["proj_semantic"])
    yield absolute("fuser.proj_residual", residual, recorded["proj_residual"])
    attended = bridge.fuser(semantic, residual, residual)[0]
    yield absolute("fuser.attn_inference", attended, recorded["attn_inference"])
    yield absolute("fuser.fused_inference", bridge(tokens).fused, recorded["fused_inference"])
    attended = bridge.fuser(semantic / scale, residual / scale, residual / scale)[0]
    yield absolute("fuser.attn_training", attended, recorded["attn_training"])
    trained = subject.apart.bridge  # in the release's training formula
    yield absolute("fuser.fused_training", trained(tokens).fused, recorded["fused_training"])


def flow_matching(subject: Subject) -> Checks:
    recorded, dit = subject.recording.data("flow_loss"), subject.merged.dit
    latents = recorded["latents"]
    yield from drawn("flow_loss", subject, 2, latents)
    draws = draw(latents, 0.0, "logit_normal", seeded(subject, 2))
    yield absolute("flow_loss.sigma", draws.sigma, recorded["sigma"])
    yield absolute("flow_loss.timestep", draws.sigma, recorded["timestep"])
    noisy = flow.interpolate(latents, draws.noise, draws.sigma)
    yield absolute("flow_loss.noisy", noisy, recorded["noisy"])
    tokens, seconds = recorded["t5_tokens"], recorded["duration"]
    sequence = torch.cat([tokens, dit.duration_embedder(seconds)[:, None]], dim=1)
    yield absolute("flow_loss.encoder_hidden_states", sequence, recorded["encoder_hidden_states"])
    pooled = F.relu(dit.pooled(tokens.mean(dim=1)))
    yield absolute("flow_loss.pooled_projection", pooled, recorded["pooled_projection"])
    condition = Condition(tokens=tokens, seconds=seconds)
    yield absolute("flow_loss.model_pred", dit(noisy, draws.sigma, condition), recorded["model_pred"])
    frames = torch.full((len(latents),), latents.shape[1])
    loss = flow_loss(dit, latents, frames, condition, draws)
    yield relative("flow_loss.loss", loss[None], recorded["loss"], 1e-4)


def sampler(subject: Subject) -> Checks:
    run = subject.recording.meta["sampler"]
    recorded = subject.recording.data("sampler")
    times = flow.sigmas(int(run["steps"]))
    yield absolute("sampler.sigmas", times, recorded["sigmas"])
    for suffix, settings in (("", run), ("_b", subject.recording.meta.get("sampler_b", SECOND_RUN))):
        steps = len(recorded[f"timesteps{suffix}"])
        timesteps = 1000 * flow.sigmas(steps)[:-1]
        yield absolute(f"sampler.timesteps{suffix}", timesteps, recorded[f"timesteps{suffix}"])
        start = recorded[f"init_noise{suffix}"]
        noise = flow.clip_noise(int(settings["seed"]), 0, *start.shape[1:], shared=True)[None]
        yield exact(f"sampler.init_noise{suffix}", noise, start)
        velocity = guided_velocity(
            subject.merged.dit,
            Condition(tokens=recorded[f"fused{suffix}"], seconds=torch.tensor([float(settings["duration"])])),
            subject.merged.bridge.unconditional,
            float(settings["guidance"]),
        )
        predictions, trajectory = [], [noise]

        def follow(latents, sigma, velocity=velocity, predictions=predictions):
            predictions.append(velocity(latents, sigma))
            return predictions[-1]

        latents = flow.euler(follow, noise, steps, on_step=lambda _, x, path=trajectory: path.append(x))
        yield absolute(f"sampler.latents{suffix}", latents, recorded[f"latents{suffix}"])
        if not suffix:
            yield absolute("sampler.guided_pred", torch.stack(predictions), recorded["guided_pred"])
            yield absolute("sampler.trajectory", torch.stack(trajectory), recorded["trajectory"])


def vae(subject: Subject) -> Checks:
    recorded, codec = subject.recording.data("vae"), subject.merged.codec
    yield absolute("vae.latents", subject.recording.data("sampler")["latents"], recorded["latents"])
    yield absolute("vae.wave", codec.decode(recorded["latents"]), recorded["wave"])
    posterior = codec.posterior(recorded["encode_wave"])
    yield absolute("vae.encode_mean", posterior.mean, recorded["encode_mean"])
    yield absolute("vae.encode_std", posterior.std, recorded["encode_std"])


def crossfade(subject: Subject) -> Checks:
    recorded = subject.recording.data("crossfade")
    for case in subject.recording.meta["crossfade"]:
        number, rate = case["case"], case["sample_rate"]
        clips = [
            Waveform(samples=recorded[f"case{number}_in{index}"].numpy(), sample_rate=rate)
            for index in range(len(case["lengths"]))
        ]
        joined = sound.crossfade(clips, case["transition_sec"])
        yield absolute(f"crossfade.case{number}", joined.samples, recorded[f"case{number}_out"])


def drawn(name: str, subject: Subject, offset: int, latents: Tensor) -> Checks:
    """What chance gives a training step: the noise, and after it the u that sigma is floored from (SPEC 6)."""
    recorded = subject.recording.data(name)
    draws = draw(latents, 0.0, "logit_normal", seeded(subject, offset))
    yield exact(f"{name}.noise", draws.noise, recorded["noise"])
    yield exact(f"{name}.indices", (1000 * (1 - draws.sigma)).round().long(), recorded["indices"])
    generator = seeded(subject, offset)
    torch.randn(latents.shape, generator=generator)
    yield absolute(f"{name}.u", torch.sigmoid(torch.randn(len(latents), generator=generator)), recorded["u"])


def seeded(subject: Subject, offset: int) -> torch.Generator:
    return torch.Generator().manual_seed(subject.recording.seed + offset)


def _hidden(subject: Subject) -> BridgeTokens:
    recorded = subject.recording.data("fuser")
    return BridgeTokens(semantic=recorded["hidden_semantic"], residual=recorded["hidden_residual"])
