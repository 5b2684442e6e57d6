"""The keys and values of scripts that a planner writes together, each as far as it has come.

transformers' caches hold rows of equal length. Scripts that are written together reach their bridge blocks at different
steps, so their rows would need padding in the middle; here each row has a length of its own, and what is written after
it or read beyond it does not count. Used in place of transformers' own, it needs no padding after the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor


class RaggedCache:
    """`reserve` says whose tokens come next, `update` is what the layers of the network call with them."""

    def __init__(self, num_rows: int, device: torch.device):
        self._lengths = [0] * num_rows
        self._ends = torch.zeros(num_rows, dtype=torch.long, device=device)  # the lengths, where they are computed with
        self._layers: list[tuple[Tensor, Tensor]] = []  # [R room h D] each, zero where nothing was written yet
        self._rows, self._are_all = self._ends, True
        self._places, self._longest = self._ends[:, None], 0

    def reserve(
        self, rows: Int[Tensor, " r"], numbers: Sequence[int], num_tokens: int, own: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "r q"], Bool[Tensor, "r 1 q L"] | None]:
        """Positions of the next `num_tokens` tokens of some rows, and what each may attend to.

        `rows` are the rows' `numbers` on the device. Where only the first `own[i]` tokens of row i are its own, what
        pads it is overwritten later. The mask is None where the kernels need none: at the very beginning, or at a
        single token of rows of equal length.
        """
        starts = [self._lengths[number] for number in numbers]
        self._rows, self._are_all = rows, len(numbers) == len(self._lengths)
        self._places = self._ends[rows, None] + torch.arange(num_tokens, device=rows.device)
        self._longest = max(starts) + num_tokens
        counts = [num_tokens] * len(starts) if own is None else own
        self._ends[rows] += num_tokens if own is None else torch.tensor(own, device=rows.device)
        for number, start, count in zip(numbers, starts, counts, strict=True):
            self._lengths[number] = start + count
        if not any(starts) or (num_tokens == 1 and min(starts) == max(starts)):
            return self._places, None
        mask = torch.arange(self._longest, device=rows.device) <= self._places[:, None, :, None]
        return self._places, mask

    def update(
        self, keys: Float[Tensor, "r h q D"], values: Float[Tensor, "r h q D"], layer: int, *_: object
    ) -> tuple[Float[Tensor, "r h L D"], Float[Tensor, "r h L D"]]:
        """Keeps what a layer computed at the reserved places; all that its rows hold, up to the longest of them."""
        if layer == len(self._layers):
            rows, heads, width = len(self._lengths), keys.shape[1], keys.shape[3]
            self._layers.append((keys.new_zeros(rows, 0, heads, width), values.new_zeros(rows, 0, heads, width)))
        old_keys, old_values = self._layers[layer]
        self._layers[layer] = (self._put(old_keys, keys), self._put(old_values, values))
        return self._held(self._layers[layer][0]), self._held(self._layers[layer][1])

    def keep(self, numbers: Sequence[int]) -> None:
        """Lets go of all rows but these, which are counted from 0 again."""
        rows = torch.tensor(numbers, dtype=torch.long, device=self._ends.device)
        self._lengths, self._ends = [self._lengths[number] for number in numbers], self._ends[rows]
        self._layers = [(keys[rows], values[rows]) for keys, values in self._layers]

    def _put(self, kept: Float[Tensor, "R room h D"], new: Float[Tensor, "r h q D"]) -> Float[Tensor, "R _ h D"]:
        if (room := kept.shape[1]) < self._longest:  # doubled, so that what is copied stays in proportion
            kept = F.pad(kept, (0, 0, 0, 0, 0, 2 * self._longest - room))
        kept[self._rows[:, None], self._places] = new.transpose(1, 2)
        return kept

    def _held(self, kept: Float[Tensor, "R room h D"]) -> Float[Tensor, "r h L D"]:
        rows = kept if self._are_all else kept[self._rows]
        return rows[:, : self._longest].transpose(1, 2)
