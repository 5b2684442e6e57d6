import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiostory.dataset.mixture import BatchLimits, BatchPlan, Mixture, deal, seed_of


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


def test_the_order_of_batches_is_the_one_that_models_were_trained_in():
    batches = plan(3, tokens=3000, frames=900)
    assert seed_of(*(row for index in range(150) for row in batches.rows(index))) == 3418131802572157698
    alike = plan(3, same_frames=True, rows=8)
    assert seed_of(*(row for index in range(150) for row in alike.rows(index))) == 3037441950565439685


@pytest.mark.parametrize("same_frames", [False, True])
@given(pieces=st.integers(2, 40), rows=st.integers(1, 60), tokens=st.integers(100, 20000), index=st.integers(0, 60))
def test_the_pieces_of_a_batch_are_the_batch(same_frames, pieces, rows, tokens, index):
    batches = plan(1, same_frames, rows=rows, tokens=tokens)
    dealt = [batches.rows(index, piece, pieces) for piece in range(pieces)]
    assert all(dealt)
    whole = sorted(row for rows in dealt for row in rows)
    assert whole == sorted(set(whole))
    assert whole == sorted(batches._batches[index - batches._first])


@pytest.mark.parametrize("same_frames", [False, True])
def test_every_row_comes_once_in_an_epoch_of_pieces(same_frames):
    batches = plan(0, same_frames, rows=10, tokens=3000)
    seen, index = [], 0
    while len(seen) < 200:
        for piece in range(7):
            seen += batches.rows(index, piece, 7)
        index += 1
    assert sorted(seen) == list(range(200))


def test_batches_are_the_same_however_many_pieces_they_are_cut_into():
    """As long as each has enough rows for them."""
    whole = plan(tokens=5000)
    batches = epoch(whole)
    assert min(map(len, batches)) >= 5
    for pieces in (2, 5):
        cut = plan(tokens=5000)
        for index in range(len(batches)):
            union = {row for piece in range(pieces) for row in cut.rows(index, piece, pieces)}
            assert union == set(whole.rows(index))


def test_a_batch_outgrows_its_limits_rather_than_leave_a_piece_empty():
    batches = plan(rows=2)
    for index in range(60):
        sizes = [len(batches.rows(index, piece, 5)) for piece in range(5)]
        assert min(sizes) >= 1
        assert sum(sizes) < 10


def test_fewer_rows_than_pieces_are_refused():
    batches = BatchPlan(tokens=[5, 6, 7], frames=[0] * 3, clips=[1] * 3, limits=BatchLimits(), seed=0)
    assert sorted(row for piece in range(3) for row in batches.rows(0, piece, 3)) == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="cut into 4 pieces, but there are only 3 rows in a data set"):
            batches.rows(0, 0, 4)


@given(pieces=st.integers(1, 6), index=st.integers(0, 80), windowed=st.booleans())
def test_rows_of_different_kinds_never_share_a_batch(pieces, index, windowed):
    random = np.random.default_rng(4)
    kinds = random.choice([0, 1, 3], 200, p=[0.2, 0.1, 0.7])
    batches = BatchPlan(
        tokens=random.integers(50, 600, 200),
        frames=random.integers(20, 40, 200),
        clips=kinds // 2,
        limits=BatchLimits(rows=9, tokens=3000),
        seed=0,
        kinds=kinds,
        shards=[20] * 10 if windowed else None,
        window=3,
    )
    rows = batches.whole(index, pieces)
    assert len(set(kinds[rows])) == 1
    assert len(rows) >= pieces


def test_too_few_rows_of_a_kind_are_refused():
    def few(shards: list[int] | None) -> BatchPlan:
        sizes = {"tokens": [9] * 40, "frames": [0] * 40, "clips": [0] * 40, "kinds": [1] * 2 + [0] * 38}
        return BatchPlan(**sizes, limits=BatchLimits(rows=8), seed=0, shards=shards, window=1)

    with pytest.raises(ValueError, match="only 2 rows of one kind"):
        few(None).rows(0, 0, 4)
    passed_over = few([20, 20])
    assert {0, 1}.isdisjoint(row for index in range(20) for row in passed_over.whole(index, 4))


@given(costs=st.lists(st.integers(0, 500), min_size=1, max_size=60), pieces=st.integers(1, 60))
def test_dealt_parts_are_of_like_cost_and_of_rows_that_are_alike(costs, pieces):
    if len(costs) < pieces:
        with pytest.raises(ValueError, match="expected a row for each"):
            deal(range(len(costs)), costs, pieces)
        return
    parts = deal(range(len(costs)), costs, pieces)
    assert sorted(row for part in parts for row in part) == list(range(len(costs)))
    assert all(parts)
    assert max(sum(costs[row] for row in part) for part in parts) <= sum(costs) / pieces + max(costs)
    along = [costs[row] for part in parts for row in part]
    assert along == sorted(along)


def test_rows_of_one_cost_are_dealt_evenly():
    assert sorted(map(len, deal(range(10), [7] * 10, 4))) == [2, 2, 3, 3]
    assert deal("abcd", [1, 1, 1, 3], 2) == [["a", "b", "c"], ["d"]]


def test_pieces_of_a_step_are_padded_hardly_more_than_their_rows_are_long():
    """Each to its own longest: cutting a batch costs no padding, it saves some."""
    batches = plan(tokens=20000, rows=100)

    def room(parts: list[list[int]]) -> int:
        return sum(len(rows) * batches.tokens[rows].max() for rows in parts)

    whole, cut = 0, 0
    for index in range(30):
        parts = [batches.rows(index, piece, 4) for piece in range(4)]
        whole, cut = whole + room([[row for rows in parts for row in rows]]), cut + room(parts)
    assert cut < whole


class Named:
    def __init__(self, name: str):
        self.name = name

    def batch(self, index: int, piece: int = 0, pieces: int = 1) -> tuple[str, int]:
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


class Pieces:
    def batch(self, index: int, piece: int = 0, pieces: int = 1) -> tuple[int, int, int]:
        return index, piece, pieces


def test_a_step_of_a_mixture_takes_all_its_pieces_from_one_source():
    mixture = Mixture({"a": Pieces(), "b": Pieces()}, {"a": 2, "b": 1}, pieces=3)
    assert [mixture[item] for item in range(9)] == [(step, piece, 3) for step in (0, 0, 1) for piece in range(3)]
    assert [mixture.turn(step) for step in range(3)] == [(0, 0), (1, 0), (0, 1)]
