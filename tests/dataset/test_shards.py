import io
import json
import logging
import pickle
import tarfile

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from audiostory.dataset import shards, store
from audiostory.dataset.mixture import BatchLimits
from audiostory.dataset.rows import DamagedSampleError
from audiostory.dataset.shards import Sample, ShardSet
from audiostory.dataset.sources import Clips, Stories
from audiostory.model import tiny

NUM_SHARDS, ROWS = 6, 8
LIMITS = BatchLimits(rows=5)


def row(number: int) -> dict:
    """A story of one to three events, or a question about a recording."""
    made = {"id": f"row.{number}/x", "instruction": f"story {number}"}
    if number % 4 == 3:
        return made | {"heard": f"h/{number}.wav", "answer": "yes" * (number % 5 + 1)}
    events = [{"caption": f"sound {number % 5}", "seconds": 1.0, "start": float(e)} for e in range(number % 4 + 1)]
    return made | {"events": events, "summary": "s"}


def tensors(number: int) -> dict[str, torch.Tensor]:
    told = row(number)
    made = {f"features:{told['heard']}": torch.full((1 + number % 3, 2, 6), float(number))} if "heard" in told else {}
    for event in range(len(told.get("events", ()))):
        made[f"latents:{told['id']}/{event}"] = torch.full((3 + (number + event) % 4, 8), float(number))
        made[f"teacher:{store.caption_key(f'sound {number % 5}')}"] = torch.full((4, 16), float(number % 5))
    return {name: store.half(one) for name, one in made.items()}


def sample(number: int) -> Sample:
    made = tensors(number)
    return Sample(
        number=number,
        row=json.dumps(row(number)).encode(),
        tensors=made,
        frames=[len(one) for name, one in made.items() if name.startswith("latents:")],
        windows=sum(len(one) for name, one in made.items() if name.startswith("features:")),
        words=10 + number % 7,
    )


@pytest.fixture
def folder(tmp_path):
    """Six shards of eight rows."""
    paths = [tmp_path / f"shard-{number:06d}.tar" for number in range(NUM_SHARDS)]
    counted = shards.tokenizer_fingerprint(tiny.vocabulary().tokenizer)
    for number, path in enumerate(paths):
        made = [sample(number * ROWS + place) for place in range(ROWS)]
        shards.write_shard(path, made, {"codec": "c"}, counted)
    finish(tmp_path)
    return tmp_path


def finish(folder) -> None:
    told = [shards.describe(path) for path in sorted(folder.glob("shard-*.tar"))]
    index = {"kind": shards.KIND, "manifest": "m", "codec": "c", "text_encoder": "t", "audio_encoder": "a"}
    store.write_index(folder, {**index, "num_tokens": 4, "num_listening": 2, "shards": told})


def stories(folder, **more) -> Stories:
    read = ShardSet(folder, damaged_share=more.get("damaged_share", 0.01))
    return Stories(read, tiny.vocabulary(), read, LIMITS, seed=3, **more)


def spoil(folder, number: int) -> None:
    """Changes a byte of a sample."""
    path = folder / f"shard-{number // ROWS:06d}.tar"
    index = shards.read_shard_index(path)
    content = bytearray(path.read_bytes())
    content[int(index.offsets[number % ROWS]) + shards.BLOCK + 3] ^= 1
    path.write_bytes(content)


def test_rows_come_back_with_their_tensors(folder):
    read = ShardSet(folder)
    assert len(read) == NUM_SHARDS * ROWS
    for number in (47, 0, 13, 3):
        found, held = read.read(number)
        assert found.id == f"row.{number}/x"
        for event in range(len(found.clips)):
            assert held.latents(found.clip_key(event)).eq(number).all()
            assert held.teacher(found.storyline.events[event].caption).eq(number % 5).all()
        if found.heard_key is not None:
            assert held.features(found.heard_key).shape == (1 + number % 3, 2, 6)


