from dataclasses import replace

import numpy as np
import torch

from audiostory.dataset import batch
from audiostory.dataset.sample import ClipSample, HeardEvent, Sample, Window
from audiostory.model import tiny
from audiostory.model.inputs import WaveformBatch
from audiostory.story import Instruction, Role, Script, script

STORIES = tiny.STORIES
SIZES = (tiny.NUM_SEMANTIC, tiny.NUM_RESIDUAL)


def samples(latents: bool = True, teacher: bool = True) -> list[Sample]:
    made = []
    for number, (instruction, storyline) in enumerate(STORIES):
        events = range(len(storyline.events))
        made.append(
            Sample(
                id=f"row-{number}",
                script=script.write(instruction, storyline, tiny.vocabulary()),
                seconds=tuple(event.seconds for event in storyline.events),
                latents=tuple(torch.full((5 + 3 * e + number, 8), float(e + 1)) for e in events) if latents else None,
                teacher=tuple(torch.zeros(4, 16) for _ in events) if teacher else None,
                bridge_sizes=SIZES,
            )
        )
    return made


def features(num_windows: int, value: float) -> torch.Tensor:
    return value + torch.arange(num_windows)[:, None, None].expand(-1, tiny.NUM_LISTENING, tiny.AUDIO_WIDTH)


def listening(num_windows: int = 2, value: float = 0.0, answer: str = "a dog") -> Sample:
    """An answer about a recording, or with "" what follows it."""
    heard, num_listening = features(num_windows, value), num_windows * tiny.NUM_LISTENING
    asked, told = Instruction(text="and then?"), STORIES[1][1]
    made: Script = (
        script.write_answer(asked, answer, tiny.vocabulary(), num_listening)
        if answer
        else script.write(asked, told, tiny.vocabulary(), num_listening=num_listening)
    )
    return Sample(
        id=f"listening-{num_windows}",
        script=made,
        seconds=() if answer else (0.5,),
        latents=None if answer else (torch.ones(9, 8),),
        teacher=None if answer else (torch.ones(4, 16),),
        bridge_sizes=SIZES,
        features=heard,
    )


def test_padding_has_no_attention_and_nothing_to_learn():
    made = samples()
    together = batch.collate(made)
    for row, sample in enumerate(made):
        length = len(sample.script.ids)
        assert together.ids[row, :length].tolist() == list(sample.script.ids)
        assert together.attention[row].tolist() == [True] * length + [False] * (together.ids.shape[1] - length)
        assert (together.roles[row, length:] == Role.PROMPT).all()


def test_events_of_all_rows_stand_on_one_axis():
    together = batch.collate(samples())
    assert together.event_row.tolist() == [0, 0, 1]
    assert together.frames.tolist() == [5, 8, 6]
    assert together.seconds.tolist() == [torch.tensor(s).item() for s in (0.4, 0.3, 0.5)]
    assert together.latents is not None
    assert together.latents[0, :5].eq(1).all()
    assert together.latents[0, 5:].eq(0).all()
    vocabulary = tiny.vocabulary()
    for event in range(3):
        ids = together.ids[together.event_row[event]]
        assert ids[together.semantic_slots[event]].tolist() == list(vocabulary.semantic_ids)
        assert ids[together.residual_slots[event]].tolist() == list(vocabulary.residual_ids)


def test_a_batch_for_the_planner_alone_has_no_latents_and_no_frames():
    together = batch.collate(samples(latents=False, teacher=False))
    assert together.latents is None
    assert together.teacher is None
    assert together.frames.tolist() == [0, 0, 0]


