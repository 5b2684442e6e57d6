"""Scores recordings of any system against items: lengths, joins, levels, and what published networks hear.

    sides = {"truth": read_references(items), "mini": read_recorded(folder, items)}
    kept, notes = common(items, sides)
    scored = score(kept, sides["mini"], sides["truth"], networks, workshop)

All systems are scored on the same items, those that every one of them and the references have: a distance between sets
depends on how many there are, and an easy half of the items is easier. What that leaves out is named in the notes, and
"stories told" counts a system's own failures. Stories are embedded whole and event by event: VGGish has a vector for
every second of a story, so long stories weigh more there; Cnn14 has one per recording. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from audiostory import sound
from audiostory.benchmark.embedders.embedding import Embedder, Features, embed
from audiostory.benchmark.intervals import Score, bootstrap
from audiostory.benchmark.metrics.consistency import score_consistency
from audiostory.benchmark.metrics.divergence import divergence
from audiostory.benchmark.metrics.duration import Lengths, score_durations
from audiostory.benchmark.metrics.frechet import frechet_distance
from audiostory.benchmark.metrics.frechet_infinity import SMALLEST, frechet_infinity
from audiostory.benchmark.metrics.inception import SPLITS, inception_score
from audiostory.benchmark.metrics.joins import measure_joins, score_joins
from audiostory.benchmark.metrics.kernel import kernel_distance
from audiostory.benchmark.metrics.levels import measure_levels, score_levels
from audiostory.benchmark.metrics.retrieval import EmbeddedStory, score_cosines, score_order
from audiostory.benchmark.metrics.sets import unequal_numbers
from audiostory.benchmark.recorded import Item, Recorded, RecordedStory, read_events
from audiostory.benchmark.soundworld import others

SIGNAL = ("durations", "joins", "levels")  # measured on samples, without a network
NETWORKS = ("vggish", "cnn14_16k", "cnn14_32k", "clap")
METRICS = (*SIGNAL, *NETWORKS)
INCEPTION = "inception score"


Of = TypeVar("Of")  # what a measure is taken of


class Matcher(Embedder, Protocol):
    """An embedder that has words in the same space, as CLAP."""

    def texts(self, captions: Sequence[str]) -> Float[np.ndarray, "n D"]: ...


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What was loaded; `cnn14` by the name of the metric. `cache` keeps features by content, for all systems."""

    cache: Path
    vggish: Embedder | None = None
    cnn14: Mapping[str, Embedder]
    clap: Matcher | None = None


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores by measure, warnings in words, and what the figures depend on: `facts` of what all systems have in common
    (networks, digests, bandwidths), `fits` of how well a line fits this system's distances, by network. `by_story` has
    the figures that a story has of its own, for those of which they were wanted."""

    scores: Mapping[str, Score]
    notes: tuple[str, ...]
    facts: Mapping[str, Any]
    fits: Mapping[str, Any] = field(default_factory=dict)
    by_story: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def common(items: Sequence[Item], sides: Mapping[str, Recorded]) -> tuple[list[Item], list[str]]:
    """The items that every side has a usable recording of, and what is to be said of the others.

    ValueError when fewer than 2 are left.
    """
    kept = [item for item in items if all(item.id in side.stories for side in sides.values())]
    notes = [f"{name}: {note}" for name, side in sides.items() for note in side.notes()]
    if len(kept) < len(items):
        notes.append(f"all systems are scored on the {len(kept)} of {len(items)} items that every one of them has")
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} of {len(items)} items have a recording of all sides; at least 2 are needed to score\n"
            + "\n".join(notes)
        )
    return kept, notes


def shuffled(items: Sequence[Item], references: Recorded, seed: int = 0) -> Recorded:
    """The floor: each item answered with the reference of another one, as if that were a recording of its own plan."""
    partners = [items[partner] for partner in others(len(items), seed)]
    stories = {
        item.id: replace(references.stories[partner.id], id=item.id, events=item.events)
        for item, partner in zip(items, partners, strict=True)
    }
    return Recorded(stories=stories, faults=(), extra=())


def score(
    items: Sequence[Item],
    told: Recorded,
    references: Recorded,
    metrics: Sequence[str],
    networks: Networks,
    workshop: Path,
    *,
    fade_seconds: float = 0.0,
    seed: int = 0,
    shown: Sequence[str] = (),
    progress: str = "",
) -> Scored:
    """One system on `items`, which both sides have. `workshop` takes the events that are cut out of its stories.

    Stories are looked at by the system's own plan where it left one. `fade_seconds`: see metrics/joins.py; the same for
    all systems. `shown` are the ids of stories whose own figures are wanted. `progress` names the system in the bars;
    "" for none.
    """
    stories = [told.stories[item.id] for item in items]
    num_asked = len(told.stories) + len(told.faults)
    scores = {"stories told": bootstrap([[1.0]] * len(told.stories) + [[0.0]] * (num_asked - len(told.stories)))}
    each = _Each(by_story={item.id: {} for item in items if item.id in shown})
    if "durations" in metrics:
        lengths = {item.id: _lengths(item, story) for item, story in zip(items, stories, strict=True)}
        scores |= score_durations([*lengths.values()])
        each.add(lengths, lambda one: score_durations([one]))
    if {"joins", "levels"} & {*metrics}:
        scores |= _signal_scores(stories, metrics, fade_seconds, each, progress)
    true_stories = [references.stories[item.id] for item in items]
    listening = _Listening(stories, true_stories, networks.cache, seed, each, progress)
    if "vggish" in metrics and networks.vggish:
        scores |= listening.patches(networks.vggish)
    for name in metrics:
        if network := networks.cnn14.get(name):
            scores |= listening.recordings(network)
    if "clap" in metrics and networks.clap:
        captions = [item.caption for item in items]
        scores |= listening.words(networks.clap, captions, _cuts(stories, workshop, progress))
    return Scored(
        scores=scores,
        notes=tuple(listening.notes),
        facts=listening.facts,
        fits=listening.fits,
        by_story=each.by_story,
    )


@dataclass(frozen=True, kw_only=True)
class _Each:
    """The figures of single stories, by id and measure; those that are here are filled in."""

    by_story: dict[str, dict[str, float]]

    def add(self, stories: Mapping[str, Of], measure: Callable[[Of], Mapping[str, Score]], name: str = "{}") -> None:
        """What a measure says of each story alone; what it does not ask of it is left out."""
        for id, own in self.by_story.items():
            if id in stories:
                found = measure(stories[id])
                own |= {name.format(what): score.mean for what, score in found.items() if score.num}


class _Listening:
    """What networks make of one system's stories and of the references. Notes and facts gather on the way."""

    def __init__(
        self,
        stories: Sequence[RecordedStory],
        references: Sequence[RecordedStory],
        cache: Path,
        seed: int,
        each: _Each,
        progress: str,
    ) -> None:
        self.stories = {story.id: story for story in stories}
        self.files = {story.id: story.audio for story in stories}
        self.true_files = {story.id: story.audio for story in references}
        self.cache, self.seed, self.each, self.progress = cache, seed, each, progress
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self.fits: dict[str, Any] = {}

    def patches(self, network: Embedder) -> dict[str, Score]:
        """FAD and its kin over the vectors of all patches of all stories."""
        heard, true = self._both(network)
        generated, reference = heard.vectors(), true.vectors()
        self._warn(unequal_numbers(len(generated), len(reference), f"{network.name} vectors"))
        scores = {f"FAD ({network.name})": self._distance(frechet_distance(generated, reference))}
        if len(generated) > SMALLEST:
            line = frechet_infinity(generated, reference, seed=self.seed)
            scores[f"FAD-infinity ({network.name})"] = self._distance(line.value)
            self.fits[network.name] = {"fad_infinity_r_squared": line.r_squared}
        else:
            self._warn(f"{network.name}: {len(generated)} vectors are too few for FAD-infinity, which needs {SMALLEST}")
        return scores | self._kernel(network, generated, reference)

    def recordings(self, network: Embedder) -> dict[str, Score]:
        """FD over one vector per story, the divergence from each story's reference, and the inception score."""
        heard, true = self._both(network)
        generated, reference = np.stack([*heard.rows().values()]), np.stack([*true.rows().values()])
        self._warn(unequal_numbers(len(generated), len(reference), f"recordings heard by {network.name}"))
        told, truth = heard.rows("logits"), true.rows("logits")
        scores = {
            f"FD ({network.name})": self._distance(frechet_distance(generated, reference)),
            **self._kernel(network, generated, reference),
            **_named(_divergences(told, truth), network),
        }
        self.each.add({id: id for id in told}, lambda id: _divergences({id: told[id]}, truth), _name(network))
        if len(generated) >= SPLITS:
            logits = np.stack([*heard.rows("logits").values()])
            scores[f"{INCEPTION} ({network.name})"] = inception_score(logits).score
        else:
            self._warn(f"{network.name}: an inception score needs {SPLITS} recordings, there are {len(generated)}")
        return scores

    def words(
        self, network: Matcher, captions: Sequence[str], cuts: Mapping[str, Sequence[Path | None]]
    ) -> dict[str, Score]:
        """Whether sounds fit their captions, follow their order, and belong together."""
        wholes = self._embedded(network, self.files, "stories").rows()
        pieces = {(id, k): file for id, files in cuts.items() for k, file in enumerate(files) if file is not None}
        named = {f"{id}\n{k}": file for (id, k), file in pieces.items()}
        events = self._embedded(network, named, "events").rows() if named else {}
        texts = sorted({event.caption for story in self.stories.values() for event in story.events} | {*captions})
        vectors = dict(zip(texts, network.texts(texts), strict=True))
        silent = np.full(len(vectors[texts[0]]), np.nan)
        embedded = [
            EmbeddedStory(
                id=id,
                texts=tuple(event.caption for event in story.events),
                sounds=np.stack([events.get(f"{id}\n{k}", silent) for k in range(len(story.events))]),
                captions=np.stack([vectors[event.caption] for event in story.events]),
                whole_sound=wholes.get(id, silent),
                whole_caption=vectors[caption],
            )
            for (id, story), caption in zip(self.stories.items(), captions, strict=True)
        ]
        scores = score_cosines(embedded)
        each, by_id = self.each, {story.id: story for story in embedded}
        each.add(by_id, lambda one: score_cosines([one]), _name(network))
        if any(len(story.texts) > 1 for story in embedded):
            order = score_order(embedded)
            scores |= order.scores | score_consistency({story.id: story.sounds for story in embedded}).scores
            each.add(by_id, _own_order, _name(network))
            each.add(by_id, lambda one: score_consistency({one.id: one.sounds}).scores, _name(network))
            if order.left_out:
                self._warn(f"{len(order.left_out)} stories have one caption only; their order is not asked")
        return _named(scores, network)

    def _both(self, network: Embedder) -> tuple[Features, Features]:
        """Features of the stories and of the references that can both be heard."""
        heard = self._embedded(network, self.files, "stories")
        true = self._embedded(network, self.true_files, "references")
        both = [id for id in self.files if id in heard.arrays and id in true.arrays]
        return _only(heard, both), _only(true, both)

    def _embedded(self, network: Embedder, files: Mapping[str, Path], what: str) -> Features:
        bar = f"{network.name}: {what} of {self.progress}" if self.progress else ""
        features = embed(files, network, self.cache, progress=bar)
        self.notes += features.notes
        self.facts.setdefault(network.name, dict(features.facts))
        return features

    def _kernel(self, network: Embedder, generated: np.ndarray, reference: np.ndarray) -> dict[str, Score]:
        try:
            found = kernel_distance(generated, reference)
        except ValueError as error:
            self._warn(f"{network.name}: no KAD, {error}")
            return {}
        self.facts[network.name] |= {"kad_bandwidth": found.bandwidth}
        return {f"KAD ({network.name})": self._distance(found.value)}

    def _distance(self, value: float) -> Score:
        """A figure of a whole set, so without an interval; it counts recordings, which all systems have as many of."""
        return Score(mean=value, low=float("nan"), high=float("nan"), num=len(self.files))

    def _warn(self, note: str | None) -> None:
        if note and note not in self.notes:
            self.notes.append(note)


