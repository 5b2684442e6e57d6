import numpy as np
import pytest

from audiostory.dataset.mixture import BatchLimits, BatchPlan, Mixture, seed_of


def plan(seed: int = 0, same_frames: bool = False, **limits) -> BatchPlan:
    random = np.random.default_rng(1)
    return BatchPlan(
        tokens=random.integers(50, 600, 200),
        frames=random.integers(20, 40, 200),
        clips=random.integers(1, 6, 200),
        limits=BatchLimits(**limits),
        seed=seed,
        same_frames=same_frames,
    )


def epoch(batches: BatchPlan) -> list[list[int]]:
    taken, index = [], 0
    while sum(map(len, taken)) < 200:
        taken.append(batches.rows(index))
        index += 1
    return taken


def test_every_row_comes_once_in_an_epoch():
    assert sorted(row for batch in epoch(plan(tokens=3000)) for row in batch) == list(range(200))


def test_no_batch_is_over_a_limit():
    batches = plan(rows=8, tokens=3000, frames=900)
    for rows in epoch(batches):
        assert len(rows) <= 8
        if len(rows) > 1:
            assert len(rows) * batches.tokens[rows].max() <= 3000
            assert batches.clips[rows].sum() * batches.frames[rows].max() <= 900


def test_rows_of_like_length_come_together():
    batches = plan(tokens=3000)
    padded = sum(len(rows) * batches.tokens[rows].max() for rows in epoch(batches))
    assert batches.tokens.sum() / padded > 0.85


def test_a_batch_of_the_same_frames_needs_no_padding():
    batches = plan(same_frames=True, rows=8)
    assert all(len(set(batches.frames[rows].tolist())) == 1 for rows in epoch(batches))


def test_any_batch_can_be_had_at_once():
    walked = plan(tokens=3000)
    in_order = [walked.rows(index) for index in range(150)]
    fresh = plan(tokens=3000)
    assert [fresh.rows(index) for index in (149, 3, 77)] == [in_order[index] for index in (149, 3, 77)]


def test_seed_and_epoch_change_the_order():
    first, other = epoch(plan(0, tokens=3000)), epoch(plan(1, tokens=3000))
    assert first != other
    batches = plan(0, tokens=3000)
    assert [batches.rows(len(first) + index) for index in range(len(first))] != first


def test_an_empty_data_set_says_so():
    with pytest.raises(ValueError, match="no rows"):
        BatchPlan(tokens=[], frames=[], clips=[], limits=BatchLimits(), seed=0)


class Named:
    def __init__(self, name: str):
        self.name = name

    def batch(self, index: int) -> tuple[str, int]:
        return self.name, index


def test_a_mixture_keeps_its_shares_exactly_at_every_step():
    mixture = Mixture({"a": Named("a"), "b": Named("b"), "c": Named("c")}, {"a": 2, "b": 1, "c": 0.5})
    drawn = [mixture[step][0] for step in range(700)]
    for name, share in (("a", 4 / 7), ("b", 2 / 7), ("c", 1 / 7)):
        assert all(abs(drawn[:step].count(name) - share * step) < 1 for step in range(700))


def test_a_mixture_gives_each_source_its_batches_in_order_wherever_it_begins():
    def mixture() -> Mixture:
        return Mixture({"a": Named("a"), "b": Named("b")}, {"a": 2, "b": 1})

    whole = [mixture()[step] for step in range(30)]
    assert [index for name, index in whole if name == "b"] == list(range(10))
    assert mixture()[17] == whole[17]


def test_a_mixture_names_what_it_does_not_have():
    with pytest.raises(ValueError, match="names noise"):
        Mixture({"a": Named("a")}, {"noise": 1})
    with pytest.raises(ValueError, match="positive"):
        Mixture({"a": Named("a")}, {"a": 0})


def test_seeds_differ_by_every_part():
    assert len({seed_of(0, "a", 1), seed_of(0, "a", 2), seed_of(0, "b", 1), seed_of(1, "a", 1)}) == 4
