"""Linear layers with weights of 8 bits, for cards that a model's 16 or 32 bits do not fit.

Only weights are rounded, to 255 levels per output channel; activations keep their precision, so nothing has to be
calibrated. Embeddings, the planner's head, norms, the bridge and the codec stay as they are: together they are small,
or their errors are heard.

It is thirty lines of ours because torchao, where it is installed, greets every command with five warnings about kernels
that it cannot load beside our torch.
"""

from __future__ import annotations

from typing import NoReturn

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int8
from torch import Tensor, nn

from audiostory.model.dit import VelocityDiT
from audiostory.model.planner import Planner

LEVELS = 127  # on either side of zero


class Int8Linear(nn.Module):
    """A linear layer whose weight is kept in 8 bits with a scale for each of its outputs. It does not learn."""

    weight: Int8[Tensor, "O I"]
    scale: Float[Tensor, " O"]
    bias: Float[Tensor, " O"] | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach().float()
        # In float32 whatever the weight is in: float16 has too few numbers as small as this.
        scale = (weight.abs().amax(dim=1) / LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        levels = (weight / scale[:, None]).round().clamp(-128, 127)
        self.register_buffer("weight", levels.to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: Float[Tensor, "... I"]) -> Float[Tensor, "... O"]:
        # The weight itself again, in one kernel: sums of whole levels would be too large for float16.
        weight = torch.empty_like(self.weight, dtype=inputs.dtype)
        torch.mul(self.weight, self.scale[:, None], out=weight)
        return F.linear(inputs, weight, self.bias)


def weights_to_int8(planner: Planner, dit: VelocityDiT) -> None:
    """Changes both in place: from here on they tell stories, and neither learn nor are saved.

    ValueError for a planner whose LoRA is still apart.
    """
    if planner.has_lora:
        raise ValueError("the planner keeps its LoRA apart, to learn on; planner.merge_lora() before int8 weights")
    for block in (*planner.qwen.model.layers, *dit.blocks):
        _replace_linears(block)
    for part in (planner, dit):
        setattr(part, "save_pretrained", _refuse_to_save)  # noqa: B010  # of this one, not of its class


def num_bytes(module: nn.Module) -> int:
    """What the parameters and buffers hold."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _replace_linears(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            _replace_linears(child)


def _refuse_to_save(*_: object, **__: object) -> NoReturn:
    raise ValueError("weights of 8 bits are not saved; load the model again and save it before weights_to_int8")
