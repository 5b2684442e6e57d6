import torch

from audiostory.dataset import batch
from audiostory.dataset.sample import ClipSample, Sample
from audiostory.model import tiny
from audiostory.model.inputs import WaveformBatch
from audiostory.story import Role, script

STORIES = tiny.STORIES


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
            )
        )
    return made


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