def test_lengths_are_known_without_reading(folder):
    for path in folder.glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    lengths = ShardSet(folder).lengths
    assert lengths.clips[:4].tolist() == [1, 2, 3, 0]
    assert lengths.windows[:4].tolist() == [0, 0, 0, 1]
    assert lengths.longest()[:4].tolist() == [3, 5, 6, 0]
    assert lengths.shards == (ROWS,) * NUM_SHARDS
    assert lengths.num_listening == 2


def test_webdataset_reads_the_tar_files(folder):
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [one["__key__"] for one in found] == [f"{number:09d}" for number in range(NUM_SHARDS * ROWS)]
    for number in (0, 21, 47):
        assert json.loads(found[number]["json"]) == row(number)
        held = load(found[number]["safetensors"])
        assert held.keys() == tensors(number).keys()
        assert all(torch.equal(held[name], one) for name, one in tensors(number).items())


def test_the_same_samples_make_the_same_files(folder, tmp_path):
    again = tmp_path / "again.tar"
    shards.write_shard(again, [sample(place) for place in range(ROWS)], {"codec": "c"})
    assert again.read_bytes() == (folder / "shard-000000.tar").read_bytes()


def test_an_epoch_has_every_row_once_and_reads_few_shards_at_a_time(folder):
    source = stories(folder)
    source.plan = type(source.plan)(
        tokens=source.plan.tokens,
        frames=source.plan.frames,
        clips=source.plan.clips,
        limits=LIMITS,
        seed=3,
        shards=source.rows.lengths.shards,
        window=2,
    )
    order, seen = [], []
    while len(seen) < NUM_SHARDS * ROWS:
        rows = source.plan.rows(len(order))
        order.append({number // ROWS for number in rows})
        seen += rows
    assert sorted(seen) == list(range(NUM_SHARDS * ROWS))
    windows = [set().union(*order[first : first + 4]) for first in range(0, 12, 4)]
    assert [len(window) for window in windows] == [2, 2, 2]
    first = source.plan.rows(0)
    source.plan.rows(len(order))
    assert source.plan.rows(0) == first


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 7), st.integers(0, 40))
def test_any_batch_of_a_set_can_be_had_at_once(num_shards, window, pieces, index):
    from audiostory.dataset.mixture import BatchPlan

    random = np.random.default_rng(num_shards)
    sizes = random.integers(7, 20, num_shards).tolist()
    total = sum(sizes)

    def plan() -> BatchPlan:
        fixed = np.random.default_rng(0)
        tokens, frames = fixed.integers(50, 600, total), fixed.integers(20, 90, total)
        limits = BatchLimits(rows=6, tokens=2000, alike="shape")
        ones = np.ones(total)
        return BatchPlan(tokens=tokens, frames=frames, clips=ones, limits=limits, seed=1, shards=sizes, window=window)

    walked = plan()
    batches = [walked.whole(place, pieces) for place in range(index + 1)]
    assert plan().whole(index, pieces) == batches[index]
    seen = [number for batch in batches for number in batch][:total]
    assert len(seen) == len(set(seen))


def test_stories_and_clips_are_made_of_a_set(folder):
    whole = stories(folder)
    assert whole.batch(0).sample_ids != whole.batch(1).sample_ids
    for index in range(12):
        batch = whole.batch(index)
        assert batch.ids.shape[0] <= LIMITS.rows
        if len(batch.event_row):
            assert batch.latents is not None
            assert batch.latents.shape[0] == len(batch.event_row)
    read = ShardSet(folder)
    clips = Clips(read, lambda texts: tiny.text_encoder().tokenize(texts, 4), read, LIMITS, seed=3)
    seen, index = [], 0
    while len(seen) < 72:
        batch = clips.batch(index)
        seen += batch.sample_ids
        index += 1
        assert len(set(batch.frames.tolist())) == 1
    assert len(set(seen)) == 72 == int(read.lengths.clips.sum())


def test_the_pieces_of_a_batch_of_a_set_are_the_batch(folder):
    source = stories(folder)
    for index in range(8):
        pieces = [source.batch(index, piece, 3).sample_ids for piece in range(3)]
        assert all(pieces)
        whole = [source.rows.read(number)[0].id for number in source.plan.whole(index, 3)]
        assert sorted(one for piece in pieces for one in piece) == sorted(whole)


