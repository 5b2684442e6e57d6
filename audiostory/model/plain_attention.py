"""Attention of the DiT spelt out as two products and a softmax, in the stead of torch's fused kernel.

On a CPU the fused kernel's backward pass does not use the processor's bfloat16 units: over a hundred frames it takes
several times as long as the products that it saves (docs/PERFORMANCE.md). On a GPU the fused kernel is faster.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttention
from jaxtyping import Bool, Float
from torch import Tensor


class PlainAttention:
    """What diffusers' `FluxAttnProcessor` computes, for `FluxAttention.set_processor`: joint attention of context and
    latents where a context is given, else of one sequence. The mask says which keys may be attended to."""

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Float[Tensor, "S T D"],
        encoder_hidden_states: Float[Tensor, "S N D"] | None = None,
        attention_mask: Bool[Tensor, "S L"] | None = None,
        image_rotary_emb: tuple[Float[Tensor, "L A"], Float[Tensor, "L A"]] | None = None,
    ) -> Float[Tensor, "S T D"] | tuple[Float[Tensor, "S T D"], Float[Tensor, "S N D"]]:
        def heads(layer: torch.nn.Module, states: Tensor) -> Tensor:
            return layer(states).unflatten(-1, (-1, attn.head_dim))  # [S T H A]

        query, key, value = (heads(layer, hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v))
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            q, k, v = (heads(layer, encoder_hidden_states) for layer in layers)
            query = torch.cat([attn.norm_added_q(q), query], dim=1)
            key = torch.cat([attn.norm_added_k(k), key], dim=1)
            value = torch.cat([v, value], dim=1)
        if image_rotary_emb is not None:
            query, key = (_turned(states, image_rotary_emb) for states in (query, key))
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # [S H L A]
        scores = (attn.head_dim**-0.5 * query) @ key.mT
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask[:, None, None], -torch.inf)
        attended = (scores.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)  # [S L D]
        if encoder_hidden_states is None:
            return attended
        num_context = encoder_hidden_states.shape[1]
        context, latents = attended[:, :num_context], attended[:, num_context:]
        for layer in attn.to_out:
            latents = layer(latents)
        return latents, attn.to_add_out(context)


def _turned(states: Float[Tensor, "S L H A"], rotary: Any) -> Float[Tensor, "S L H A"]:
    return cast(Tensor, apply_rotary_emb(states, rotary, sequence_dim=1))
