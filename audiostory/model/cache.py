"""The keys and values of scripts that a planner writes together, each as far as it has come.

transformers' caches hold rows of equal length. Scripts that are written together reach their bridge blocks at different
steps, so their rows would need padding in the middle; here each row has a length of its own, and what is written after
it or read beyond it does not count. Used in place of transformers' own, it needs no padding after the prompts.

A compiled step of the network wants shapes that stay. FixedCache has them: as many rows and as much room at the end as
at the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int
from torch import Tensor


class RaggedCache:
    """`reserve` says whose tokens come next, `update` is what the layers of the network call with them."""

    def __init__(self, num_rows: int, device: torch.device, room: int = 0):
        self._room = room  # of every row, before it has to grow
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
        self, keys: Float[Tensor, "r h q D"], values: Float[Tensor, "r h q D"], layer: int, *_: object, **__: object
    ) -> tuple[Float[Tensor, "r h L D"], Float[Tensor, "r h L D"]]:
        """Keeps what a layer computed at the reserved places; all that its rows hold, up to the longest of them."""
        if layer == len(self._layers):
            shape = len(self._lengths), self._room, keys.shape[1], keys.shape[3]
            self._layers.append((keys.new_zeros(shape), values.new_zeros(shape)))
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


class FixedCache(RaggedCache):
    """Holds all rows for good, `room` tokens of each: `keep` only renumbers those that are still asked for.

    Besides a RaggedCache's way, in which prompts and blocks are taken in, single tokens go by steps: `step` has all
    rows go through the network, asked for or not, at fixed shapes. What is written of the others is overwritten.
    """

    def __init__(self, num_rows: int, device: torch.device, room: int):
        super().__init__(num_rows, device, room)
        self.num_rows, self.room = num_rows, room
        self.restart()

    def serves(self, num_rows: int, room: int, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether such scripts can be written with what is here."""
        return (num_rows, room, device) == (self.num_rows, self.room, self._ends.device) and all(
            keys.dtype == dtype for keys, _ in self._layers
        )

    def restart(self) -> None:
        """Forgets everything, and keeps the memory at its place, where a CUDA graph looks for it."""
        self._lengths = [0] * self.num_rows
        self._ends.zero_()
        self._numbers, self._asked = list(range(self.num_rows)), torch.arange(self.num_rows, device=self._ends.device)
        for keys, values in self._layers:  # what is masked out is multiplied by zero, and so has to be finite
            keys.zero_()
            values.zero_()

    def reserve(
        self, rows: Int[Tensor, " r"], numbers: Sequence[int], num_tokens: int, own: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "r q"], Bool[Tensor, "r 1 q L"] | None]:
        return super().reserve(self._asked[rows], [self._numbers[number] for number in numbers], num_tokens, own)

    def update(
        self, keys: Float[Tensor, "r h q D"], values: Float[Tensor, "r h q D"], layer: int, *_: object, **__: object
    ) -> tuple[Float[Tensor, "r h L D"], Float[Tensor, "r h L D"]]:
        is_new = layer == len(self._layers)
        held = super().update(keys, values, layer)
        if is_new:  # a CUDA graph writes into these themselves, and not into copies
            for kept in self._layers[layer]:
                torch._dynamo.mark_static_address(kept, guard=False)
        return held

    def keep(self, numbers: Sequence[int]) -> None:
        self._numbers = [self._numbers[number] for number in numbers]
        self._asked = self._asked[list(numbers)]

    def step(
        self, ids: Int[Tensor, "r 1"], rows: Int[Tensor, " r"], numbers: Sequence[int]
    ) -> tuple[Int[Tensor, "R 1"], Step, Int[Tensor, " r"]]:
        """The next id of some rows among those of all, what takes the place of this cache in the step, and where the
        rows then are among all."""
        places = self._ends.clamp(max=self.room - 1)[:, None]
        at = self._asked[rows]
        self._ends[at] += 1
        for number in numbers:
            self._lengths[self._numbers[number]] += 1
        return ids.new_zeros(self.num_rows, 1).index_copy_(0, at, ids), Step(self._layers, places), at


class Step:
    """One token of every row of a FixedCache, at shapes and addresses that stay as they are."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], places: Int[Tensor, "R 1"]):
        self.layers, self.places = layers, places

    def mask(self) -> Bool[Tensor, "R 1 1 room"]:
        room = self.layers[0][0].shape[1]
        return torch.arange(room, device=self.places.device) <= self.places[:, None, :, None]

    def update(
        self, keys: Float[Tensor, "R h 1 D"], values: Float[Tensor, "R h 1 D"], layer: int, *_: object, **__: object
    ) -> tuple[Float[Tensor, "R h room D"], Float[Tensor, "R h room D"]]:
        rows = torch.arange(len(keys), device=keys.device)[:, None]
        for kept, new in zip(self.layers[layer], (keys, values), strict=True):
            kept[rows, self.places] = new.transpose(1, 2)
        held_keys, held_values = self.layers[layer]
        return held_keys.transpose(1, 2), held_values.transpose(1, 2)