def test_a_sample_that_cannot_be_read_is_replaced_by_one_of_its_batch(folder, caplog):
    healthy = [stories(folder).batch(index).sample_ids for index in range(10)]
    spoil(folder, 21)
    spoil(folder, 30)
    source = stories(folder)
    with caplog.at_level(logging.WARNING):
        found = [source.batch(index).sample_ids for index in range(10)]
    assert [len(ids) for ids in found] == [len(ids) for ids in healthy]
    assert not {"row.21/x", "row.30/x"} & {one for ids in found for one in ids}
    for before, after in zip(healthy, found, strict=True):
        spoilt = {"row.21/x", "row.30/x"} & set(before)
        assert set(before) - set(after) == spoilt
        assert len(before) == 1 or set(after) <= set(before)
    assert "shard-000002.tar, sample 000000021: its content is not what was written" in caplog.text
    fresh = stories(folder)
    assert [fresh.batch(index).sample_ids for index in (9, 3)] == [found[9], found[3]]


def test_too_many_samples_that_cannot_be_read_are_an_error(folder):
    for number in range(0, 40, 4):
        spoil(folder, number)
    source = stories(folder)
    with pytest.raises(ValueError, match=r"pieces cannot be used, at most 1\.0%"):
        [source.batch(index) for index in range(10)]
    lenient = stories(folder, damaged_share=0.5)
    assert sum(len(lenient.batch(index).sample_ids) for index in range(10)) > 40


def test_a_shard_that_is_not_there_is_named_and_left_out(folder, caplog):
    (folder / "shard-000002.tar").unlink()
    with pytest.raises(ValueError, match=r"8 of 48 rows are in shards that cannot be used.*shard-000002"):
        ShardSet(folder)
    read = ShardSet(folder, damaged_share=0.2)
    assert len(read) == 40
    assert read.read(16)[0].id == "row.24/x"
    assert "left out a shard of 8 rows" in caplog.text


@pytest.mark.parametrize("spoilt", ["shard-000001.tar", "shard-000001.json"])
def test_a_shard_that_was_cut_short_is_left_out(folder, spoilt):
    path = folder / spoilt
    path.write_bytes(path.read_bytes()[:-20])
    assert len(ShardSet(folder, damaged_share=0.2)) == 40
    with pytest.raises(ValueError, match=r"shard-000001.* run scripts/encode_latents\.py again"):
        ShardSet(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_changed_bit_of_a_shard_goes_unnoticed(folder, place, bit):
    path = folder / "shard-000000.tar"
    content = path.read_bytes()
    changed = bytearray(content)
    where = int(place * (len(content) - 2 * shards.BLOCK))  # beyond are zeros that nobody reads
    changed[where] ^= 1 << bit
    path.write_bytes(changed)
    try:
        assert not shards.is_whole(path, shards.read_shard_index(path))
        read, failed = ShardSet(folder), 0
        for number in range(ROWS):
            try:
                found, held = read.read(number)
                assert found.id == f"row.{number}/x"
                assert {name: one.tolist() for name, one in held._tensors.items()} == {
                    name: one.tolist() for name, one in tensors(number).items()
                }
            except DamagedSampleError:
                failed += 1
        assert failed == 1
    finally:
        path.write_bytes(content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_changed_bit_of_an_index_goes_unnoticed(folder, place, bit):
    path = folder / "shard-000000.json"
    content = path.read_bytes()
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        with pytest.raises(ValueError, match="it is not the one that the set was finished with"):
            ShardSet(folder)
    finally:
        path.write_bytes(content)


def altered(folder, **columns) -> None:
    """The index of the first shard with other columns, finished as if that were right."""
    path = folder / "shard-000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | columns))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"offsets": [0] * ROWS}, "one after the other"),
        ({"sizes": [1 << 40] + [0] * 7}, "one after the other"),
        ({"sizes": [-512] * ROWS}, "negative"),
        ({"clips": [-1] * ROWS}, "one length|negative"),
        ({"words": [1]}, "one length"),
        ({"frames": []}, "one length"),
        ({"frames": [[1]] * 12}, "one length"),
        ({"numbers": [1 << 80] * ROWS}, "too large|out of bounds|int"),
        ({"numbers": {"a": 1}}, "int"),
        ({"num_bytes": 3}, "fill the file"),
        ({"num_bytes": "many"}, "invalid literal"),
        ({"of": 3}, "not iterable"),
    ],
)
def test_an_index_that_cannot_be_true_is_named(folder, columns, reason):
    altered(folder, **columns)
    with pytest.raises(ValueError, match=rf"shard-000000\.json cannot be used \(.*({reason})"):
        shards.read_shard_index(folder / "shard-000000.tar")


