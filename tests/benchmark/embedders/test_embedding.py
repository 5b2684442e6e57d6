"""Features of files: heard once, never stale, and nothing passed over in silence."""

from dataclasses import replace

import numpy as np
import pytest

from audiostory import sound
from audiostory.benchmark.embedders.embedding import embed
from audiostory.benchmark.embedders.recordings import Preparation
from audiostory.benchmark.metrics.frechet import frechet_distance

RATE = 8_000


class Counting:
    """An embedder of no network: a vector of (loudest, mean square, seconds) for each tenth of a second."""

    def __init__(self, version="weights 1", preparation=None, settings=None, factor=1.0):
        self.name, self.version, self.factor = "counting", version, factor
        self.preparation = preparation or Preparation(sample_rate=RATE)
        self.settings = settings or {"arithmetic": 1}
        self.batches = []

    def __call__(self, clips):
        self.batches.append([len(clip) for clip in clips])
        made = []
        for clip in clips:
            parts = np.array_split(clip, max(1, len(clip) * 10 // RATE))
            rows = [[np.abs(part).max(), np.square(part).mean(), len(part) / RATE] for part in parts]
            made.append({"embedding": self.factor * np.array(rows, np.float32), "logits": np.float32([[len(clip), 1]])})
        return made

    @property
    def num_heard(self):
        return sum(map(len, self.batches))


def write(path, seconds=0.5, seed=0, rate=RATE):
    samples = 0.3 * np.random.default_rng(seed).normal(size=int(seconds * rate))
    sound.write(path, sound.Waveform(samples=samples.astype(np.float32), sample_rate=rate))
    return path


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / f"{number}.wav", 0.2 + 0.1 * number, number) for number in range(5)]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "features"


def run(files, embedder, cache, **settings):
    return embed(files, embedder, cache, progress="", **settings)


def test_features_stand_by_name_in_the_order_given_and_metrics_take_them(files, cache):
    features = run(files[::-1], Counting(), cache)
    assert list(features.arrays) == ["4", "3", "2", "1", "0"]
    assert features.vectors().shape == (2 + 3 + 4 + 5 + 6, 3)
    assert {name: row.tolist() for name, row in features.rows("logits").items()}["4"] == [RATE * 0.6, 1]
    assert features.rows()["0"].shape == (3,)
    assert frechet_distance(features.vectors(), run(files, Counting(), cache).vectors()) == pytest.approx(0, abs=1e-9)
    assert (features.damaged, features.notes) == ({}, ())


def test_what_was_heard_once_is_not_heard_again(files, cache):
    first, second = Counting(), Counting()
    before, after = run(files, first, cache), run(files, second, cache)
    assert (first.num_heard, second.num_heard) == (5, 0)
    np.testing.assert_array_equal(before.vectors(), after.vectors())
    assert before.facts == after.facts


