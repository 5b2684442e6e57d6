import math
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import nn

from audiostory.training import optim
from audiostory.training.stages import Optimizer, Part, Stage


def stage(ema: bool = True, kind: Literal["adamw", "muon"] = "adamw", **settings) -> Stage:
    part = Part(learns=("*",), learning_rate=0.1, optimizer=kind, ema=ema)
    return Stage(
        name="s",
        teaches="",
        root="codec",
        parts={"all": part},
        losses={},
        mixture={},
        steps=10,
        optimizer=Optimizer(**settings),
    )


def test_the_rate_rises_stays_and_falls():
    settings = Optimizer(warmup_steps=10, plateau_share=0.4, final_share=0.1)
    factors = [optim.rate_factor(settings, step, 100) for step in range(100)]
    assert factors[0] == 0.1
    assert factors[9:40] == [1.0] * 31
    assert factors[70] == pytest.approx(0.1 + 0.9 * 0.5)
    assert factors[99] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 59 / 60)))
    assert all(later <= earlier for earlier, later in pairwise(factors[9:]))


def test_without_warm_up_or_fall_the_rate_is_constant():
    assert optim.rate_factor(Optimizer(warmup_steps=0, plateau_share=1.0), 0, 5) == 1.0
    assert optim.rate_factor(Optimizer(warmup_steps=0, plateau_share=1.0), 4, 5) == 1.0


def test_weight_decay_spares_vectors():
    module = nn.Linear(2, 2)
    settings = stage(weight_decay=0.3)
    optimizer = optim.optimizers(module, optim.open_parts(module, settings), settings)
    decays = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {(2, 2): 0.3, (2,): 0.0}


def test_muon_turns_matrices_and_leaves_tables_and_vectors_to_adamw():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))
    settings = stage(kind="muon", weight_decay=0.0)
    optimizer = optim.optimizers(module, optim.open_parts(module, settings), settings)
    held = {
        type(one).__name__: {tuple(p.shape) for group in one.param_groups for p in group["params"]}
        for one in optimizer.optimizers
    }
    assert held == {"AdamW": {(5, 4), (4,)}, "Muon": {(4, 4)}}
    linear = module[1]
    before = linear.weight.detach().clone()
    module(torch.arange(5)).square().sum().backward()
    optimizer.step()
    update = (before - linear.weight.detach()) / 0.1
    sizes = torch.linalg.svdvals(update) / (0.2 * 2)  # match_rms_adamw: 0.2 sqrt(4) times an orthogonal matrix
    assert sizes.min() > 0.5
    assert sizes.max() < 1.5


def test_averages_follow_and_can_be_put_in_place():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    averages = optim.Averages(optim.open_parts(module, stage(ema_decay=0.5)), stage(ema_decay=0.5))
    with torch.no_grad():
        module.weight.fill_(1.0)
    averages.update(1000)
    with averages.in_place():
        assert module.weight.item() == 0.5
    assert module.weight.item() == 1.0


def test_parts_that_ask_for_no_average_get_none():
    module = nn.Linear(1, 1)
    assert not optim.Averages(optim.open_parts(module, stage(ema=False)), stage(ema=False)).averaged
