"""The whole network in training: a batch goes in, losses by name come out. Last hop of a training sample's walk.

`AudioStory` is the system of the paper: planner, bridge and DiT, learning end to end. `TextToAudio` is what the DiT
learns first: single clips, from the text encoder's states. Both descend the same flow loss. Which parameters learn and
what each loss weighs is the stage's business. `forward` is `losses`: wrappers for distributed training hook into it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from audiostory.model import flow
from audiostory.model.bridge import Bridge
from audiostory.model.dit import VelocityDiT
from audiostory.model.inputs import BridgeTokens, ClipBatch, Condition, Losses, StoryBatch
from audiostory.model.listener import ListenerProjector
from audiostory.model.planner import Planner
from audiostory.model.text_encoder import TextEncoder
from audiostory.story.types import Role

REASON_PARTS = ("reason_count", "reason_content", "reason_caption")
LEARNT_ROLES = {
    "text": (Role.MARKER, Role.HEARD, Role.ANSWER),
    "answer": (Role.ANSWER,),
    "reason_count": (Role.EVENT_COUNT,),
    "reason_content": (Role.CONTENT,),
    "reason_caption": (Role.CAPTION,),
}
LOSSES = ("semantic", "residual", "flow", "reason", *LEARNT_ROLES)


class AudioStory(nn.Module):
    """Planner, bridge and DiT as one differentiable whole.

    An event's condition is dropped with probability `condition_dropout`: all its fused tokens become the bridge's
    unconditional ones, so that guidance knows both (the duration stays, SPEC 7). `sigma_distribution`: see `flow`.
    """

    def __init__(
        self,
        planner: Planner,
        bridge: Bridge,
        dit: VelocityDiT,
        listener_projector: ListenerProjector | None = None,
        *,
        condition_dropout: float = 0.1,
        sigma_distribution: str = "uniform",
    ):
        super().__init__()
        self.planner, self.bridge, self.dit, self.listener_projector = planner, bridge, dit, listener_projector
        self.condition_dropout, self.sigma_distribution = condition_dropout, sigma_distribution

    def losses(
        self, batch: StoryBatch, generator: torch.Generator | None = None, wanted: Collection[str] | None = None
    ) -> Losses:
        """The losses named in `wanted`, or all of LOSSES; those that the batch holds nothing for are named as absent.

        semantic: the projected semantic tokens against the scaled teacher, over all M positions; with a bridge that has
        a head for it, its output against the clip's features. residual: likewise, with R means of those features, and
        absent without such a head (paper, table 5). flow: see `flow_loss`.
        text, reason_count, reason_content, reason_caption: cross entropy per token, each over its own roles; reason is
        the sum of its three parts (paper, section 4). answer: cross entropy per answer, which is the mean over its
        tokens, so that a yes weighs as much as a long caption. What is not wanted is not computed: without flow the DiT
        does not run. ValueError for a name that is no loss.
        """
        wanted = set(LOSSES if wanted is None else wanted)
        if unknown := sorted(wanted - set(LOSSES)):
            raise ValueError(f"there is no loss {', '.join(unknown)}; there are {', '.join(LOSSES)}")
        states = self.planner.states(batch.ids, self.heard(batch))  # [B L H]
        named = self._token_losses(states, batch, wanted)
        taught = batch.teacher if self.bridge.semantic_head is None else batch.clip_features
        teacher = taught if "semantic" in wanted else None
        heard = batch.clip_features if "residual" in wanted and self.bridge.residual_head is not None else None
        latents = batch.latents if "flow" in wanted else None
        if len(batch.event_row) and not (teacher is None and heard is None and latents is None):
            bridged = self.bridge(gather(states, batch))
            if teacher is not None:
                target = self.bridge.semantic_target(teacher)
                named["semantic"] = nn.functional.mse_loss(bridged.semantic_prediction.float(), target.float())
            if heard is not None:
                assert bridged.residual_prediction is not None
                target = self.bridge.residual_target(heard)
                named["residual"] = nn.functional.mse_loss(bridged.residual_prediction.float(), target.float())
            if latents is not None:
                draws = draw(latents, self.condition_dropout, self.sigma_distribution, generator)
                tokens = torch.where(draws.dropped[:, None, None], self.bridge.unconditional, bridged.fused)
                condition = Condition(tokens=tokens, seconds=batch.seconds)
                named["flow"] = flow_loss(self.dit, latents, batch.frames, condition, draws)
        return Losses(named=named, absent=wanted - set(named))

    forward = losses

    def compilable_blocks(self) -> list[nn.Module]:
        """What to compile, one by one, when training is to be compiled: alike blocks share their code."""
        return [*self.planner.qwen.model.layers, *self.dit.blocks]

    def heard(self, batch: StoryBatch) -> Float[Tensor, "B L H"] | None:
        """The embeddings with the recordings at their places; None when the instructions are words alone.

        ValueError when a model without a listener is given recordings.
        """
        if batch.audio_features is None:
            return None
        if self.listener_projector is None:
            raise ValueError(
                f"the rows {', '.join(batch.sample_ids[:3])} ... hold recordings, and the model has no "
                "listener_projector; give it one, or leave those rows out"
            )
        assert batch.audio_row is not None
        assert batch.audio_slots is not None
        embeddings = self.planner.embed(batch.ids)
        tokens = self.listener_projector(batch.audio_features).to(embeddings.dtype)  # [N K H]
        return embeddings.index_put((batch.audio_row[:, None], batch.audio_slots), tokens)

    def _token_losses(
        self, states: Float[Tensor, "B L H"], batch: StoryBatch, wanted: set[str]
    ) -> dict[str, Float[Tensor, ""]]:
        """The state at position i - 1 predicts the id at i. Only states that predict a learnt token become logits."""
        names = [name for name in LEARNT_ROLES if name in wanted or ("reason" in wanted and name in REASON_PARTS)]
        roles = batch.roles[:, 1:]
        learnt = _is_any(roles, [role for name in names for role in LEARNT_ROLES[name]])  # [B L-1]
        if not learnt.any():
            return {}
        logits = self.planner.logits(states[:, :-1][learnt]).float()  # [K vocabulary]
        errors = nn.functional.cross_entropy(logits, batch.ids[:, 1:][learnt], reduction="none")
        chosen = {name: _is_any(roles[learnt], LEARNT_ROLES[name]) for name in names}
        named = {name: errors[rows].mean() for name, rows in chosen.items() if rows.any()}
        if "answer" in named:
            own = chosen["answer"]
            named["answer"] = _mean_of_means(errors[own], learnt.nonzero()[:, 0][own], len(roles))
        if "reason" in wanted and (parts := [named[name] for name in REASON_PARTS if name in named]):
            named["reason"] = torch.stack(parts).sum()
        return {name: loss for name, loss in named.items() if name in wanted}


class TextToAudio(nn.Module):
    """Text encoder and DiT: the flow loss on single clips with their captions. A dropped condition is the text ""."""

    def __init__(
        self,
        text_encoder: TextEncoder,
        dit: VelocityDiT,
        *,
        condition_dropout: float = 0.1,
        sigma_distribution: str = "uniform",
    ):
        super().__init__()
        self.text_encoder, self.dit = text_encoder, dit
        self.condition_dropout, self.sigma_distribution = condition_dropout, sigma_distribution

    def losses(self, batch: ClipBatch, generator: torch.Generator | None = None) -> Losses:
        """{"flow"}. The text is dropped before it is encoded, so the encoder learns the empty text too."""
        draws = draw(batch.latents, self.condition_dropout, self.sigma_distribution, generator)
        empty = self.text_encoder.tokenize([""], batch.text_ids.shape[1])
        empty_ids, empty_attention = (tensor.to(batch.text_ids.device) for tensor in empty)
        dropped = draws.dropped[:, None]
        ids = torch.where(dropped, empty_ids, batch.text_ids)
        attention = torch.where(dropped, empty_attention, batch.text_attention)
        condition = Condition(tokens=self.text_encoder(ids, attention), seconds=batch.seconds)
        return Losses(named={"flow": flow_loss(self.dit, batch.latents, batch.frames, condition, draws)})

    forward = losses

    def compilable_blocks(self) -> list[nn.Module]:
        return self.dit.blocks


def gather(states: Float[Tensor, "B L H"], batch: StoryBatch) -> BridgeTokens:
    """Each event's states at its own bridge tokens, whichever row it stands in."""
    row = batch.event_row[:, None]
    return BridgeTokens(semantic=states[row, batch.semantic_slots], residual=states[row, batch.residual_slots])


