"""Scores recordings of any system against items: lengths, joins, levels, and what published networks hear.

    sides = {"truth": read_references(items), "mini": read_recorded(folder, items)}
    kept, notes = common(items, sides)
    cuts = {name: cut_events([side.stories[item.id] for item in kept], workshop / name) for name, side in sides.items()}
    scored = score(kept, sides["mini"], sides["truth"], METRICS, networks, cuts["mini"], cuts["truth"])

All systems are scored on the same items, those that every one of them and the references have: a distance between sets
depends on how many there are, and an easy half of the items is easier. What that leaves out is named in the notes, and
"stories told" counts a system's own failures. Stories are embedded whole and event by event: VGGish has a vector for
every second of a story, so long stories weigh more there; Cnn14 has one per recording, in which a long story is
averaged away, so its events say more. Of events there are distances between sets alone: KL wants pairs, and plans
differ. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
from audiostory.benchmark.metrics.sets import few_vectors, unequal_numbers
from audiostory.benchmark.recorded import Item, Recorded, RecordedStory, read_events
from audiostory.benchmark.soundworld import others

SIGNAL = ("durations", "joins", "levels")  # measured on samples, without a network
NETWORKS = ("vggish", "cnn14_16k", "cnn14_32k", "clap")
METRICS = (*SIGNAL, *NETWORKS)
Cuts = Mapping[str, Sequence[Path | None]]  # a file for each event of a story, None where there is no sound
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


def cut_events(stories: Sequence[RecordedStory], folder: Path, progress: str = "") -> Cuts:
    """A file per event, cut out of its story into `folder`. A story of one event is its own cut. `progress` names the
    system in the bar, if any."""
    cuts: dict[str, list[Path | None]] = {}
    bar = f"events of {progress}" if progress else ""
    for story in tqdm(stories, desc=bar, unit="story", disable=not bar):
        if len(story.events) == 1:
            cuts[story.id] = [story.audio]
            continue
        files: list[Path | None] = []
        for number, piece in enumerate(read_events(story, cut=True), start=1):
            file = folder / story.id / f"{number:02d}.wav"
            if piece is not None:
                sound.write(file, piece)
            files.append(file if piece is not None else None)
        cuts[story.id] = files
    return cuts


def score(
    items: Sequence[Item],
    told: Recorded,
    references: Recorded,
    metrics: Sequence[str],
    networks: Networks,
    cuts: Cuts,
    true_cuts: Cuts,
    *,
    fade_seconds: float = 0.0,
    seed: int = 0,
    shown: Sequence[str] = (),
    progress: str = "",
) -> Scored:
    """One system on `items`, which both sides have. `cuts` are the events of its stories, `true_cuts` those of the
    references, as `cut_events` cuts them; for metrics that are no network's none are needed.

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
    true_files = {item.id: references.stories[item.id].audio for item in items}
    listening = _Listening(stories, true_files, cuts, true_cuts, networks.cache, seed, each, progress)
    if "vggish" in metrics and networks.vggish:
        scores |= listening.patches(networks.vggish)
    for name in metrics:
        if network := networks.cnn14.get(name):
            scores |= listening.recordings(network)
    if "clap" in metrics and networks.clap:
        captions = [item.caption for item in items]
        scores |= listening.words(networks.clap, captions)
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
        true_files: Mapping[str, Path],
        cuts: Cuts,
        true_cuts: Cuts,
        cache: Path,
        seed: int,
        each: _Each,
        progress: str,
    ) -> None:
        self.stories = {story.id: story for story in stories}
        self.files, self.true_files = {story.id: story.audio for story in stories}, true_files
        self.events, self.true_events = _by_event(cuts, self.files), _by_event(true_cuts, self.files)
        self.cache, self.seed, self.each, self.progress = cache, seed, each, progress
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}
        self.fits: dict[str, Any] = {}

    def patches(self, network: Embedder) -> dict[str, Score]:
        """FAD and its kin over the vectors of all patches, of whole stories and of their events."""
        heard, true = self._both(network)
        generated = heard.vectors()
        scores = self._distances(network, "FAD", generated, true.vectors(), len(heard.arrays))
        if len(generated) > SMALLEST:
            line = frechet_infinity(generated, true.vectors(), seed=self.seed)
            scores[f"FAD-infinity ({network.name})"] = _distance(line.value, len(heard.arrays))
            self.fits[network.name] = {"fad_infinity_r_squared": line.r_squared}
        else:
            self._warn(f"{network.name}: {len(generated)} vectors are too few for FAD-infinity, which needs {SMALLEST}")
        if events := self._both_events(network):
            heard, true = events
            scores |= self._distances(network, "FAD of events", heard.vectors(), true.vectors(), len(heard.arrays))
        return scores

    def recordings(self, network: Embedder) -> dict[str, Score]:
        """FD over one vector per story and per event, the divergence from each story's reference, and the inception
        score."""
        heard, true = self._both(network)
        told, truth = heard.rows("logits"), true.rows("logits")
        scores = {
            **self._distances(network, "FD", heard.vectors(), true.vectors(), len(told)),
            **_named(_divergences(told, truth), network),
        }
        self.each.add({id: id for id in told}, lambda id: _divergences({id: told[id]}, truth), _name(network))
        if len(told) >= SPLITS:
            scores[f"{INCEPTION} ({network.name})"] = inception_score(np.stack([*told.values()])).score
        else:
            self._warn(f"{network.name}: an inception score needs {SPLITS} recordings, there are {len(told)}")
        if events := self._both_events(network):
            heard, true = events
            scores |= self._distances(network, "FD of events", heard.vectors(), true.vectors(), len(heard.arrays))
        return scores

    def words(self, network: Matcher, captions: Sequence[str]) -> dict[str, Score]:
        """Whether sounds fit their captions, follow their order, and belong together."""
        wholes = self._embedded(network, self.files, "stories").rows()
        events = self._embedded(network, self.events, "events").rows() if self.events else {}
        texts = sorted({event.caption for story in self.stories.values() for event in story.events} | {*captions})
        vectors = dict(zip(texts, network.texts(texts), strict=True))
        silent = np.full(len(vectors[texts[0]]), np.nan)
        embedded = [
            EmbeddedStory(
                id=id,
                texts=tuple(event.caption for event in story.events),
                sounds=np.stack([events.get(_event(id, k), silent) for k in range(len(story.events))]),
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

    def _both_events(self, network: Embedder) -> tuple[Features, Features] | None:
        """Of the events of both; None where each story is a single one, which says nothing new, or where hardly any
        event has a sound."""
        numbers = len(self.events), len(self.true_events)
        if min(numbers) < 2 or max(numbers) <= len(self.files):
            return None
        return (
            self._embedded(network, self.events, "events"),
            self._embedded(network, self.true_events, "events of the references"),
        )

    def _embedded(self, network: Embedder, files: Mapping[str, Path], what: str) -> Features:
        bar = f"{network.name}: {what} of {self.progress}" if self.progress else ""
        features = embed(files, network, self.cache, progress=bar)
        self.notes += features.notes
        self.facts.setdefault(network.name, dict(features.facts))
        return features

    def _distances(
        self, network: Embedder, name: str, generated: np.ndarray, reference: np.ndarray, num: int
    ) -> dict[str, Score]:
        """The Fréchet distance under its name, as "FAD of events", and the kernel distance of the same, of `num`
        recordings."""
        what = f"{name} ({network.name})"
        for note in (
            unequal_numbers(len(generated), len(reference), f"vectors of {what}"),
            few_vectors(len(generated), len(reference), generated.shape[1], what),
        ):
            self._warn(note)
        scores = {what: _distance(frechet_distance(generated, reference), num)}
        kernel = " ".join(["KAD", *name.split()[1:]])
        try:
            found = kernel_distance(generated, reference)
        except ValueError as error:
            self._warn(f"{network.name}: no {kernel}, {error}")
            return scores
        self.facts[network.name] |= {f"{kernel} bandwidth": found.bandwidth}
        return scores | {f"{kernel} ({network.name})": _distance(found.value, num)}

    def _warn(self, note: str | None) -> None:
        if note and note not in self.notes:
            self.notes.append(note)


def _distance(value: float, num: int) -> Score:
    """A figure of a whole set, so without an interval; it counts recordings."""
    return Score(mean=value, low=float("nan"), high=float("nan"), num=num)


def _by_event(cuts: Cuts, asked: Collection[str]) -> dict[str, Path]:
    """The files by a name for each event, of the stories asked for."""
    files = {_event(id, k): file for id in asked for k, file in enumerate(cuts.get(id, ()))}
    return {name: file for name, file in files.items() if file is not None}


def _event(id: str, number: int) -> str:
    return f"{id}\n{number}"  # no id holds the end of a line


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