@pytest.mark.parametrize(
    "entries", [None, [3], [{"name": "x"}], [{"name": "a", "rows": "many", "index": ""}], {"name": 3}, []]
)
def test_a_set_whose_index_is_nonsense_says_so(folder, entries):
    store.write_index(folder, {**store.read_index(folder), "shards": entries})
    with pytest.raises(ValueError, match=r"does not tell of shards|there are no shards"):
        ShardSet(folder)


def test_a_set_reads_nothing_outside_its_folder(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    for name in ("shard-000000.tar", "shard-000000.json"):
        (folder / name).rename(outside / name)
    index = store.read_index(folder)
    index["shards"][0]["name"] = str(outside / "shard-000000.tar")
    store.write_index(folder, index)
    with pytest.raises(ValueError, match="8 of 48 rows"):
        ShardSet(folder)


def packed(*members: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(b"{}" * info.size))
    return file.getvalue()


def info(name: str, size: int = 2, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    return made


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 2048,
        bytes(2048),
        packed(info("000000001.json")),
        packed(info("000000001.json"), info("000000002.safetensors")),
        packed(info("../000000001.json"), info("000000001.safetensors")),
        packed(info("000000001.json", 0, tarfile.SYMTYPE), info("000000001.safetensors")),
        packed(info("000000001.json", 0, tarfile.DIRTYPE), info("000000001.safetensors")),
        packed(info("000000001.json"), info("000000001.safetensors", 600))[: 512 + 512 + 512 + 100],
    ],
)
def test_only_two_plain_files_of_the_samples_name_are_a_sample(content):
    with pytest.raises(ValueError, match=r"expected the file|no tar header"):
        shards._members(content, "000000001")


def test_a_size_beyond_the_sample_is_refused():
    content = bytearray(packed(info("000000001.json"), info("000000001.safetensors")))
    huge = info("000000001.safetensors", 1 << 33).tobuf(tarfile.GNU_FORMAT)
    content[1024:1536] = huge
    with pytest.raises(ValueError, match="expected the file"):
        shards._members(bytes(content), "000000001")


def test_a_set_travels_to_another_process_without_its_files(folder):
    source = stories(folder)
    fresh = pickle.dumps(source.rows)
    source.batch(0)
    assert pickle.dumps(source.rows) == fresh
    assert pickle.loads(fresh).read(5)[0].id == "row.5/x"
    assert len(fresh) < 20000


def test_texts_that_were_counted_with_another_tokenizer_are_refused(folder):
    path = folder / "shard-000003.tar"
    shards.write_words(path, [7] * ROWS, "another")
    finish(folder)
    with pytest.raises(ValueError, match=r"counted with another tokenizer.*--tokenizer"):
        stories(folder)
    counted = shards.tokenizer_fingerprint(tiny.vocabulary().tokenizer)
    shards.write_words(path, [7] * ROWS, counted)
    finish(folder)
    assert stories(folder).rows.words(tiny.vocabulary())[24:32].tolist() == [7] * ROWS


def test_a_folder_without_a_finished_set_says_so(tmp_path):
    with pytest.raises(ValueError, match="no finished set of shards"):
        ShardSet(tmp_path)
    assert not shards.is_set(tmp_path)


def test_many_files_are_not_held_open(folder, monkeypatch):
    monkeypatch.setattr(shards, "MAX_OPEN", 2)
    read = ShardSet(folder)
    for number in range(0, 48, 5):
        assert read.read(number)[0].id == f"row.{number}/x"
        assert len(read._files) <= 2
