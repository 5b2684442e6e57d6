import json
import pickle
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiostory.dataset import store
from audiostory.dataset.store import Store

LATENTS = {f"latents:row-{n}/0": torch.randn(3 + n, 8, generator=torch.Generator().manual_seed(n)) for n in range(4)}
TEACHER = {f"teacher:{store.caption_key('rain')}": torch.ones(4, 16)}
FEATURES = {"features:heard/a.wav": torch.randn(3, 5, 6)}


@pytest.fixture
def folder(tmp_path):
    """A finished store of three parts."""
    for kind, tensors in (("latents", LATENTS), ("teacher", TEACHER), ("features", FEATURES)):
        path = tmp_path / f"{kind}-00000.safetensors"
        store.write_shard(path, {name: store.half(one) for name, one in tensors.items()}, f"of {kind}")
    shards = {path.name: store.describe(path) for path in tmp_path.glob("*.safetensors")}
    index = {"codec": "c", "audio_encoder": "a", "num_listening": 5, "manifest": "m", "shards": shards}
    store.write_index(tmp_path, index)
    return tmp_path


def test_a_store_gives_back_what_was_written(folder):
    read = Store(folder, manifest_fingerprint="m")
    for name, latents in LATENTS.items():
        key = name.removeprefix("latents:")
        assert read.has_latents(key)
        assert read.num_frames(key) == len(latents)
        assert read.latents(key).dtype == torch.float32
        torch.testing.assert_close(read.latents(key), latents, atol=2e-3, rtol=1e-3)
    assert read.teacher("rain").eq(1).all()


def test_the_features_of_a_recording_are_found_under_its_path(folder):
    read = Store(folder)
    assert read.features("heard/a.wav").shape == (3, 5, 6)
    assert read.num_windows("heard/a.wav") == 3
    assert read.has_features("heard/a.wav")
    assert not read.has_features("heard/b.wav")
    assert (read.has_codec, read.has_teacher, read.has_audio_encoder, read.num_listening) == (True, False, True, 5)


def test_what_a_store_lacks_is_named(folder):
    read = Store(folder)
    with pytest.raises(ValueError, match="no latents of event row-9/0; run scripts/encode_latents"):
        read.latents("row-9/0")
    with pytest.raises(ValueError, match="no features of the recording heard/b"):
        read.num_windows("heard/b.wav")
    with pytest.raises(ValueError, match="no teacher states of the caption 'snow'"):
        read.teacher("snow")
    with pytest.raises(ValueError, match="another version of their manifest"):
        Store(folder, manifest_fingerprint="other")
    with pytest.raises(ValueError, match="no finished store"):
        Store(folder / "nowhere")


def test_a_store_travels_to_another_process_without_its_files(folder):
    read = Store(folder)
    fresh = pickle.dumps(read)
    read.latents("row-0/0")
    assert pickle.dumps(read) == fresh
    assert pickle.loads(fresh).num_frames("row-3/0") == 6


def test_nothing_is_opened_before_it_is_needed(folder):
    read = Store(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert read.has_codec
    with pytest.raises(ValueError, match="cannot be read as a shard"):
        read.latents("row-0/0")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_changed_bit_of_a_shard_goes_unnoticed(folder, place, bit):
    path = folder / "latents-00000.safetensors"
    content = path.read_bytes()
    changed = bytearray(content)
    changed[int(place * len(content))] ^= 1 << bit
    path.write_bytes(changed)
    try:
        assert not store.is_whole(path, "of latents")
        read = Store(folder)
        with pytest.raises(ValueError, match=r"latents-00000\.safetensors .*run scripts/encode_latents\.py again"):
            [read.latents(f"row-{number}/0") for number in range(4)]
    finally:
        path.write_bytes(content)
    assert store.is_whole(path, "of latents")


@pytest.mark.parametrize("length", [0, 5, 8, 100, -1])
def test_a_shard_that_was_cut_short_is_named(folder, length):
    path = folder / "features-00000.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert not store.is_whole(path, "of features")
    with pytest.raises(ValueError, match=r"features-00000\.safetensors cannot be read as a shard"):
        Store(folder).latents("row-0/0")


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{", b"[" * 100000, b'{"a": 1}', b'{"a": {"data_offsets": [0, 1]}}', b'{"__metadata__": 3}', b"\xff\xfe"],
)
def test_a_header_of_nonsense_is_named(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="cannot be read as a shard"):
        store.read_header(path)
    path.write_bytes(struct.pack("<Q", 1 << 60) + header)
    with pytest.raises(ValueError, match="cannot be read as a shard"):
        store.read_header(path)


def test_a_shard_that_is_whole_but_not_the_indexs_is_refused(folder):
    """As when encoding was stopped on its way, and the index is of before."""
    path = folder / "teacher-00000.safetensors"
    store.write_shard(path, {name: store.half(2 * one) for name, one in TEACHER.items()}, "of another encoder")
    with pytest.raises(ValueError, match=r"teacher-00000\.safetensors is not the shard that .*index\.json tells of"):
        Store(folder).teacher("rain")


def test_the_same_tensors_make_the_same_file(folder, tmp_path):
    again = tmp_path / "again.safetensors"
    store.write_shard(again, {name: store.half(one) for name, one in reversed(LATENTS.items())}, "of latents")
    assert store.read_header(again).checksums == store.read_header(folder / "latents-00000.safetensors").checksums
    other = tmp_path / "other.safetensors"
    store.write_shard(other, {name: store.half(one) for name, one in reversed(LATENTS.items())}, "of latents")
    assert again.read_bytes() == other.read_bytes()


def test_a_store_of_before_there_were_checksums_can_be_read(folder):
    from safetensors.torch import save_file

    index = json.loads((folder / store.INDEX).read_text())
    del index["shards"]
    store.write_index(folder, index)
    old = {name: store.half(one) for name, one in LATENTS.items()}
    save_file(old, folder / "latents-00000.safetensors", metadata={"of": "of latents"})
    assert Store(folder).latents("row-1/0").shape == (4, 8)
    assert not store.is_whole(folder / "latents-00000.safetensors", "of latents")  # the encoder makes it anew


def test_an_index_of_nonsense_is_named(folder):
    (folder / store.INDEX).write_text("[1]")
    with pytest.raises(ValueError, match=r"index\.json holds list"):
        Store(folder)
    (folder / store.INDEX).write_text("{")
    with pytest.raises(ValueError, match=r"index\.json cannot be read"):
        Store(folder)


def test_a_fingerprint_is_of_the_content_of_a_networks_folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / f"{name}.safetensors").write_bytes(b"weights")
    assert store.fingerprint(tmp_path / "a") == store.fingerprint(tmp_path / "b")
    (tmp_path / "b" / "b.safetensors").write_bytes(b"Weights")
    assert store.fingerprint(tmp_path / "a") != store.fingerprint(tmp_path / "b")
    with pytest.raises(ValueError, match="holds no safetensors"):
        store.fingerprint(tmp_path)
