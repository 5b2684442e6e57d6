"""The velocity network: a Flux transformer over [condition tokens, duration token, latent frames].

diffusers' FluxTransformer2DModel supplies the layers, their names and their attention back ends. We run the layers
ourselves, because its own forward rounds the time to the compute dtype: on the recorded tiny network that lifts the
error of bf16 from 0.006 to 0.04. SPEC 7 has the conditioning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import ConfigMixin, FluxTransformer2DModel, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from diffusers.models.transformers.transformer_flux import FluxAttention
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from audiostory.model import flow
from audiostory.model.inputs import Condition
from audiostory.model.plain_attention import PlainAttention


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the network makes of a condition whatever the latents and the time are: once for all steps of a solver."""

    context: Float[Tensor, "S N D"]
    pooled: Float[Tensor, "S D"]
    rotary: tuple[Float[Tensor, "L A"], Float[Tensor, "L A"]]
    mask: Bool[Tensor, "S L"] | None


class VelocityDiT(ModelMixin, ConfigMixin):
    """Predicts noise - data at (latents, sigma) for S clips under their conditions.

    `fixed_frames` is the one sequence length a network was trained at (the release: 645, whatever the clip's duration);
    None lets the sequence be as long as the clip. `frame_rate` is the codec's latent frames per second, `max_seconds`
    the longest duration the duration token tells apart. `axes_dims_rope` are even and sum to `attention_head_dim`.
    A new network's modulation and last projection are zero (adaLN-zero), so it starts by predicting zero everywhere.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = FluxTransformer2DModel._no_split_modules
    _repeated_blocks = FluxTransformer2DModel._repeated_blocks
    _skip_layerwise_casting_patterns = FluxTransformer2DModel._skip_layerwise_casting_patterns
    _keep_in_fp32_modules: ClassVar = ["duration_embedder"]

    @register_to_config
    def __init__(
        self,
        *,
        num_layers: int = 6,
        num_single_layers: int = 18,
        attention_head_dim: int = 128,
        num_attention_heads: int = 8,
        joint_attention_dim: int = 1024,
        in_channels: int = 64,
        max_seconds: float = 30.0,
        axes_dims_rope: Sequence[int] = (16, 56, 56),
        fixed_frames: int | None = 645,
        frame_rate: float = 44100 / 2048,
    ):
        super().__init__()
        if len(axes_dims_rope) != 3 or sum(axes_dims_rope) != attention_head_dim or any(n % 2 for n in axes_dims_rope):
            raise ValueError(
                f"axes_dims_rope are three even numbers that sum to attention_head_dim={attention_head_dim}, "
                f"got {list(axes_dims_rope)}"
            )
        self.max_seconds, self.fixed_frames, self.frame_rate = max_seconds, fixed_frames, frame_rate
        self.transformer = FluxTransformer2DModel(
            in_channels=in_channels,
            num_layers=num_layers,
            num_single_layers=num_single_layers,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=joint_attention_dim,
            pooled_projection_dim=joint_attention_dim,
            axes_dims_rope=cast(tuple[int, int, int], tuple(axes_dims_rope)),
        )
        self.pooled = nn.Linear(joint_attention_dim, joint_attention_dim)
        self.duration_embedder = DurationEmbedder(joint_attention_dim, max_seconds)
        _zero_modulation(self.transformer)

    def forward(
        self,
        latents: Float[Tensor, "S T Z"],
        sigma: Float[Tensor, " #S"],
        condition: Condition | Prepared,
        frames: Int[Tensor, " S"] | None = None,
    ) -> Float[Tensor, "S T Z"]:
        """The velocity, in the dtype of `latents` whatever the weights are in. `sigma` has one entry, or one per clip.

        `frames` counts each clip's own frames when shorter clips are padded to T: padding is then masked out of the
        attention, and its velocity means nothing. Leave it out when no clip is padded; that is the release's path and
        the faster attention. We do not look for ourselves, since reading `frames` would wait for the GPU. Padding may
        hold anything finite. A condition that was prepared knows its frames.
        """
        told = condition if isinstance(condition, Prepared) else self.prepare(condition, latents.shape[1], frames)
        flux, context = self.transformer, told.context
        hidden = flux.x_embedder(latents.to(self.dtype))  # [S T D]
        # flux.time_text_embed in two: what it makes of the condition is in `told`.
        time = flux.time_text_embed.time_proj(1000 * sigma.float())
        modulation = flux.time_text_embed.timestep_embedder(time.to(told.pooled.dtype)) + told.pooled  # [S D]
        attention = None if told.mask is None else {"attention_mask": told.mask}
        for block in self.blocks:
            context, hidden = self._run(block, hidden, context, modulation, told.rotary, attention)
        return flux.proj_out(flux.norm_out(hidden, modulation)).to(latents.dtype)

    @apply_forward_hook
    def prepare(self, condition: Condition, num_frames: int, frames: Int[Tensor, " S"] | None = None) -> Prepared:
        """For latents of `num_frames`, and `frames` as in `forward`."""
        flux = self.transformer
        tokens = condition.tokens.to(self.dtype)  # [S N C]
        duration = self.duration_embedder(condition.seconds).to(self.dtype)  # [S C]
        context = flux.context_embedder(torch.cat([tokens, duration[:, None]], dim=1))  # [S N+1 D]
        pooled = F.relu(self.pooled(tokens.mean(dim=1)))  # the duration token is not pooled
        return Prepared(
            context=context,
            pooled=flux.time_text_embed.text_embedder(pooled),
            rotary=flux.pos_embed(_positions(context.shape[1], num_frames, context.device)),
            mask=None if frames is None else _mask(frames, context.shape[1], num_frames),
        )

    def use_plain_attention(self) -> None:
        """The same numbers by another kernel, which trains faster on a CPU."""
        processor = cast(Any, PlainAttention())  # diffusers' own type is a closed list
        for block in self.blocks:
            cast(FluxAttention, block.attn).set_processor(processor)

    @property
    def blocks(self) -> list[nn.Module]:
        return [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]

    def _run(self, block: nn.Module, *inputs) -> tuple[Float[Tensor, "S N D"], Float[Tensor, "S T D"]]:
        if not torch.is_grad_enabled():
            return block(*inputs)
        if self.transformer.gradient_checkpointing:
            context, hidden = checkpoint(block, *inputs, use_reentrant=False)
        else:
            context, hidden = block(*inputs)
        # Single blocks give slices of one tensor, for whose strides a compiled block would be compiled again.
        return context.contiguous(), hidden.contiguous()

    def num_frames(self, seconds: float) -> int:
        """How many latent frames to denoise for a clip of `seconds`."""
        if not 0 < seconds <= self.max_seconds:
            raise ValueError(f"a clip lasts more than 0 and up to {self.max_seconds} s, not {seconds}; split the event")
        return self.fixed_frames or math.ceil(seconds * self.frame_rate - 1e-6)


class DurationEmbedder(nn.Module):
    """A duration as one token of width C: learned Fourier features of seconds / max_seconds, then a linear map.

    Durations are clamped to [0, max_seconds] (SPEC 7) and their phases computed in float32: half precision would round
    them to tens of milliseconds.
    """

    def __init__(self, width: int, max_seconds: float, num_frequencies: int = 128):
        super().__init__()
        self.max_seconds = max_seconds
        self.frequencies = nn.Parameter(torch.randn(num_frequencies))
        self.projection = nn.Linear(1 + 2 * num_frequencies, width)

    def forward(self, seconds: Float[Tensor, " S"]) -> Float[Tensor, "S C"]:
        share = seconds.float().clamp(0, self.max_seconds)[:, None] / self.max_seconds  # [S 1]
        phase = 2 * math.pi * share * self.frequencies.float()
        features = torch.cat([share, phase.sin(), phase.cos()], dim=1)
        return self.projection(features.to(self.projection.weight.dtype))


def guided_velocity(
    dit: VelocityDiT,
    condition: Condition,
    unconditional: Float[Tensor, "N C"],
    guidance: float | None,
    frames: Int[Tensor, " S"] | None = None,
) -> flow.Velocity:
    """The velocity that `flow.solve` follows, for all S clips at once; what the network makes of their condition alone
    is computed at the first step.

    With guidance above 1 every call is one forward over 2 S clips, the unconditional half first; both halves are told
    the same seconds (SPEC 7). Without, or with guidance of 1 or less, the condition is simply followed.
    """
    if guidance is None or guidance <= 1:
        once = cache(lambda num_frames: dit.prepare(condition, num_frames, frames))
        return lambda latents, sigma: dit(latents, sigma, once(latents.shape[1]))
    both = Condition(
        tokens=torch.cat([unconditional.to(condition.tokens).expand_as(condition.tokens), condition.tokens]),
        seconds=condition.seconds.repeat(2),
    )
    both_frames = None if frames is None else frames.repeat(2)
    once = cache(lambda num_frames: dit.prepare(both, num_frames, both_frames))

    def velocity(latents: Float[Tensor, "S T Z"], sigma: Float[Tensor, " 1"]) -> Float[Tensor, "S T Z"]:
        halves = dit(latents.repeat(2, 1, 1), sigma, once(latents.shape[1])).chunk(2)
        return flow.guide(*halves, scale=guidance)

    return velocity


def denoise(
    dit: VelocityDiT,
    noise: Sequence[Float[Tensor, "_ Z"]],
    condition: Condition,
    unconditional: Float[Tensor, "N C"],
    *,
    steps: int,
    guidance: float | None,
    solver: str = "euler",
    on_step: flow.OnStep | None = None,
) -> list[Float[Tensor, "_ Z"]]:
    """The latents of S clips of any lengths from their noise, all at once: shorter ones are padded, and what pads them
    is attended to by none. `steps`, `solver` and `on_step` as in `flow.solve`."""
    device = condition.tokens.device
    frames = [len(clip) for clip in noise]
    own = None if min(frames) == max(frames) else torch.tensor(frames, device=device)
    velocity = guided_velocity(dit, condition, unconditional, guidance, own)
    latents = flow.solve(velocity, pad_sequence(list(noise), batch_first=True).to(device), steps, solver, on_step)
    return [clip[:count] for clip, count in zip(latents, frames, strict=True)]


def _positions(num_tokens: int, num_frames: int, device: torch.device) -> Int[Tensor, "{num_tokens}+{num_frames} 3"]:
    """Rotary positions: frame i is at (i, i, i), and every condition token at (0, 0, 0), so those carry no order."""
    frames = torch.arange(num_frames, device=device)
    return F.pad(frames, (num_tokens, 0))[:, None].expand(-1, 3)


def _mask(frames: Int[Tensor, " S"], num_tokens: int, num_frames: int) -> Bool[Tensor, "S {num_tokens}+{num_frames}"]:
    """Which keys may be attended to: every condition token, and the clip's own frames."""
    own = torch.arange(num_frames, device=frames.device) < frames[:, None]
    return F.pad(own, (num_tokens, 0), value=True)


def _zero_modulation(flux: FluxTransformer2DModel) -> None:
    modulations = (AdaLayerNormZero, AdaLayerNormZeroSingle, AdaLayerNormContinuous)
    for layer in (*(norm.linear for norm in flux.modules() if isinstance(norm, modulations)), flux.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
