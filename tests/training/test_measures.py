from dataclasses import replace

import pytest
import torch

from audiostory.model import tiny
from audiostory.model.inputs import Losses
from audiostory.training.measures import Measures
from audiostory.training.optim import TOTAL


def measured(step: int, loss: float, rows: tuple[str, ...] = ("a",), norm: float = 1.0, into: Measures | None = None):
    measures = into or Measures()
    batch = replace(tiny.story_batch(), sample_ids=rows)
    value = torch.tensor(loss)
    measures.add(step, batch, Losses(named={"flow": value, "text": 2 * value}), 3 * value)
    measures.norms[step] = {TOTAL: torch.tensor(norm), "dit": torch.tensor(norm / 2)}
    return measures


def test_a_stretch_is_told_by_its_means():
    measures = measured(0, 1.0)
    measured(1, 3.0, norm=3.0, into=measures)
    values = measures.summary().values()
    assert (values["loss"], values["loss/flow"], values["loss/text"]) == (6.0, 2.0, 4.0)
    assert (values["gradient_norm/total"], values["gradient_norm/dit"]) == (2.0, 1.0)


def test_padding_is_told_apart_for_tokens_and_frames():
    batch = tiny.story_batch()
    summary = measured(0, 1.0).summary()
    assert batch.latents is not None
    assert summary.values()["padding_share/tokens"] == pytest.approx(1 - batch.attention.float().mean().item())
    room = batch.latents.shape[0] * batch.latents.shape[1]
    assert summary.values()["padding_share/frames"] == pytest.approx(1 - int(batch.frames.sum()) / room)
    assert summary.audio_seconds == pytest.approx(float(batch.seconds.sum()))


def test_processes_are_told_as_one():
    summaries = [measured(0, 1.0).summary(), measured(0, 2.0).summary()]
    both = Measures.together(summaries)
    assert both.losses["flow"] == 1.5
    assert both.tokens == 2 * summaries[0].tokens
    assert both.steps == 1


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_a_step_that_is_not_finite_is_found_named_and_counts_no_longer(loss, norm):
    measures = measured(0, 1.0, ("good",))
    measured(1, loss, ("bad",), norm, into=measures)
    assert not measures.finite()
    (line,) = measures.not_finite()
    assert (line["step"], line["rows"]) == (1, ["bad"])
    measures.forget({1})
    assert measures.finite()
    assert measures.summary().losses["flow"] == 1.0
