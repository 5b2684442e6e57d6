import json
import pickle

import commands
import numpy as np
import pytest
import small_corpora
import torch
from torch.utils.data import DataLoader

from audiostory.dataset import manifest, sample
from audiostory.dataset.mixture import BatchLimits, BatchPlan, Mixture
from audiostory.dataset.rows import Lengths, Stored
from audiostory.dataset.sources import Clips, Crops, Stories
from audiostory.dataset.store import Store, StoreError
from audiostory.model import tiny

LIMITS = BatchLimits(rows=5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Stories, continuations and questions, encoded."""
    folder = tmp_path_factory.mktemp("corpus")
    small_corpora.write(folder, [1, 2, 3, 0, 2, 0, 1, 0, 4, 2, 1, 0, 1, 0, 1], heard=True)
    exported = small_corpora.export(folder / "exported")
    options = ["--output", str(folder / "latents"), "--num_tokens", "4", "--num_listening", "3"]
    networks = [f"--{name}={exported}" for name in ("codec", "text_encoder", "audio_encoder")]
    main = commands.load("scripts/encode_latents.py").main
    assert main([str(folder / "manifest.jsonl"), *options, *networks]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(corpus):
    return manifest.read(corpus / "manifest.jsonl")


def stories(rows, corpus, limits=LIMITS, **more) -> Stories:
    return Stories(rows, tiny.vocabulary(), Store(corpus / "latents"), limits, seed=1, **more)


def clips(rows, corpus, **more) -> Clips:
    return Clips(rows, tokenize, Store(corpus / "latents"), BatchLimits(rows=4), seed=1, **more)


def tokenize(texts):
    return tiny.text_encoder().tokenize(texts, 4)


def crops(rows, **limits) -> Crops:
    limits = {"rows": 7, "crop_seconds": 0.2} | limits
    return Crops(rows, BatchLimits(**limits), sample_rate=16000, audio_channels=1, seed=1, damaged_share=0.1)


def test_stories_and_questions_come_in_batches_of_their_own(rows, corpus):
    source = stories(rows, corpus, BatchLimits(rows=20))
    whole = sorted((source.batch(index) for index in range(2)), key=lambda made: len(made.event_row))
    assert sorted(whole[0].sample_ids) == sorted(row.id for row in rows.rows if row.answer)
    assert sorted(whole[1].sample_ids) == sorted(row.id for row in rows.rows if not row.answer)
    assert whole[0].latents is None
    assert whole[1].latents is not None
    assert whole[1].latents.shape[0] == len(whole[1].event_row) == sum(len(row.clips) for row in rows.rows)
    assert all(made.audio_features is not None and made.audio_features.shape[1:] == (3, 16) for made in whole)


def test_script_lengths_are_nearly_known(rows, corpus):
    """With the recording's tokens and the answer's. What is the same in all scripts does not count."""
    source = stories(rows, corpus)
    store = Store(corpus / "latents")
    written = [len(sample.build(row, tiny.vocabulary(), store).script.ids) for row in rows.rows]
    assert np.corrcoef(source.plan.tokens, written)[0, 1] > 0.97
    assert source.rows.lengths.windows.tolist() == [store.num_windows(row.heard_key) for row in rows.rows]
    assert source.rows.lengths.num_listening == 3


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_the_pieces_of_stories_are_the_batch(rows, corpus, pieces):
    source = stories(rows, corpus)
    for index in range(5):
        parts = [source.batch(index, piece, pieces) for piece in range(pieces)]
        ids = [one for part in parts for one in part.sample_ids]
        assert len(ids) == len(set(ids)) >= pieces
        numbers = source.plan.whole(index, pieces)
        assert sorted(ids) == sorted(source.rows.read(number)[0].id for number in numbers)
        assert all(part.sample_ids for part in parts)


def test_the_pieces_of_clips_are_the_batch_and_hardly_padded(rows, corpus):
    source = clips(rows, corpus)
    seen, index = [], 0
    while len(seen) < len(source.row_of):
        parts = [source.batch(index, piece, 3) for piece in range(3)]
        ids = [one for part in parts for one in part.sample_ids]
        assert len(ids) >= 3
        assert all(part.latents.shape[1] == int(part.frames.max()) for part in parts)
        seen += ids
        index += 1
    assert len(seen) == len(set(seen)) == sum(len(row.clips) for row in rows.rows)


def test_clips_of_one_process_need_no_padding(rows, corpus):
    source = clips(rows, corpus)
    for index in range(8):
        made = source.batch(index)
        assert len(set(made.frames.tolist())) == 1
        assert made.latents.shape[1] == int(made.frames[0])


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
def test_the_pieces_of_crops_are_the_batch(rows, pieces):
    whole = crops(rows).batch(5)
    source = crops(rows)
    parts = [source.batch(5, piece, pieces) for piece in range(pieces)]
    assert torch.equal(torch.cat([part.samples for part in parts]), whole.samples)
    assert sum((part.sample_ids for part in parts), ()) == whole.sample_ids
    assert max(len(part.sample_ids) for part in parts) - min(len(part.sample_ids) for part in parts) <= 1


def test_more_pieces_than_crops_are_refused(rows):
    with pytest.raises(ValueError, match="cut into 8 pieces, but a batch has only 7 crops"):
        crops(rows).batch(0, 0, 8)


def test_a_crop_that_cannot_be_read_is_replaced_alike_in_whole_and_in_pieces(tmp_path):
    rows = manifest.read(small_corpora.write(tmp_path, [1] * 400))
    for number in (3, 50, 200):
        (tmp_path / f"{number}-0.wav").write_bytes(b"no sound")
    whole = [crops(rows).batch(index).sample_ids for index in range(60)]
    damaged = {"row-3/0", "row-50/0", "row-200/0"}
    assert all(len(ids) == 7 and not damaged & set(ids) for ids in whole)
    source = crops(rows)
    cut = [sum((source.batch(index, piece, 3).sample_ids for piece in range(3)), ()) for index in range(60)]
    assert cut == whole
    assert source.damage.reasons


def test_a_text_that_no_script_can_hold_is_left_out_like_a_damaged_sample(tmp_path, caplog):
    path = small_corpora.write(tmp_path, [1] * 200)
    lines = path.read_text().splitlines()
    story = json.loads(lines[7])
    story["events"][0]["caption"] = " untidy "
    lines[7] = json.dumps(story)
    path.write_text("\n".join(lines))
    source = Stories(manifest.read(path), tiny.vocabulary(), None, LIMITS, seed=1)
    seen = [one for index in range(40) for one in source.batch(index).sample_ids]
    assert len(seen) == 200
    assert "row-7" not in seen
    assert "row row-7: the caption of event 1 must be one line without space around it" in caplog.text


def test_words_alone_need_no_store(rows, tmp_path):
    only = manifest.read(small_corpora.write(tmp_path, [1, 2, 3]))
    source = Stories(only, tiny.vocabulary(), None, LIMITS, seed=1)
    assert source.batch(0).latents is None
    assert (source.latents, source.teacher) == (False, False)


def test_recordings_that_nobody_listened_to_are_asked_for(rows, corpus):
    with pytest.raises(ValueError, match=r"recordings that are listened to.*--audio_encoder"):
        Stories(rows, tiny.vocabulary(), None, LIMITS, seed=1)


def test_rows_that_lack_something_are_left_out_and_counted(rows, corpus, monkeypatch):
    store = Store(corpus / "latents")
    monkeypatch.setattr(store, "has_latents", lambda key: key != "row-2/1")
    monkeypatch.setattr(store, "has_features", lambda key: key != "heard-5.wav")
    left = Stored(rows, store, latents=True, damaged_share=0.2)
    assert {row.id for row in rows.rows} - {row.id for row in left.rows} == {"row-2", "row-5"}
    with pytest.raises(ValueError, match="2 of 15 pieces cannot be used"):
        Stored(rows, store, latents=True, damaged_share=0.01)


@pytest.mark.parametrize("make", [stories, clips])
def test_a_damaged_tensor_of_a_store_is_named_and_replaced_and_many_end_the_training(rows, corpus, caplog, make):
    source = make(rows, corpus, damaged_share=0.0)
    first, second = source.batch(0).sample_ids[:2]
    read = source.rows.store.latents

    def damaged(*ids: str):
        def latents(key: str):
            if key.split("/")[0] in {one.split("/")[0] for one in ids}:
                raise StoreError(f"latents of {key} are damaged")
            return read(key)

        return latents

    source = make(rows, corpus, damaged_share=0.2)
    source.rows.store.latents = damaged(first)
    batch = source.batch(0)
    assert first not in batch.sample_ids
    assert second in batch.sample_ids
    assert f"latents of {first}" in caplog.text
    source = make(rows, corpus, damaged_share=0.2)
    source.rows.store.latents = damaged(*(row.id for row in rows.rows))
    with pytest.raises(ValueError, match="damaged"):
        source.batch(0)


def test_a_source_travels_to_another_process_without_its_files(rows, corpus):
    source = stories(rows, corpus)
    ids = source.batch(2).sample_ids
    assert pickle.loads(pickle.dumps(source)).batch(2).sample_ids == ids


def test_processes_that_read_ahead_make_the_same_batches(rows, corpus):
    def mixture() -> Mixture:
        return Mixture({"stories": stories(rows, corpus), "clips": clips(rows, corpus)}, {"stories": 2, "clips": 1}, 2)

    alone = [mixture()[item].sample_ids for item in range(3, 15, 2)]
    loader = DataLoader(mixture(), batch_size=None, sampler=range(3, 15, 2), num_workers=2)
    assert [made.sample_ids for made in loader] == alone


def test_the_longest_event_of_each_row_is_found():
    lengths = Lengths(
        clips=np.array([2, 0, 1, 3, 0]),
        windows=np.zeros(5),
        frames=np.array([4, 9, 5, 1, 7, 2]),
        num_listening=0,
        shards=None,
    )
    assert lengths.longest().tolist() == [9, 0, 5, 7, 0]


def corpus_of_lengths(kind: str, size: int = 20000) -> dict[str, np.ndarray]:
    """As wide a spread as AudioStory-10k's and AudioCaps' have, tokens and frames not going hand in hand."""
    random = np.random.default_rng(5)
    if kind == "clips":
        clips = np.ones(size, dtype=int)
    elif kind == "answers":
        clips = np.zeros(size, dtype=int)
    else:
        clips = random.integers(1, 8, size)
    tokens = 120 + clips * 130 * np.exp(0.25 * random.standard_normal(size)) + random.exponential(60, size)
    frames = np.clip(180 * np.exp(0.6 * random.standard_normal(size)), 20, 645) * (clips > 0)
    return {"tokens": tokens.astype(int), "frames": frames.astype(int), "clips": clips}


@pytest.mark.parametrize("kind", ["clips", "answers", "stories"])
@pytest.mark.parametrize(
    "limits", [{"rows": 8}, {"rows": 64, "tokens": 16384}, {"rows": 32, "tokens": 4096, "frames": 5000}]
)
def test_less_than_a_tenth_of_tokens_and_of_frames_is_padding(kind, limits):
    """Frames of a row's longest event, that is: the others in a row are as long as they are."""
    lengths = corpus_of_lengths(kind)
    plan = BatchPlan(**lengths, limits=BatchLimits(**limits, alike="shape"), seed=0)
    content, room = np.zeros(2), np.zeros(2)
    seen, index = 0, 0
    while seen < len(lengths["tokens"]):
        rows = plan.rows(index)
        tokens, frames, clips = (lengths[name][rows] for name in ("tokens", "frames", "clips"))
        content += tokens.sum(), (frames * clips).sum()
        room += len(rows) * tokens.max(), clips.sum() * frames.max()
        seen, index = seen + len(rows), index + 1
    assert (1 - content / np.maximum(room, 1))[: 1 if kind == "answers" else 2].max() < 0.1
