"""Audio in the instruction: features of a frozen audio encoder become tokens that the planner reads as words.

So far the projector alone; its features are those of Whisper's encoder (SPEC 6).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn


class ListenerProjector(ModelMixin, ConfigMixin):
    """Pools a recording's features over time to `num_tokens` means and projects them to the planner's width H.

    The release's: 1500 frames of 1280 features from Whisper large (SPEC 1).
    """

    @register_to_config
    def __init__(self, *, audio_width: int, planner_width: int, num_tokens: int):
        super().__init__()
        self.num_tokens = num_tokens
        self.projector = nn.Sequential(
            nn.Linear(audio_width, planner_width), nn.GELU(), nn.Linear(planner_width, planner_width)
        )

    def forward(self, features: Float[Tensor, "N T W"]) -> Float[Tensor, "N K H"]:
        """Tokens for N recordings of T frames each. T need not be a multiple of K: windows then overlap by a frame."""
        pooled = F.adaptive_avg_pool1d(features.to(self.dtype).mT, self.num_tokens).mT
        return self.projector(pooled)
