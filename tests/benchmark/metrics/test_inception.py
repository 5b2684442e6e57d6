"""The inception score: its bounds, a case by hand, and the parts' order."""

import numpy as np
import pytest
import torch

from audiostory.benchmark.metrics.inception import inception_score


def test_recordings_all_alike_score_1_and_sure_different_ones_the_number_of_classes():
    assert inception_score(np.tile(np.arange(6.0), (40, 1))).score.mean == pytest.approx(1.0)
    sure = 100 * np.eye(4)[np.arange(40) % 4]
    assert inception_score(sure, splits=1).score.mean == pytest.approx(4.0)


def test_two_recordings_have_the_known_score():
    """p = (3/4, 1/4) and (1/4, 3/4) around (1/2, 1/2): exp(3/4 log 3/2 + 1/4 log 1/2) for both."""
    logits = np.log([[0.75, 0.25], [0.25, 0.75]])
    known = np.exp(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert inception_score(logits, splits=1).score.mean == pytest.approx(known)


def test_it_is_what_torch_gives_part_by_part_in_the_order_of_the_seed():
    logits = np.random.default_rng(0).normal(size=(57, 9)) * 3
    rows = torch.as_tensor(logits)[np.random.RandomState(2020).permutation(57)]
    parts = []
    for part in range(10):
        chunk = rows[part * 57 // 10 : (part + 1) * 57 // 10].softmax(1)
        mean = torch.distributions.Categorical(chunk.mean(0))
        each = [torch.distributions.kl_divergence(torch.distributions.Categorical(row), mean) for row in chunk]
        parts.append(torch.stack(each).mean().exp().item())
    found = inception_score(logits)
    assert found.score.mean == pytest.approx(np.mean(parts), rel=1e-5)
    assert found.deviation == pytest.approx(np.std(parts), rel=1e-4)
    assert found.score.num == 10
    assert found.score.low < found.score.mean < found.score.high


def test_classes_that_are_never_heard_do_no_harm():
    logits = np.zeros((20, 3))
    logits[:, 2] = -2000.0
    assert inception_score(logits).score.mean == pytest.approx(1.0)


def test_too_few_recordings_and_broken_logits_are_refused():
    with pytest.raises(ValueError, match=r"at least 10 recordings; got \[9, 4\]"):
        inception_score(np.zeros((9, 4)))
    with pytest.raises(ValueError, match="not finite"):
        inception_score(np.full((10, 4), np.inf))