@pytest.mark.parametrize(
    "change",
    [
        {"version": "weights 2"},
        {"settings": {"arithmetic": 2}},
        {"preparation": Preparation(sample_rate=RATE, peak_db=-1.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_weights_settings_or_feeding_are_heard_anew_and_the_old_ones_kept(files, cache, change):
    old = run(files, Counting(), cache)
    changed = Counting(factor=2.0, **change)
    new = run(files, changed, cache)
    assert changed.num_heard == 5
    assert not np.array_equal(new.vectors(), old.vectors())
    again = Counting()
    np.testing.assert_array_equal(run(files, again, cache).vectors(), old.vectors())
    assert again.num_heard == 0


def test_another_recording_under_the_same_name_is_heard_anew(files, cache):
    old = run(files, Counting(), cache)
    write(files[2], 0.4, seed=77)
    embedder = Counting()
    new = run(files, embedder, cache)
    assert embedder.num_heard == 1
    changed = [name for name in new.arrays if not np.array_equal(new.rows()[name], old.rows()[name])]
    assert changed == ["2"]


def stored(cache):
    return sorted(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("harm", ["cut off", "a number changed", "another recording's", "empty"])
def test_a_damaged_store_is_made_anew_and_named(files, cache, harm):
    expected = run(files, Counting(), cache).vectors()
    first, second = stored(cache)[:2]
    content = first.read_bytes()
    broken = {
        "cut off": content[:-10],
        "a number changed": content[:-1] + bytes([content[-1] ^ 1]),
        "another recording's": second.read_bytes(),
        "empty": b"",
    }[harm]
    first.write_bytes(broken)
    embedder = Counting()
    features = run(files, embedder, cache)
    assert embedder.num_heard == 1
    np.testing.assert_array_equal(features.vectors(), expected)
    assert "1 stored embeddings were damaged and made anew" in features.notes[0]
    assert first.name in features.notes[0]
    assert run(files, Counting(), cache).notes == ()


def test_recordings_that_cannot_be_read_are_left_out_named_and_counted(files, cache, tmp_path):
    files[1].write_bytes(b"no recording")
    files[3].write_bytes(files[3].read_bytes()[:300])
    gone = tmp_path / "gone.wav"
    features = run([*files, gone], Counting(), cache)
    assert list(features.arrays) == ["0", "2", "4"]
    assert set(features.damaged) == {"1", "3", "gone"}
    assert "3 of 6 recordings were left out" in features.notes[0]
    for file in (files[1], files[3], gone):
        assert str(file) in features.notes[0]
    assert len(stored(cache)) == 3


def test_when_none_can_be_read_that_is_an_error(tmp_path, cache):
    with pytest.raises(ValueError, match=r"none of 1 recordings can be embedded by counting; the first: .*gone\.wav"):
        run([tmp_path / "gone.wav"], Counting(), cache)
    with pytest.raises(ValueError, match="none of 0 recordings"):
        run([], Counting(), cache)


def test_an_interrupted_run_goes_on_where_it_was_and_leaves_nothing_unfinished(files, cache):
    class Dying(Counting):
        def __call__(self, clips):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().__call__(clips)

    with pytest.raises(KeyboardInterrupt):
        run(files, Dying(), cache, batch_seconds=0.1)
    assert len([path for path in cache.rglob("*") if path.is_file()]) == len(stored(cache)) == 2
    embedder = Counting()
    run(files, embedder, cache)
    assert embedder.num_heard == 3


def test_batches_hold_so_many_seconds_and_change_nothing(files, cache, tmp_path):
    alone, together = Counting(), Counting()
    one = run(files, alone, cache, batch_seconds=0.01)
    all_at_once = run(files, together, tmp_path / "other")
    assert [len(batch) for batch in alone.batches] == [1] * 5
    assert [len(batch) for batch in together.batches] == [5]
    np.testing.assert_array_equal(one.vectors(), all_at_once.vectors())
    some = Counting()
    run(files, some, tmp_path / "third", batch_seconds=1.0)
    assert all(sum(batch) <= 1.0 * RATE for batch in some.batches)


def test_the_same_recording_under_two_names_is_heard_once_and_has_both(files, cache, tmp_path):
    twin = tmp_path / "twin.wav"
    twin.write_bytes(files[0].read_bytes())
    embedder = Counting()
    features = run({"a": files[0], "b": twin, "c": files[1]}, embedder, cache)
    assert embedder.num_heard == 2
    np.testing.assert_array_equal(features.rows()["a"], features.rows()["b"])
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"no recording")
    (tmp_path / "copy.wav").write_bytes(b"no recording")
    features = run({"x": broken, "y": tmp_path / "copy.wav", "a": files[0]}, embedder, cache)
    assert set(features.damaged) == {"x", "y"}


def test_files_of_one_name_need_names_of_their_own(tmp_path, cache):
    (tmp_path / "other").mkdir()
    pair = [write(tmp_path / "story.wav"), write(tmp_path / "other" / "story.wav", seed=1)]
    with pytest.raises(ValueError, match="several files have the name story"):
        run(pair, Counting(), cache)
    assert set(run({"one": pair[0], "two": pair[1]}, Counting(), cache).arrays) == {"one", "two"}


def test_the_facts_tell_all_that_features_depend_on(files, cache):
    facts = run(files, Counting(), cache).facts
    assert (facts["name"], facts["weights_sha256"], facts["settings"]) == ("counting", "weights 1", {"arithmetic": 1})
    assert facts["preparation"]["sample_rate"] == RATE
    assert facts["resampler"].startswith("soxr HQ ")


def test_both_sides_of_a_comparison_go_through_the_one_resampler(cache, tmp_path, monkeypatch):
    seen = []
    resample = sound.resample
    monkeypatch.setattr(sound, "resample", lambda waveform, rate: seen.append(rate) or resample(waveform, rate))
    run([write(tmp_path / "a.wav", rate=44_100), write(tmp_path / "b.wav", rate=16_000)], Counting(), cache)
    assert seen == [RATE, RATE]


def test_a_network_fed_from_files_hears_what_it_hears_of_samples(tmp_path, cache):
    import torch

    from audiostory.benchmark.embedders.recordings import prepare
    from audiostory.benchmark.embedders.vggish import Vggish, VggishNetwork

    torch.manual_seed(0)
    embedder = Vggish(VggishNetwork(width=2, hidden=8), "weights of a test")
    path = write(tmp_path / "a.wav", 2.0, rate=44_100)
    direct = embedder([prepare(sound.read(path), replace(Vggish.preparation))])[0]["embedding"]
    for _ in range(2):  # the second from the store
        np.testing.assert_array_equal(run([path], embedder, cache).vectors(), direct)
