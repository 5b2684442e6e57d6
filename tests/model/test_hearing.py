"""Learning to hear: who must find whom, in which span, and that the text encoder rests."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from audiostory.model import tiny
from audiostory.model.hearing import _inside
from audiostory.model.inputs import HearingBatch


def match(batch: HearingBatch, seed: int = 0) -> torch.Tensor:
    return tiny.hearing(seed)(batch).named["match"]


def test_the_loss_is_cross_entropy_both_ways_when_all_captions_differ():
    model, batch = tiny.hearing(), tiny.hearing_batch()
    ids, attention = tiny.text_encoder().tokenize(["a bell rings", "rain", "a dog"], 16)
    batch = replace(batch, text_ids=ids, text_attention=attention)
    heard = torch.nn.functional.normalize(model.audio_head(model._events(batch)), dim=1)
    states = model.text_encoder(ids, attention)
    said = torch.stack([row[own].mean(0) for row, own in zip(states, attention, strict=True)])
    scores = heard @ torch.nn.functional.normalize(model.text_head(said), dim=1).T / 0.07
    own = torch.arange(3)
    expected = [torch.nn.functional.cross_entropy(one, own) for one in (scores, scores.T)]
    assert_close(match(batch), sum(expected) / 2)


def test_alike_captions_count_as_each_others():
    """Nothing is lost by an event that finds the captions that are its own in equal parts."""
    model, batch = tiny.hearing(), tiny.hearing_batch()
    pair = replace(
        batch,
        event_row=torch.tensor([0, 0]),
        spans=batch.spans[[0, 0]],
        text_ids=batch.text_ids[[0, 0]],
        text_attention=batch.text_attention[[0, 0]],
    )
    assert_close(model(pair).named["match"], torch.tensor(0.0), atol=1e-5, rtol=0)


def test_order_of_events_does_not_matter():
    batch, order = tiny.hearing_batch(), torch.tensor([2, 0, 1])
    shuffled = replace(
        batch,
        **{name: getattr(batch, name)[order] for name in ("event_row", "spans", "text_ids", "text_attention")},
    )
    assert_close(match(shuffled), match(batch))


def test_frames_inside_the_span_are_heard_and_no_others():
    spans = torch.tensor([[0.0, 0.1], [0.04, 0.06], [0.051, 0.052], [0.9, 1.0], [0.0, 1.0]])
    inside = _inside(spans, 50, 50.0)
    assert [own.nonzero()[:, 0].tolist() for own in inside] == [
        [0, 1, 2, 3, 4], [2], [2], [45, 46, 47, 48, 49], list(range(50))
    ]  # fmt: skip


def test_an_event_is_the_mean_of_its_frames():
    model, batch = tiny.hearing(), tiny.hearing_batch()
    frames = model.audio_encoder(batch.log_mel)
    expected = torch.stack([frames[0, :15].mean(0), frames[0, 15:].mean(0), frames[1, 10:45].mean(0)])
    assert_close(model._events(batch), expected)


def test_it_teaches_the_audio_encoder_and_the_heads_and_nothing_else():
    model = tiny.hearing()
    model(tiny.hearing_batch()).named["match"].backward()
    taught = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    resting = ("text_encoder.", "audio_encoder.encoder.embed_positions.")
    assert taught == {name for name, _ in model.named_parameters() if not name.startswith(resting)}
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())


def test_a_few_steps_bring_sounds_and_captions_together():
    model, batch = tiny.hearing(), tiny.hearing_batch()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    first = match(batch).item()
    for _ in range(40):
        loss = model(batch).named["match"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * first


def test_the_temperature_has_a_floor():
    model, batch = tiny.hearing(), tiny.hearing_batch()
    model.log_scale.data.fill_(math.log(100.0))
    floor = model(batch).named["match"]
    model.log_scale.data.fill_(9.0)
    assert_close(model(batch).named["match"], floor)


@pytest.mark.parametrize("padding", [3, 20])
def test_padding_of_captions_changes_nothing(padding):
    batch = tiny.hearing_batch()
    ids, attention = tiny.text_encoder().tokenize(["a bell rings", "rain", "a bell rings"], 16 + padding)
    assert_close(match(replace(batch, text_ids=ids, text_attention=attention)), match(batch), rtol=1e-4, atol=1e-5)


def test_under_autocast_the_loss_is_float32_and_close():
    batch, model = tiny.hearing_batch(), tiny.hearing()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch).named["match"]
    assert half.dtype == torch.float32
    assert_close(half, match(batch), rtol=0.05, atol=0.05)


def test_blocks_to_compile_are_the_encoders():
    model = tiny.hearing()
    assert model.compilable_blocks() == list(model.audio_encoder.encoder.layers)