def _name(network: Embedder) -> str:
    return f"{{}} ({network.name})"


def _named(scores: Mapping[str, Score], network: Embedder) -> dict[str, Score]:
    return {_name(network).format(measure): score for measure, score in scores.items()}


def _divergences(told: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, Score]:
    pairs = divergence(told, truth)
    return {
        "KL, reference to generated": pairs.kl_reference_to_generated,
        "KL, generated to reference": pairs.kl_generated_to_reference,
    }


def _own_order(story: EmbeddedStory) -> dict[str, Score]:
    """Among the captions of the story; those of all stories and chance are no figures of its own."""
    scores = score_order([story]).scores
    return {name: score for name, score in scores.items() if name.endswith("of the story")}


def _only(features: Features, ids: Sequence[str]) -> Features:
    return replace(features, arrays={id: features.arrays[id] for id in ids})


def _lengths(item: Item, story: RecordedStory) -> Lengths:
    return Lengths(
        asked=item.instruction.total_seconds,
        planned=story.planned if story.own_plan else None,
        measured=story.seconds,
        clips=story.clip_seconds if story.own_plan else (),
    )


def _signal_scores(
    stories: Sequence[RecordedStory], metrics: Sequence[str], fade_seconds: float, each: _Each, progress: str
) -> dict[str, Score]:
    joins, levels = {}, {}
    bar = f"samples of {progress}" if progress else ""
    for story in tqdm(stories, desc=bar, unit="story", disable=not bar):
        whole = sound.read(story.audio)
        if "joins" in metrics and len(story.events) > 1:
            begins = [event.start for event in story.events[1:]]
            joins[story.id] = measure_joins(whole.samples, whole.sample_rate, begins, fade_seconds)
        if "levels" in metrics:
            levels[story.id] = measure_levels(whole.samples, whole.sample_rate)
    each.add(joins, lambda one: score_joins([one]))
    each.add(levels, lambda one: score_levels([one]))
    return {
        **(score_joins([*joins.values()]) if joins else {}),
        **(score_levels([*levels.values()]) if levels else {}),
    }


def _cuts(stories: Sequence[RecordedStory], workshop: Path, progress: str) -> dict[str, list[Path | None]]:
    """A file per event, cut out of its story; None where there is no sound. A story of one event is its own cut."""
    cuts: dict[str, list[Path | None]] = {}
    bar = f"events of {progress}" if progress else ""
    for story in tqdm(stories, desc=bar, unit="story", disable=not bar):
        if len(story.events) == 1:
            cuts[story.id] = [story.audio]
            continue
        files: list[Path | None] = []
        for number, piece in enumerate(read_events(story, cut=True), start=1):
            file = workshop / story.id / f"{number:02d}.wav"
            if piece is not None:
                sound.write(file, piece)
            files.append(file if piece is not None else None)
        cuts[story.id] = files
    return cuts