@dataclass(frozen=True, kw_only=True)
class Draws:
    """All that chance decides in one flow loss."""

    noise: Float[Tensor, "S T Z"]
    sigma: Float[Tensor, " S"]
    dropped: Bool[Tensor, " S"]  # whose condition is left out


def draw(
    latents: Float[Tensor, "S T Z"],
    condition_dropout: float,
    sigma_distribution: str,
    generator: torch.Generator | None = None,
) -> Draws:
    """Noise first, then sigma, as the release draws them (SPEC 6); then who is dropped: the release never drops."""
    device = latents.device
    source = device if generator is None else generator.device  # a CPU generator gives every machine the same draws
    noise = torch.randn(latents.shape, generator=generator, device=source).to(device)
    sigma = flow.sample_sigma(len(latents), sigma_distribution, generator).to(device)
    dropped = (torch.rand(len(latents), generator=generator, device=source) < condition_dropout).to(device)
    return Draws(noise=noise, sigma=sigma, dropped=dropped)


def flow_loss(
    dit: VelocityDiT,
    latents: Float[Tensor, "S T Z"],
    frames: Int[Tensor, " S"],
    condition: Condition,
    draws: Draws,
) -> Float[Tensor, ""]:
    """Squared error of the predicted velocity, float32, a mean over the clips' own frames; padding counts nowhere."""
    latents = latents.float()
    own = torch.arange(latents.shape[1], device=frames.device) < frames[:, None]  # [S T]
    noisy = flow.interpolate(latents, draws.noise, draws.sigma)
    velocity = dit(noisy, draws.sigma, condition, None if own.all() else frames)  # unmasked attention is faster
    error = (velocity.float() - flow.velocity_target(latents, draws.noise)).square().mean(-1)  # [S T]
    return error[own].mean()


def _mean_of_means(values: Float[Tensor, " K"], row: Int[Tensor, " K"], num_rows: int) -> Float[Tensor, ""]:
    """Over the rows that have values, each with its own mean."""
    counts = row.bincount(minlength=num_rows)
    return (values / counts[row]).sum() / (counts > 0).sum()


def _is_any(roles: Int[Tensor, ...], wanted: Collection[Role]) -> Bool[Tensor, ...]:
    return torch.isin(roles, torch.tensor(wanted, dtype=roles.dtype, device=roles.device))
