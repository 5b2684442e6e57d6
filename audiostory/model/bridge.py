"""From the planner's states to the DiT's condition: two projectors and a cross-attention fuser.

Semantic tokens say what is heard and carry the condition; residual tokens say how it sounds and are mixed in by
attention. The same `forward` serves training and playing (SPEC 5), so there is only one way to apply the feature scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from audiostory.model.inputs import BridgeTokens

FUSIONS = ("zero_init", "random_init", "concatenation", "none")


@dataclass(frozen=True, kw_only=True)
class Bridged:
    """`fused` becomes `Condition.tokens`; the predictions are compared with the targets that Bridge makes of a teacher.

    D is C where the teacher is the text encoder, as it is by default; nobody teaches the residual tokens by default.
    """

    semantic_prediction: Float[Tensor, "S M D"]
    fused: Float[Tensor, "S N C"]
    residual_prediction: Float[Tensor, "S R E"] | None = None


class Bridge(ModelMixin, ConfigMixin):
    """Projects both kinds of bridge tokens to width C and fuses them into N condition tokens per event; N is M.

    `feature_scale` is the s of SPEC 5: the planner's side works at s times the size of the text encoder's states.
    `unconditional` holds the text encoder's output for the empty text. It is the other half of guidance, and with it in
    the checkpoint nobody needs the text encoder to play. It is zero until training copies it in.
    `fusion` is "zero_init", the system's own, or one of the paper's ablations (figure 11 and table 6): "random_init"
    starts the fuser's output elsewhere than at zero, "concatenation" gives the DiT M + R tokens instead of fusing,
    "none" leaves the residual tokens out.
    `semantic_teacher_width` and `residual_teacher_width` are ablations too (table 5): an audio encoder of that width
    teaches those tokens by what it hears in the event's clip. A linear head brings them to its width, for the loss
    alone.
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
        semantic_teacher_width: int | None = None,
        residual_teacher_width: int | None = None,
        release_training_formula: bool = False,
    ):
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion is one of {', '.join(FUSIONS)}, got {fusion!r}")
        if fusion == "none" and residual_teacher_width is not None:
            raise ValueError("with fusion none the residual tokens lead nowhere, so nothing can teach them")
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
        self.semantic_head = _head(condition_width, semantic_teacher_width)
        self.residual_head = _head(condition_width, residual_teacher_width)
        num_tokens = num_semantic + (num_residual if fusion == "concatenation" else 0)
        self.unconditional: Float[Tensor, "N C"]
        self.register_buffer("unconditional", torch.zeros(num_tokens, condition_width))

    def forward(self, tokens: BridgeTokens) -> Bridged:
        """p and (p + A(p, a)) / s, p and a being the projected semantic and residual tokens; in the weights' dtype."""
        counts = tokens.semantic.shape[1], tokens.residual.shape[1]
        assert counts == (self.num_semantic, self.num_residual), f"{counts} semantic and residual tokens per event"
        semantic = self.semantic_projector(tokens.semantic.to(self.dtype))  # [S M C]
        if self.fusion == "none":
            return Bridged(semantic_prediction=self._semantic(semantic), fused=semantic / self.feature_scale)
        residual = self.residual_projector(tokens.residual.to(self.dtype))  # [S R C]
        if self.release_training_formula:
            semantic, residual = semantic / self.feature_scale, residual / self.feature_scale
        if self.fusion == "concatenation":
            fused = torch.cat([semantic, residual], 1)  # [S N C]
        else:
            attended, _ = self.fuser(semantic, residual, residual, need_weights=False)  # [S M C]
            fused = semantic + attended
        return Bridged(
            semantic_prediction=self._semantic(semantic),
            fused=fused / self.feature_scale,
            residual_prediction=None if self.residual_head is None else self.residual_head(residual),
        )

    @torch.no_grad()
    def set_unconditional(self, states: Float[Tensor, "M C"]) -> None:
        """Takes the text encoder's states of the empty text. The place of concatenated residual tokens stays zero."""
        self.unconditional[: self.num_semantic] = states

    def semantic_target(self, teacher: Float[Tensor, "S M D"]) -> Float[Tensor, "S M D"]:
        """What the semantic prediction should be, from the text encoder's states of the captions, or from the audio
        encoder's of the clips where that is what teaches: a head finds their scale by itself."""
        return teacher if self.semantic_head is not None else self.feature_scale * teacher

    def residual_target(self, clip_features: Float[Tensor, "S M E"]) -> Float[Tensor, "S R E"]:
        """What the residual prediction should be: of M means over a clip's time, R."""
        return nn.functional.adaptive_avg_pool1d(clip_features.mT, self.num_residual).mT

    def _semantic(self, projected: Float[Tensor, "S M C"]) -> Float[Tensor, "S M D"]:
        return projected if self.semantic_head is None else self.semantic_head(projected)

    @torch.no_grad()
    def changed(self, **settings: Any) -> Bridge:
        """A bridge of other settings with this one's weights. Heads that are new start fresh, from torch's generator,
        and so does a fuser when `fusion` is another: its start is what that says."""
        other = cast("Bridge", Bridge.from_config(self.config, **settings))
        kept = dict(self.named_parameters())
        for name, parameter in other.named_parameters():
            same = name in kept and kept[name].shape == parameter.shape
            if same and (other.fusion == self.fusion or not name.startswith("fuser.")):
                parameter.copy_(kept[name])
        other.set_unconditional(self.unconditional[: self.num_semantic])
        return other.train(self.training)


def _head(condition_width: int, teacher_width: int | None) -> nn.Linear | None:
    return None if teacher_width is None else nn.Linear(condition_width, teacher_width)


def _projector(planner_width: int, condition_width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(planner_width, condition_width), nn.GELU(), nn.Linear(condition_width, condition_width)
    )
