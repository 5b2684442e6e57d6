"""From the planner's states to the DiT's condition: two projectors and a cross-attention fuser.

Semantic tokens say what is heard and carry the condition; residual tokens say how it sounds and are mixed in by
attention. The same `forward` serves training and playing (SPEC 5), so there is only one way to apply the feature scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from audiostory.model.inputs import BridgeTokens

FUSIONS = ("zero_init", "random_init", "concatenation", "none")


@dataclass(frozen=True, kw_only=True)
class Bridged:
    """`semantic_prediction` is compared with `Bridge.semantic_target`; `fused` becomes `Condition.tokens`."""

    semantic_prediction: Float[Tensor, "S M C"]
    fused: Float[Tensor, "S N C"]


class Bridge(ModelMixin, ConfigMixin):
    """Projects both kinds of bridge tokens to width C and fuses them into N condition tokens per event; N is M.

    `feature_scale` is the s of SPEC 5: the planner's side works at s times the size of the text encoder's states.
    `unconditional` holds the text encoder's output for the empty text. It is the other half of guidance, and with it in
    the checkpoint nobody needs the text encoder to play. It is zero until training copies it in.
    `fusion` is "zero_init", the system's own, or one of the paper's ablations (figure 11 and table 6): "random_init" starts the
    fuser's output elsewhere than at zero, "concatenation" gives the DiT M + R tokens instead of fusing, "none" leaves
    the residual tokens out.
    `release_training_formula` fuses as the release's published training code does. That contradicts the release's own
    inference unless s = 1 and is here for the golden training test only.
    """

    @register_to_config
    def __init__(
        self,
        *,
        planner_width: int,
        condition_width: int,
        num_semantic: int,
        num_residual: int,
        feature_scale: float,
        num_heads: int = 8,
        fusion: str = "zero_init",
        release_training_formula: bool = False,
    ):
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is one of {', '.join(FUSIONS)}, got {fusion!r}")
        self.fusion = fusion
        self.num_semantic, self.num_residual, self.feature_scale = num_semantic, num_residual, feature_scale
        self.release_training_formula = release_training_formula
        self.semantic_projector = _projector(planner_width, condition_width)
        if fusion != "none":
            self.residual_projector = _projector(planner_width, condition_width)
        if fusion in ("zero_init", "random_init"):
            self.fuser = nn.MultiheadAttention(condition_width, num_heads, batch_first=True)
        if fusion == "zero_init":
            nn.init.zeros_(self.fuser.out_proj.weight)  # so that training starts from the semantic tokens alone
            nn.init.zeros_(self.fuser.out_proj.bias)
        num_tokens = num_semantic + (num_residual if fusion == "concatenation" else 0)
        self.unconditional: Float[Tensor, "N C"]
        self.register_buffer("unconditional", torch.zeros(num_tokens, condition_width))

    def forward(self, tokens: BridgeTokens) -> Bridged:
        """p and (p + A(p, a)) / s, p and a being the projected semantic and residual tokens; in the weights' dtype."""
        counts = tokens.semantic.shape[1], tokens.residual.shape[1]
        assert counts == (self.num_semantic, self.num_residual), f"{counts} semantic and residual tokens per event"
        semantic = self.semantic_projector(tokens.semantic.to(self.dtype))  # [S M C]
        if self.fusion == "none":
            return Bridged(semantic_prediction=semantic, fused=semantic / self.feature_scale)
        residual = self.residual_projector(tokens.residual.to(self.dtype))  # [S R C]
        if self.release_training_formula:
            semantic, residual = semantic / self.feature_scale, residual / self.feature_scale
        if self.fusion == "concatenation":
            return Bridged(semantic_prediction=semantic, fused=torch.cat([semantic, residual], 1) / self.feature_scale)
        attended, _ = self.fuser(semantic, residual, residual, need_weights=False)  # [S M C]
        return Bridged(semantic_prediction=semantic, fused=(semantic + attended) / self.feature_scale)

    @torch.no_grad()
    def set_unconditional(self, states: Float[Tensor, "M C"]) -> None:
        """Takes the text encoder's states of the empty text; beside concatenated residual tokens, whose place stays zero."""
        self.unconditional[: self.num_semantic] = states

    def semantic_target(self, teacher: Float[Tensor, "S M C"]) -> Float[Tensor, "S M C"]:
        """What the semantic prediction should be, from the text encoder's states of the captions."""
        return self.feature_scale * teacher


def _projector(planner_width: int, condition_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(planner_width, condition_width), nn.GELU(), nn.Linear(condition_width, condition_width)
    )