def test_windows_of_all_recordings_stand_on_one_axis_and_are_heard_at_their_own_places():
    rows = [listening(2, 10.0), *samples()[:1], listening(1, 20.0, answer="")]
    together = batch.collate(rows)
    assert together.audio_row is not None
    assert together.audio_slots is not None
    assert together.audio_features is not None
    assert together.audio_row.tolist() == [0, 0, 2]
    assert together.audio_features[:, 0, 0].tolist() == [10.0, 11.0, 20.0]
    assert together.audio_slots.shape == (3, tiny.NUM_LISTENING)
    ids = together.ids[together.audio_row[:, None], together.audio_slots]
    assert (ids == tiny.vocabulary().listening).all()
    assert together.audio_slots[:2].flatten().tolist() == list(rows[0].script.listening)
    assert (together.ids == tiny.vocabulary().listening).sum() == ids.numel()


def test_rows_without_events_take_nothing_from_the_others():
    made = samples()
    alone, together = batch.collate(made), batch.collate([listening(), *made])
    assert together.event_row.tolist() == [1, 1, 2]
    assert together.latents is not None
    assert together.teacher is not None
    assert torch.equal(together.latents, alone.latents)
    assert torch.equal(together.frames, alone.frames)
    assert torch.equal(together.teacher, alone.teacher)
    assert torch.equal(together.seconds, alone.seconds)


def test_a_batch_of_answers_alone_has_empty_places_for_events():
    together = batch.collate([listening(2), listening(1)])
    assert together.event_row.shape == together.seconds.shape == together.frames.shape == (0,)
    assert together.semantic_slots.shape == (0, tiny.NUM_SEMANTIC)
    assert together.residual_slots.shape == (0, tiny.NUM_RESIDUAL)
    assert together.event_row.dtype == together.frames.dtype == together.semantic_slots.dtype == torch.long
    assert together.seconds.dtype == torch.float32
    assert together.latents is together.teacher is None
    losses = tiny.audiostory(listens=True).losses(together)
    assert set(losses.named) == {"text", "answer"}
    assert {"flow", "semantic", "reason"} <= set(losses.absent)


def test_a_batch_without_recordings_has_none():
    together = batch.collate(samples())
    assert together.audio_features is together.audio_row is together.audio_slots is None


def test_windows_keep_their_events_and_spans():
    one = HeardEvent(id="a/0", caption="a bell", start=0.0, end=0.5)
    two = HeardEvent(id="b/0", caption="rain", start=0.4, end=1.0)
    windows = [Window(samples=np.zeros(8, np.float32), events=events) for events in ((one, two), (), (one,))]
    ids = torch.arange(6).reshape(3, 2)
    together = batch.collate_hearing(windows, torch.zeros(3, 4, 10), ids, ids > 0)
    assert together.event_row.tolist() == [0, 0, 2]
    assert together.spans.tolist() == [[0.0, 0.5], [torch.tensor(0.4).item(), 1.0], [0.0, 0.5]]
    assert together.sample_ids == ("a/0", "b/0", "a/0")
    assert batch.fill(together) == (120, 120)


def test_the_network_takes_what_collate_makes():
    losses = tiny.audiostory().losses(batch.collate(samples()))
    assert {"semantic", "flow", "text", "reason"} <= set(losses.named)


def test_fill_counts_tokens_and_frames_with_their_padding():
    made = samples()
    lengths = [len(sample.script.ids) for sample in made]
    assert batch.fill(batch.collate(made)) == (sum(lengths) + 5 + 8 + 6, 2 * max(lengths) + 3 * 8)
    clips = [ClipSample(id=str(n), seconds=1.0, latents=torch.zeros(n, 8)) for n in (4, 6)]
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert batch.fill(batch.collate_clips(clips, ids, ids.bool())) == (10, 12)
    assert batch.fill(WaveformBatch(samples=torch.zeros(2, 1, 50))) == (100, 100)


def test_clip_features_stand_by_their_events_or_lack_altogether():
    made = [
        replace(one, clip_features=tuple(torch.full((4, 7), float(e)) for e in range(len(one.seconds))))
        for one in samples()
    ]
    together = batch.collate([listening(), *made])
    assert together.clip_features is not None
    assert together.clip_features.shape == (3, 4, 7)
    assert together.clip_features[:, 0, 0].tolist() == [0.0, 1.0, 0.0]
    assert batch.collate([made[0], samples()[1]]).clip_features is None
