import json
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import small_corpora
import torch

from audiostory.dataset import manifest, parts, store
from audiostory.dataset.mixture import BatchLimits
from audiostory.dataset.shards import ShardSet
from audiostory.dataset.sources import Stories
from audiostory.dataset.store import Store
from audiostory.model import tiny

encode_latents = commands.load("scripts/encode_latents.py")
NETWORKS = ("codec", "text_encoder", "audio_encoder", "clip_encoder")
LIMITS = BatchLimits(rows=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Networks, and the planner's tokenizer."""
    folder = small_corpora.export(tmp_path_factory.mktemp("exported"))
    tiny.vocabulary().tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def corpus(tmp_path):
    """Nine rows: stories, stories that follow a recording, and questions."""
    small_corpora.write(tmp_path, [1, 2, 3, 0, 2, 0], heard=True)
    return tmp_path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    for part in (parts.Latents, parts.Teacher, parts.Features, parts.ClipFeatures):
        monkeypatch.setattr(part, "per_shard", 3)


def encode(corpus: Path, exported: Path, *networks: str, **more: str) -> int:
    command = [str(corpus / "manifest.jsonl"), "--output", str(corpus / "latents"), "--num_listening", "4"]
    for name in networks:
        command += [f"--{name}", str(exported)]
    return encode_latents.main([*command, *(f"--{key}={value}" for key, value in more.items())])


def contents(corpus: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((corpus / "latents").iterdir())}


def test_everything_that_training_asks_for_is_stored(corpus, exported):
    assert encode(corpus, exported, *NETWORKS) == 0
    rows = manifest.read(corpus / "manifest.jsonl")
    read = Store(corpus / "latents", manifest_fingerprint=rows.fingerprint)
    for row in rows.rows:
        for event in range(len(row.clips)):
            assert read.latents(row.clip_key(event)).shape[1] == 8
            assert read.clip_features(row.clip_key(event)).shape == read.clip_features_shape == (16, 16)
        for event in row.storyline.events:
            assert read.teacher(event.caption).shape == (16, 16)
        assert read.features(row.heard_key).shape[1:] == (4, 16)
    assert read.num_listening == 4
    assert read.num_windows("heard-3.wav") == 2


def test_features_are_what_the_audio_encoder_hears(corpus, exported):
    from audiostory.weights.origins import Origin

    assert encode(corpus, exported, "audio_encoder") == 0
    encoder = Origin(exported).read("audio_encoder")
    samples = torch.from_numpy(small_corpora.sound.read(corpus / "heard-2.wav").samples[0])
    heard = Store(corpus / "latents").features("heard-2.wav")
    torch.testing.assert_close(heard, encoder.features(samples, 4), atol=2e-3, rtol=2e-3)


def test_clip_features_are_means_over_the_clips_own_time(corpus, exported):
    """Of windows of one second; the silence after the last one's sound is no part of the clip."""
    from audiostory.weights.origins import Origin

    sine = torch.sin(torch.arange(20800) / 10).numpy()  # 1.3 s
    small_corpora.sound.write(corpus / "4-1.wav", small_corpora.sound.Waveform(samples=sine[None], sample_rate=16000))
    assert encode(corpus, exported, "clip_encoder", num_tokens="5") == 0
    encoder, found = Origin(exported).read("audio_encoder"), Store(corpus / "latents")
    for key, name, num_frames in (("row-4/0", "4-0", 20), ("row-4/1", "4-1", 65)):
        samples = torch.from_numpy(small_corpora.sound.read(corpus / f"{name}.wav").samples[0])
        with torch.no_grad():
            frames = encoder(encoder.log_mel(encoder.windows(samples))).flatten(0, 1)
        own = frames[:num_frames]
        edges = [(i * len(own) // 5, -(-(i + 1) * len(own) // 5)) for i in range(5)]
        means = torch.stack([own[first:end].mean(0) for first, end in edges])
        torch.testing.assert_close(found.clip_features(key), means, atol=2e-3, rtol=2e-3)
    assert (found.index["num_clip_tokens"], found.has_codec, found.has_audio_encoder) == (5, False, False)


def test_clips_are_filled_with_silence_to_one_length_and_longer_ones_are_named(corpus, exported, capsys, caplog):
    from audiostory.weights.origins import Origin

    assert encode(corpus, exported, "codec") == 0
    own = Store(corpus / "latents")
    rows = [row for row in manifest.read(corpus / "manifest.jsonl").rows if row.clips]
    longest = max(own.num_frames(row.clip_key(i)) for row in rows for i in range(len(row.clips)))
    assert own.num_frames_of_all is None
    assert encode(corpus, exported, "codec", num_frames=str(longest + 5)) == 0
    filled, codec = Store(corpus / "latents"), Origin(exported).read("codec")
    assert filled.num_frames_of_all == longest + 5
    samples = torch.from_numpy(small_corpora.sound.read(rows[0].clips[0].audio).samples)
    silence = (longest + 5) * codec.hop - samples.shape[1]
    with torch.no_grad():
        whole = codec.encode(torch.nn.functional.pad(samples, (0, silence))[None])[0]
    torch.testing.assert_close(filled.latents(rows[0].clip_key(0)), whole, atol=2e-3, rtol=2e-3)
    assert encode(corpus, exported, "codec", num_frames=str(longest - 2)) == 2
    assert f"more than the {longest - 2} of --num_frames" in caplog.text + capsys.readouterr().err


def test_parts_can_be_made_one_after_the_other(corpus, exported):
    assert encode(corpus, exported, *NETWORKS) == 0
    together = contents(corpus)
    for path in (corpus / "latents").iterdir():
        path.unlink()
    for name in reversed(NETWORKS):
        assert encode(corpus, exported, name) == 0
    apart = contents(corpus)
    assert json.loads(apart.pop(store.INDEX)) == json.loads(together.pop(store.INDEX))
    assert apart == together


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_several_processes_make_what_one_makes(corpus, exported, monkeypatch, capsys, order):
    assert encode(corpus, exported, *NETWORKS) == 0
    alone = contents(corpus)
    for path in (corpus / "latents").iterdir():
        path.unlink()
    monkeypatch.setenv("WORLD_SIZE", "3")
    for number, rank in enumerate(order):
        assert not (corpus / "latents" / store.INDEX).exists()
        monkeypatch.setenv("RANK", str(rank))
        assert encode(corpus, exported, *NETWORKS) == 0
        assert ("are not there yet" in capsys.readouterr().out) == (number < 2)
    assert contents(corpus) == alone


def test_a_process_makes_its_own_gpus_tensors():
    place = encode_latents.Place(rank=5, processes=8, local_rank=1)
    assert place.device("cuda") == "cuda:1"
    assert place.device("cuda:0") == "cuda:0"
    assert place.device("cpu") == "cpu"


def test_what_is_whole_is_kept_and_what_is_damaged_is_made_anew(corpus, exported):
    assert encode(corpus, exported, *NETWORKS) == 0
    made = contents(corpus)
    written = {path: path.stat().st_mtime_ns for path in (corpus / "latents").glob("*.safetensors")}
    damaged = corpus / "latents" / "features-00001.safetensors"
    damaged.write_bytes(made[damaged.name][:-1] + b"\xff")
    with pytest.raises(ValueError, match=r"features-00001\.safetensors is damaged at features:heard-\d"):
        [Store(corpus / "latents").features(f"heard-{number}.wav") for number in range(6)]
    assert encode(corpus, exported, *NETWORKS) == 0
    assert contents(corpus) == made
    assert {path for path, when in written.items() if path.stat().st_mtime_ns != when} == {damaged}


def test_a_stopped_run_is_gone_on_with(corpus, exported, monkeypatch):
    with monkeypatch.context() as patch:
        calls = iter([None, KeyboardInterrupt()])

        def stopping(*arguments):
            if error := next(calls):
                raise error
            return write(*arguments)

        write = store.write_shard
        patch.setattr(store, "write_shard", stopping)
        with pytest.raises(KeyboardInterrupt):
            encode(corpus, exported, *NETWORKS)
    with pytest.raises(ValueError, match="no finished store"):
        Store(corpus / "latents")
    first = (corpus / "latents" / "latents-00000.safetensors").stat().st_mtime_ns
    assert encode(corpus, exported, *NETWORKS) == 0
    assert (corpus / "latents" / "latents-00000.safetensors").stat().st_mtime_ns == first


def test_a_recording_that_was_replaced_is_encoded_anew(corpus, exported):
    assert encode(corpus, exported, *NETWORKS) == 0
    before = contents(corpus)
    small_corpora._hum(corpus / "heard-5.wav", 0.9, 300)
    assert encode(corpus, exported, *NETWORKS) == 0
    after = contents(corpus)
    assert {name for name in before if before[name] != after[name]} == {"features-00001.safetensors", store.INDEX}


def test_shards_of_a_longer_manifest_go(corpus, exported):
    assert encode(corpus, exported, *NETWORKS) == 0
    lines = (corpus / "manifest.jsonl").read_text().splitlines()
    (corpus / "manifest.jsonl").write_text("\n".join(lines[:2]))
    assert encode(corpus, exported, *NETWORKS) == 0
    assert set(contents(corpus)) == {
        *(f"{kind}-00000.safetensors" for kind in ("latents", "teacher", "features", "clip_features")),
        store.INDEX,
    }
    assert Store(corpus / "latents").has_latents("row-1/1")


def test_a_part_that_would_stay_behind_its_manifest_is_asked_for(corpus, exported, capsys):
    assert encode(corpus, exported, *NETWORKS) == 0
    with (corpus / "manifest.jsonl").open("a") as file:
        file.write("\n")
    assert encode(corpus, exported, "codec", "text_encoder") == 2
    assert "give --audio_encoder as well" in capsys.readouterr().err


def test_recordings_that_cannot_be_read_are_named_and_too_many_are_an_error(corpus, exported, caplog, capsys):
    (corpus / "1-0.wav").write_bytes(b"RIFF")
    (corpus / "heard-4.wav").unlink()
    assert encode(corpus, exported, *NETWORKS, damaged_share="0.5") == 0
    assert "row-1/0" in caplog.text
    assert "heard-4.wav" in caplog.text
    read = Store(corpus / "latents")
    assert read.has_latents("row-1/1")
    assert not read.has_latents("row-1/0")
    assert not read.has_features("heard-4.wav")
    assert encode(corpus, exported, *NETWORKS, damaged_share="0.01") == 2
    assert "could not be encoded, at most 1.0% may" in capsys.readouterr().err


def test_clips_that_are_gathered_do_not_fill_the_memory(corpus, exported, monkeypatch):
    assert encode(corpus, exported, "codec") == 0
    at_once = Store(corpus / "latents").latents("row-2/1")
    monkeypatch.setattr(parts, "SECONDS_HELD", 0.5)
    for path in (corpus / "latents").iterdir():
        path.unlink()
    assert encode(corpus, exported, "codec") == 0
    read = Store(corpus / "latents")
    assert all(
        read.has_latents(f"row-{row}/{event}") for row, events in ((0, 1), (1, 2), (2, 3)) for event in range(events)
    )
    torch.testing.assert_close(read.latents("row-2/1"), at_once, atol=2e-3, rtol=1e-3)


def test_nothing_to_do_is_an_error(corpus, exported, capsys):
    with pytest.raises(SystemExit):
        encode(corpus, exported)
    assert "nothing to do" in capsys.readouterr().err


def encode_shards(corpus: Path, exported: Path, *networks: str, **more: str) -> int:
    command = [str(corpus / "manifest.jsonl"), "--output", str(corpus / "shards"), "--num_listening", "4"]
    command += ["--format", "shards", "--rows_per_shard", "2", "--tokenizer", str(exported)]
    command += [f"--{name}={exported}" for name in networks]
    return encode_latents.main([*command, *(f"--{key}={value}" for key, value in more.items())])


def shard_contents(corpus: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((corpus / "shards").iterdir())}


def test_shards_hold_what_a_store_holds(corpus, exported):
    assert encode(corpus, exported, *NETWORKS) == 0
    assert encode_shards(corpus, exported, *NETWORKS) == 0
    rows = manifest.read(corpus / "manifest.jsonl")
    beside, held = Store(corpus / "latents"), ShardSet(corpus / "shards")
    assert held.fingerprint == rows.fingerprint
    assert held.lengths.shards == (2, 2, 2)
    assert {key: held.index[key] for key in NETWORKS} == {key: beside.index[key] for key in NETWORKS}
    for number, row in enumerate(rows.rows):
        found, tensors = held.read(number)
        assert (found.id, found.storyline, found.answer) == (row.id, row.storyline, row.answer)
        for event in range(len(row.clips)):
            key = row.clip_key(event)
            torch.testing.assert_close(tensors.latents(key), beside.latents(key), atol=2e-3, rtol=1e-3)
            assert torch.equal(tensors.clip_features(key), beside.clip_features(key))
        for event in row.storyline.events:
            torch.testing.assert_close(
                tensors.teacher(event.caption), beside.teacher(event.caption), atol=1e-3, rtol=1e-3
            )
        assert torch.equal(tensors.features(row.heard_key), beside.features(row.heard_key))
    plain, packed = (
        Stories(one, tiny.vocabulary(), two, LIMITS, seed=0) for one, two in ((rows, beside), (held, held))
    )
    assert plain.plan.tokens.tolist() == packed.plan.tokens.tolist()
    assert plain.plan.frames.tolist() == packed.plan.frames.tolist()


def test_parts_of_shards_are_taken_over_when_another_is_added(corpus, exported):
    assert encode_shards(corpus, exported, *NETWORKS) == 0
    together = shard_contents(corpus)
    for path in (corpus / "shards").iterdir():
        path.unlink()
    assert encode_shards(corpus, exported, "audio_encoder") == 0
    assert encode_shards(corpus, exported, "codec", "clip_encoder") == 0
    assert encode_shards(corpus, exported, "text_encoder") == 0
    apart = shard_contents(corpus)
    assert apart.keys() == together.keys()
    assert all(apart[name] == together[name] for name in apart if name.endswith(".tar"))
    indices = [json.loads(one[store.INDEX]) for one in (apart, together)]
    assert all(indices[0][key] == indices[1][key] for key in (*NETWORKS, "num_tokens", "num_listening", "manifest"))


def test_several_processes_make_the_shards_that_one_makes(corpus, exported, monkeypatch):
    assert encode_shards(corpus, exported, *NETWORKS) == 0
    alone = shard_contents(corpus)
    for path in (corpus / "shards").iterdir():
        path.unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        assert not (corpus / "shards" / store.INDEX).exists()
        assert encode_shards(corpus, exported, *NETWORKS) == 0
    assert shard_contents(corpus) == alone


def test_a_damaged_shard_is_made_anew_and_the_others_are_kept(corpus, exported):
    assert encode_shards(corpus, exported, *NETWORKS) == 0
    made = shard_contents(corpus)
    written = {path: path.stat().st_mtime_ns for path in (corpus / "shards").glob("*.tar")}
    damaged = corpus / "shards" / "shard-000001.tar"
    damaged.write_bytes(made[damaged.name].replace(b"hums", b"HUMS"))
    assert encode_shards(corpus, exported, *NETWORKS) == 0
    assert shard_contents(corpus) == made
    assert {path for path, when in written.items() if path.stat().st_mtime_ns != when} == {damaged}


def test_shards_whose_network_is_not_given_are_not_made_anew(corpus, exported, capsys):
    assert encode_shards(corpus, exported, *NETWORKS) == 0
    (corpus / "shards" / "shard-000001.tar").unlink()
    assert encode_shards(corpus, exported, "codec", "text_encoder") == 2
    assert "give --audio_encoder as well" in capsys.readouterr().err


def test_another_tokenizer_counts_anew_and_encodes_nothing(corpus, exported, tmp_path):
    assert encode_shards(corpus, exported, *NETWORKS) == 0
    made = shard_contents(corpus)
    other = tmp_path / "other"
    other.mkdir()
    tiny.text_encoder().tokenizer.save(str(other / "tokenizer.json"))
    assert encode_shards(corpus, exported, tokenizer=str(other)) == 0
    after = shard_contents(corpus)
    assert {name for name in made if made[name] != after[name]} == {
        store.INDEX,
        *(f"shard-00000{number}.json" for number in range(3)),
    }
    with pytest.raises(ValueError, match="counted with another tokenizer"):
        ShardSet(corpus / "shards").words(tiny.vocabulary())


def test_rows_that_cannot_be_encoded_are_left_out_of_shards(corpus, exported, caplog, capsys):
    (corpus / "1-0.wav").write_bytes(b"RIFF")
    assert encode_shards(corpus, exported, *NETWORKS, damaged_share="0.5") == 0
    assert "row-1: it is left out" in caplog.text
    held = ShardSet(corpus / "shards")
    assert [held.read(number)[0].id for number in range(len(held))] == [f"row-{number}" for number in (0, 2, 3, 4, 5)]
    assert encode_shards(corpus, exported, *NETWORKS) == 2
    assert "1 of 6 rows could not be encoded, at most 1.0% may" in capsys.readouterr().err


def test_a_store_and_shards_do_not_mix(corpus, exported, capsys):
    assert encode(corpus, exported, "codec") == 0
    assert encode_shards(corpus, exported, "codec", output=str(corpus / "latents")) == 2
    assert "holds a store, no shards" in capsys.readouterr().err
    assert encode_shards(corpus, exported, "codec") == 0
    assert encode(corpus, exported, "codec", output=str(corpus / "shards")) == 2
    assert "holds shards, no store" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_starts_the_processes(corpus, exported):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "scripts/encode_latents.py"]
    options = [str(corpus / "manifest.jsonl"), "--output", str(corpus / "latents"), "--num_listening=4"]
    networks = [f"--{name}={exported}" for name in NETWORKS]
    done = subprocess.run(
        [*command, *options, *networks], cwd=commands.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Store(corpus / "latents").features("heard-3.wav").shape == (2, 4, 16)
