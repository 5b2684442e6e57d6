"""The suite over recordings, with networks that hear one thing, the pitch, so that every answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audiostory import sound
from audiostory.benchmark.embedders.recordings import Preparation
from audiostory.benchmark.metrics.frechet_infinity import frechet_infinity
from audiostory.benchmark.recorded import Item, read_recorded, read_references
from audiostory.benchmark.scoring import METRICS, NETWORKS, Networks, Scored, common, cut_events, score, shuffled
from audiostory.story import Event, Instruction

RATE = 16_000
PITCHES = (300.0, 700.0, 1500.0, 3100.0, 6000.0)  # Hz
SIGNAL = ["durations", "joins", "levels"]


class Pitch:
    """Hears the level at each pitch: a vector of length 1 for every second, or for the whole recording."""

    version, settings = "0", {"arithmetic": 1}
    preparation = Preparation(sample_rate=RATE)

    def __init__(self, name: str, *, patches: bool = False) -> None:
        self.name, self.patches = name, patches

    def __call__(self, clips: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        heard = []
        for clip in clips:
            parts = np.array_split(clip, max(1, len(clip) // RATE)) if self.patches else [clip]
            rows = np.stack([_levels(part) for part in parts])
            heard.append({"embedding": rows, "logits": 20 * rows})
        return heard

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        named = np.array([[f"{pitch:g} Hz" in caption for pitch in PITCHES] for caption in captions], float)
        return named / np.linalg.norm(named, axis=1, keepdims=True)


def _levels(samples: np.ndarray) -> np.ndarray:
    t = np.arange(len(samples)) / RATE
    levels = np.array([abs(np.mean(samples * np.exp(-2j * np.pi * pitch * t))) for pitch in PITCHES])
    return levels / max(float(np.linalg.norm(levels)), 1e-9)


def tones(pitches: Sequence[float], seed: int = 0) -> sound.Waveform:
    """A second of each, with a little noise."""
    t = np.arange(RATE) / RATE
    samples = np.concatenate([0.3 * np.sin(2 * np.pi * pitch * t) for pitch in pitches])
    noise = 0.003 * np.random.default_rng(seed).standard_normal(len(samples))
    return sound.Waveform(samples=(samples + noise)[None].astype(np.float32), sample_rate=RATE)


def item(number: int, folder: Path) -> Item:
    pitches = np.roll(PITCHES, number)[: 2 + number % 3]
    captions = [f"a tone of {pitch:g} Hz" for pitch in pitches]
    reference = folder / f"{number:02d}.wav"
    sound.write(reference, tones(pitches, seed=number))
    return Item(
        id=f"item-{number:02d}",
        instruction=Instruction(text=", then ".join(captions), total_seconds=float(len(pitches))),
        caption=", then ".join(captions),
        events=tuple(Event(caption=words, start=float(k), seconds=1.0) for k, words in enumerate(captions)),
        reference=reference,
    )


@pytest.fixture(scope="module")
def items(tmp_path_factory) -> list[Item]:
    folder = tmp_path_factory.mktemp("references")
    return [item(number, folder) for number in range(12)]


@pytest.fixture
def networks(tmp_path) -> Networks:
    return Networks(
        cache=tmp_path / "features",
        vggish=Pitch("vggish", patches=True),
        cnn14={"cnn14_16k": Pitch("panns-cnn14-16k"), "cnn14_32k": Pitch("panns-cnn14-32k")},
        clap=Pitch("clap"),
    )


def told(folder: Path, items: Sequence[Item], pitches: Sequence[float] | None = None) -> Path:
    """A system that tells every item right, or with `pitches` always the same."""
    for number, one in enumerate(items):
        right = [float(event.caption.split()[-2]) for event in one.events]
        sound.write(folder / f"{one.id}.wav", tones(pitches or right, seed=100 + number))
    return folder


def scored(items, side, truth, metrics, networks, folder, **options) -> Scored:
    cuts = [
        cut_events([told.stories[one.id] for one in items], folder / name)
        for name, told in (("told", side), ("truth", truth))
    ]
    return score(items, side, truth, metrics, networks, *cuts, **options)


def test_the_truth_is_best_and_another_item_or_the_same_tone_worse_in_every_measure(items, networks, tmp_path):
    truth = read_references(items)
    columns = {
        "truth": truth,
        "right": read_recorded(told(tmp_path / "right", items), items),
        "same": read_recorded(told(tmp_path / "same", items, [PITCHES[0]] * 3), items),
        "shuffled": shuffled(items, truth),
    }
    scores = {
        name: scored(items, side, truth, METRICS, networks, tmp_path / "events" / name).scores
        for name, side in columns.items()
    }
    less = [
        "FAD (vggish)",
        "FD (panns-cnn14-16k)",
        "FD (panns-cnn14-32k)",
        "KL, reference to generated (panns-cnn14-16k)",
    ]
    less += ["KAD (vggish)", "KAD (panns-cnn14-32k)", "KL, generated to reference (panns-cnn14-32k)"]
    less += ["FAD of events (vggish)", "KAD of events (vggish)", "FD of events (panns-cnn14-32k)"]
    less += ["length: asked and measured (s)"]
    more = ["cosine of event and caption (clap)", "cosine of story and caption (clap)"]
    more += ["own caption is nearest, of the story (clap)", "own caption is nearest, of all stories (clap)"]
    asked = {name for name in scores["truth"] if name in (*less, *more)}
    assert len(asked) >= 12, sorted(scores["truth"])
    for name in asked:
        sign = -1 if name in less else 1
        values = {column: sign * found[name].mean for column, found in scores.items()}
        assert values["truth"] >= values["right"] - 1e-3, name
        assert values["right"] > values["same"], name
        if not np.isnan(scores["shuffled"][name].low):
            assert values["right"] > values["shuffled"], name
    assert scores["truth"]["FAD (vggish)"].mean == pytest.approx(0, abs=1e-9)
    assert scores["right"]["stories told"].mean == 1


def test_systems_are_scored_on_the_items_that_all_of_them_have_and_failures_are_counted(items, networks, tmp_path):
    folder = told(tmp_path / "right", items)
    (folder / f"{items[3].id}.wav").unlink()
    (folder / f"{items[5].id}.wav").write_bytes(b"noise")
    sides = {"right": read_recorded(folder, items), "truth": read_references(items)}
    kept, notes = common(items, sides)
    assert [one.id for one in items if one not in kept] == [items[3].id, items[5].id]
    assert any("10 of 12 items" in note for note in notes)
    assert any("right: 1 of 12 stories are missing" in note for note in notes)
    found = scored(kept, sides["right"], sides["truth"], SIGNAL, networks, tmp_path / "events")
    assert found.scores["stories told"].mean == pytest.approx(10 / 12)
    assert found.scores["loudness (LUFS)"].num == 10
    with pytest.raises(ValueError, match="1 of 12 items have a recording"):
        common(
            items, {**sides, "poor": replace(sides["truth"], stories=dict(list(sides["truth"].stories.items())[:1]))}
        )


def test_unequal_numbers_are_warned_of(items, networks, tmp_path):
    truth = read_references(items)
    longer = read_recorded(told(tmp_path / "longer", items, PITCHES), items)
    found = scored(items, longer, truth, ["vggish"], networks, tmp_path / "events")
    assert any("unequal numbers" in note for note in found.notes)
    assert any("too few for FAD-infinity" in note for note in found.notes)
    assert found.fits == {}


def test_fewer_vectors_than_features_are_warned_of(items, networks, tmp_path):
    truth = read_references(items)
    few = scored(items[:4], truth, truth, ["cnn14_16k"], networks, tmp_path / "events")
    assert "FD (panns-cnn14-16k) is mostly bias: 4 vectors of 5 features" in " ".join(few.notes)
    assert not [note for note in few.notes if "FD of events" in note]  # there are more events
    assert not [
        note
        for note in scored(items, truth, truth, ["cnn14_16k"], networks, tmp_path / "events").notes
        if "bias" in note
    ]


def test_events_of_another_plan_are_told_to_be_of_another_number(items, networks, tmp_path):
    truth = read_references(items)
    planned = {id: replace(story, events=story.events[:1]) for id, story in truth.stories.items()}
    found = scored(items, replace(truth, stories=planned), truth, ["cnn14_16k"], networks, tmp_path / "events")
    assert any("unequal numbers: 12 vectors of FD of events (panns-cnn14-16k)" in note for note in found.notes)
    assert found.scores["FD of events (panns-cnn14-16k)"].num == 12


def test_how_well_the_line_of_fad_infinity_fits_is_told_of_each_system(items, networks, tmp_path, monkeypatch):
    monkeypatch.setattr("audiostory.benchmark.scoring.SMALLEST", 10)
    monkeypatch.setattr(frechet_infinity, "__kwdefaults__", frechet_infinity.__kwdefaults__ | {"smallest": 10})
    truth = read_references(items)
    same = read_recorded(told(tmp_path / "same", items, [PITCHES[0]] * 3), items)
    found = [scored(items, side, truth, ["vggish"], networks, tmp_path / "events") for side in (truth, same)]
    assert found[0].facts == found[1].facts
    fits = [one.fits["vggish"]["fad_infinity_r_squared"] for one in found]
    assert fits[0] != fits[1]


def test_a_story_has_figures_of_its_own_whose_means_are_the_systems(items, networks, tmp_path):
    truth = read_references(items)
    right = read_recorded(told(tmp_path / "right", items), items)
    ids = [one.id for one in items]
    found = scored(items, right, truth, METRICS, networks, tmp_path / "events", shown=ids)
    assert list(found.by_story) == ids
    for measure in (
        "length: asked and measured (s)",
        "loudness (LUFS)",
        "KL, reference to generated (panns-cnn14-16k)",
        "cosine of story and caption (clap)",
        "neighbouring events alike (cosine) (clap)",
    ):
        own = [figures[measure] for figures in found.by_story.values()]
        assert np.mean(own) == pytest.approx(found.scores[measure].mean), measure
    names = {name for figures in found.by_story.values() for name in figures}
    assert "own caption first, of the story (clap)" in names
    assert not [name for name in names if "chance" in name or "of all stories" in name or "FD" in name]
    few = scored(items, right, truth, ["durations"], networks, tmp_path / "events", shown=ids[:2])
    assert list(few.by_story) == ids[:2]


def test_figures_are_the_same_again_and_come_from_the_cache(items, networks, tmp_path, monkeypatch):
    truth = read_references(items)
    right = read_recorded(told(tmp_path / "right", items), items)
    first = scored(items, right, truth, [*NETWORKS], networks, tmp_path / "events")
    monkeypatch.setattr(Pitch, "__call__", lambda *_: pytest.fail("heard again"))
    again = scored(items, right, truth, [*NETWORKS], networks, tmp_path / "events")
    assert repr(again) == repr(first)  # NaN, where there is no interval, is not equal to itself
    assert first.facts["clap"]["weights_sha256"] == "0"


def test_single_clips_have_no_order_and_no_consistency(items, networks, tmp_path):
    single = [replace(one, events=one.events[:1]) for one in items]
    truth = read_references(single)
    found = scored(single, truth, truth, ["levels", "clap"], networks, tmp_path / "events")
    assert "cosine of event and caption (clap)" in found.scores
    assert not [name for name in found.scores if "nearest" in name or "alike" in name]
    assert not [name for name in found.scores if "of events" in name]
    assert not (tmp_path / "events").exists()
