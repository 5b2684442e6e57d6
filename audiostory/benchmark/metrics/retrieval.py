"""Does a story follow its order? Each event's sound must find its own caption among those of the others.

Ranks have no scale, unlike a cosine, whose size says more about the network than about the sound; and a network that
hears every sound alike, or a system that makes them alike, is left with chance. Takes embeddings of any network that
puts sounds and words into one space. A caption that comes twice in a story is one answer, right for both events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from audiostory.benchmark.intervals import Score, bootstrap

TIE = 1e-6  # cosines that are nearer than this are equal: the same vectors give other last digits in another product


@dataclass(frozen=True, kw_only=True)
class EmbeddedStory:
    """E events of one story: the embeddings of their `sounds` and their `captions` (in words: `texts`), and of the
    whole story and its caption, if they were made. An event that has no sound is a row of NaN; of a story that was not
    told all are, and the whole is NaN.

    ValueError for shapes that do not fit each other, and captions that are not finite.
    """

    id: str
    texts: tuple[str, ...]
    sounds: Shaped[np.ndarray, "E D"]
    captions: Shaped[np.ndarray, "E D"]
    whole_sound: Shaped[np.ndarray, D] | None = None
    whole_caption: Shaped[np.ndarray, D] | None = None

    def __post_init__(self) -> None:
        shapes = np.shape(self.sounds), np.shape(self.captions)
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][0] != len(self.texts) or not self.texts:
            raise ValueError(
                f"story {self.id}: {len(self.texts)} captions should have as many embeddings of sounds and of words, "
                f"[events, dimensions]; got {list(shapes[0])} and {list(shapes[1])}"
            )
        whole = [np.shape(vector) for vector in (self.whole_sound, self.whole_caption) if vector is not None]
        if whole not in ([], [shapes[0][1:]] * 2):
            raise ValueError(f"story {self.id}: the whole needs two vectors of {shapes[0][1]} values; got {whole}")
        if not np.isfinite(self.captions).all():
            raise ValueError(f"story {self.id}: an embedding of a caption is not finite; embed the captions again")


@dataclass(frozen=True, kw_only=True)
class OrderScores:
    """`left_out` are the stories that have one caption only, which cannot be mistaken for another of their own; among
    all captions they are asked too."""

    scores: dict[str, Score]
    left_out: tuple[str, ...]


def score_order(stories: Sequence[EmbeddedStory]) -> OrderScores:
    """How often an event's own caption is the nearest (accuracy), and the mean of 1 / its rank.

    Among the captions of its own story, and, harder, among those of all. Equal cosines share their ranks as chance
    would deal them out. An event without sound finds nothing: 0. Beside each stands what chance would reach.
    """
    asked = [len(set(story.texts)) > 1 for story in stories]
    own = [_among(story, _distinct([story])) for story in stories]
    everything = _distinct(stories)
    every = [_among(story, everything) for story in stories] if len(everything.texts) > 1 else []
    return OrderScores(
        scores={
            **_means("of the story", [ranks for ranks, wanted in zip(own, asked, strict=True) if wanted]),
            **_means("of all stories", every),
        },
        left_out=tuple(story.id for story, wanted in zip(stories, asked, strict=True) if not wanted),
    )


def score_cosines(stories: Sequence[EmbeddedStory]) -> dict[str, Score]:
    """The plain CLAP score: the mean cosine of sound and caption, event by event and for the whole story.

    What has no sound counts as 0, the cosine of things that have nothing to do with each other.
    """
    wholes = [
        (story.whole_sound, story.whole_caption)
        for story in stories
        if story.whole_sound is not None and story.whole_caption is not None
    ]
    return {
        "cosine of event and caption": bootstrap(
            np.nan_to_num((unit(story.sounds) * unit(story.captions)).sum(-1)).tolist() for story in stories
        ),
        "cosine of story and caption": bootstrap(
            [float(np.nan_to_num((unit(sound) * unit(words)).sum()))] for sound, words in wholes
        ),
    }


def unit(vectors: Shaped[np.ndarray, "*N D"]) -> Shaped[np.ndarray, "*N D"]:
    """At length 1, in float64; a vector of zeros stays one, so that it is like nothing."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """What can be answered: different captions, and where each of them stands."""

    texts: dict[str, int]
    captions: Shaped[np.ndarray, "A D"]


@dataclass(frozen=True, kw_only=True)
class _Ranks:
    """Of the events of one story: the expected hit and the expected 1 / rank, and what chance reaches."""

    hits: list[float]
    reciprocals: list[float]
    chance: tuple[float, float]


def _distinct(stories: Sequence[EmbeddedStory]) -> _Answers:
    texts: dict[str, int] = {}
    rows = []
    for story in stories:
        for text, caption in zip(story.texts, story.captions, strict=True):
            if text not in texts:
                texts[text] = len(rows)
                rows.append(caption)
    return _Answers(texts=texts, captions=unit(np.stack(rows)))


def _among(story: EmbeddedStory, answers: _Answers) -> _Ranks:
    cosines = unit(story.sounds) @ answers.captions.T  # [E, A]
    own = cosines[np.arange(len(story.texts)), [answers.texts[text] for text in story.texts], None]  # [E, 1]
    nearer = (cosines > own + TIE).sum(-1)
    tied = (np.abs(cosines - own) <= TIE).sum(-1)  # 0 for NaN, which is near to nothing, not even itself
    inverse = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(answers.texts) + 1))])  # sums of 1 / rank
    share = np.where(tied > 0, 1 / np.maximum(tied, 1), 0.0)
    hits, reciprocals = share * (nearer == 0), share * (inverse[nearer + tied] - inverse[nearer])
    num = len(answers.texts)
    return _Ranks(hits=hits.tolist(), reciprocals=reciprocals.tolist(), chance=(1 / num, float(inverse[num]) / num))


def _means(among: str, ranks: Sequence[_Ranks]) -> dict[str, Score]:
    return {
        f"own caption first, {among}": bootstrap(story.hits for story in ranks),
        f"own caption first, {among}, by chance": bootstrap([story.chance[0]] * len(story.hits) for story in ranks),
        f"1 / rank of own caption, {among}": bootstrap(story.reciprocals for story in ranks),
        f"1 / rank of own caption, {among}, by chance": bootstrap(
            [story.chance[1]] * len(story.hits) for story in ranks
        ),
    }
