"""Which clips are denoised together."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.model.batching import batches_of_like_length, call_overhead

LENGTHS = st.lists(st.integers(1, 300), max_size=7)


def cost(batches: list[list[int]], frames: list[int], overhead: int) -> int:
    return sum(overhead + len(batch) * max(frames[number] for number in batch) for batch in batches)


@given(LENGTHS, st.integers(1, 1000), st.integers(0, 400))
def test_every_clip_is_in_one_batch_and_none_is_too_large(frames: list[int], most: int, overhead: int):
    batches = batches_of_like_length(frames, most=most, overhead=overhead)
    assert sorted(number for batch in batches for number in batch) == list(range(len(frames)))
    assert all(len(batch) == 1 or len(batch) * max(frames[n] for n in batch) <= most for batch in batches)


@settings(max_examples=30)
@given(LENGTHS, st.integers(0, 400))
def test_no_other_cut_of_the_clips_in_their_order_costs_less(frames: list[int], overhead: int):
    order = sorted(range(len(frames)), key=lambda number: frames[number])
    got = cost(batches_of_like_length(frames, most=10**6, overhead=overhead), frames, overhead)
    places = range(1, len(order))
    for cuts in (cuts for count in range(len(order)) for cuts in combinations(places, count)):
        ends = [0, *cuts, len(order)]
        others = [order[start:stop] for start, stop in pairwise(ends)]
        assert got <= cost(others, frames, overhead)


def test_a_dear_call_takes_all_and_a_cheap_one_those_of_a_length():
    frames = [50, 120, 52, 118]
    assert batches_of_like_length(frames, most=10**6, overhead=1000) == [[0, 2, 3, 1]]
    assert batches_of_like_length(frames, most=10**6, overhead=35) == [[0, 2], [3, 1]]
    assert batches_of_like_length(frames, most=10**6, overhead=0) == [[0], [2], [3], [1]]
    assert sorted(map(len, batches_of_like_length([100] * 5, most=200, overhead=10**6))) == [1, 2, 2]


@pytest.mark.parametrize(
    ("device", "dtype", "least"), [("cpu", "float32", 0), ("cpu", "bfloat16", 100), ("cuda", "float32", 10**5)]
)
def test_a_call_is_dearer_where_products_are_faster(device: str, dtype: str, least: int):
    assert call_overhead(torch.device(device), getattr(torch, dtype)) > least
