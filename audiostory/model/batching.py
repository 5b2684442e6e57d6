"""Which clips are denoised together: a batch is as long as its longest clip, and a call costs something by itself.

On a GPU calls cost much and padding little, on a CPU the other way round, where products are fast (bfloat16) less so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# What a call of the network costs besides its frames, in frames of one clip. On a CPU measured with audiostory-mini,
# whose calls on 1 and 4 clips of 125 frames took 33 and 113 ms in float32, 26 and 53 ms in bfloat16 (two cores with
# AMX): 6.7 and 16.5 ms a call, 0.19 and 0.064 ms a frame. Larger networks have dearer frames, and clips of one length.
FLOAT32_CPU_OVERHEAD = 35
HALF_PRECISION_CPU_OVERHEAD = 250
GPU_OVERHEAD = 10**6  # as few calls as memory allows


def call_overhead(device: torch.device, dtype: torch.dtype) -> int:
    """For `batches_of_like_length`."""
    if device.type != "cpu":
        return GPU_OVERHEAD
    return FLOAT32_CPU_OVERHEAD if dtype == torch.float32 else HALF_PRECISION_CPU_OVERHEAD


def batches_of_like_length(frames: Sequence[int], *, most: int, overhead: int) -> list[list[int]]:
    """The numbers of the clips in each batch, the shortest first, such that all batches together cost least.

    A batch costs `overhead` and its frames, padding included, which are at most `most`; a clip above that goes alone.
    [50, 120, 52, 118] with an overhead of 35 is [[0, 2], [3, 1]], with one of 1,000 [[0, 2, 3, 1]].
    """
    order = sorted(range(len(frames)), key=lambda number: frames[number])
    costs, starts = [0], [0]  # of the cheapest batches of the first so many clips; where the last of them starts
    for stop, number in enumerate(order, 1):
        longest = frames[number]
        offers = {  # by where the batch that ends here may start
            start: costs[start] + overhead + longest * (stop - start)
            for start in range(stop)
            if start == stop - 1 or longest * (stop - start) <= most
        }
        starts.append(min(offers, key=offers.__getitem__))
        costs.append(offers[starts[-1]])
    batches, stop = [], len(order)
    while stop:
        batches.append(order[starts[stop] : stop])
        stop = starts[stop]
    return batches[::-1]
