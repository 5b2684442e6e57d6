"""Order following on embeddings made by hand and at random: truth first, shuffled last, chance where all is alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.benchmark.metrics.retrieval import EmbeddedStory, score_cosines, score_order

ACCURACY, RANK = "own caption first, of the story", "1 / rank of own caption, of the story"


def story(sounds, captions, texts=None, id="s", **whole):
    texts = texts or tuple(f"{id} {k}" for k in range(len(captions)))
    return EmbeddedStory(
        id=id, texts=texts, sounds=np.array(sounds, float), captions=np.array(captions, float), **whole
    )


def random_stories(rng, num, *, noise, dimensions=24):
    """Sounds near their captions."""
    stories = []
    for k in range(num):
        captions = rng.standard_normal((rng.integers(2, 7), dimensions))
        sounds = captions + noise * rng.standard_normal(captions.shape)
        stories.append(story(sounds, captions, id=str(k)))
    return stories


def means(stories):
    return {name: score.mean for name, score in score_order(stories).scores.items()}


def test_ranks_counted_on_fingers():
    captions = np.eye(3)
    sounds = [[1, 0, 0], [0.9, 0.5, 0], [0.9, 0.8, 0.1]]  # ranks 1, 2, 3
    scores = means([story(sounds, captions)])
    assert scores[ACCURACY] == pytest.approx(1 / 3)
    assert scores[RANK] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert scores[f"{ACCURACY}, by chance"] == pytest.approx(1 / 3)
    assert scores[f"{RANK}, by chance"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_the_harder_form_has_the_captions_of_all_stories_to_choose_from():
    one = story([[1, 0, 0.9], [0, 1, 0]], [[1, 0, 0], [0, 1, 0]], id="one")
    other = story([[0, 0, 1]], [[0.7, 0, 0.9]], id="other")
    scores = score_order([one, other])
    assert scores.scores[ACCURACY].mean == 1.0
    assert scores.scores["own caption first, of all stories"].mean == pytest.approx(2 / 3)
    assert scores.scores["own caption first, of all stories, by chance"].mean == pytest.approx(1 / 3)
    assert scores.left_out == ("other",)
    assert scores.scores[ACCURACY].num == 2


def test_a_sound_that_comes_back_may_find_either_of_its_captions():
    captions = [[1, 0], [0, 1], [1, 0]]
    scores = score_order([story(captions, captions, texts=("dog", "rain", "dog"))]).scores
    assert scores[ACCURACY].mean == 1.0
    assert scores[f"{ACCURACY}, by chance"].mean == 0.5
    alone = story(captions[:1] * 2, captions[:1] * 2, texts=("dog", "dog"))
    assert score_order([alone]).left_out == ("s",)


@pytest.mark.parametrize("sound", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], ids=["like all", "like none"])
def test_sounds_that_are_all_alike_are_worth_chance_and_no_more(sound):
    scores = means([story([sound] * 3, np.eye(3))])
    assert scores[ACCURACY] == pytest.approx(scores[f"{ACCURACY}, by chance"])
    assert scores[RANK] == pytest.approx(scores[f"{RANK}, by chance"])


def test_one_sound_for_all_events_is_worth_chance_however_it_is_placed():
    sound = np.array([0.9, 0.3, 0.1])
    assert means([story([sound] * 3, np.eye(3))])[ACCURACY] == pytest.approx(1 / 3)


def test_an_event_without_sound_finds_nothing_and_is_still_asked():
    captions = np.eye(3)
    silent = captions.copy()
    silent[1] = np.nan
    scores = score_order([story(silent, captions)]).scores
    assert (scores[ACCURACY].mean, scores[ACCURACY].num) == (pytest.approx(2 / 3), 3)
    assert scores[RANK].mean == pytest.approx(2 / 3)
    untold = score_order([story(np.full((3, 3), np.nan), captions)]).scores
    assert (untold[ACCURACY].mean, untold[RANK].mean) == (0.0, 0.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_truth_is_first_and_a_story_whose_clips_are_swapped_retrieves_worse(seed, noise):
    rng = np.random.default_rng(seed)
    truth = random_stories(rng, 4, noise=noise * 0.2)
    swapped = [story(np.roll(one.sounds, 1, axis=0), one.captions, id=one.id) for one in truth]
    best, worst = means(truth), means(swapped)
    for name, value in best.items():
        if not name.endswith("chance"):
            assert value == 1.0
            assert worst[name] < value
    assert worst[ACCURACY] == 0.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_ranks_have_no_scale_and_no_favourite_direction(seed, scale):
    rng = np.random.default_rng(seed)
    stories = random_stories(rng, 3, noise=2.0)
    turn, _ = np.linalg.qr(rng.standard_normal((24, 24)))
    turned = [story(scale * one.sounds @ turn, one.captions @ turn / scale, id=one.id) for one in stories]
    assert means(turned) == pytest.approx(means(stories))


def test_sounds_that_have_nothing_to_do_with_their_captions_are_near_chance():
    rng = np.random.default_rng(0)
    stories = [story(rng.standard_normal((4, 16)), rng.standard_normal((4, 16)), id=str(k)) for k in range(400)]
    scores = score_order(stories).scores
    for name in (ACCURACY, RANK):
        assert scores[name].low < scores[f"{name}, by chance"].mean < scores[name].high


def test_more_noise_is_less_order():
    scores = [means(random_stories(np.random.default_rng(1), 60, noise=noise))[ACCURACY] for noise in (0, 3, 9, 100)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1.0
    assert scores[-1] < 0.5


def test_the_plain_cosine_is_a_mean_over_events_and_over_stories():
    one = story([[1, 0], [0, 2]], [[2, 0], [1, 1]], whole_sound=np.array([1.0, 0]), whole_caption=np.array([0.0, 1]))
    other = story([[np.nan, np.nan]], [[1, 0]], whole_sound=np.array([np.nan] * 2), whole_caption=np.array([1.0, 1]))
    scores = score_cosines([one, other])
    assert scores["cosine of event and caption"].mean == pytest.approx((1 + 0.5**0.5 + 0) / 3)
    assert (scores["cosine of story and caption"].mean, scores["cosine of story and caption"].num) == (0.0, 2)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sounds": np.eye(2)}, "as many embeddings"),
        ({"texts": ("a",)}, "as many embeddings"),
        ({"captions": np.full((3, 3), np.nan)}, "not finite"),
        ({"whole_sound": np.zeros(3)}, "two vectors of 3"),
        ({"whole_sound": np.zeros(2), "whole_caption": np.zeros(3)}, "two vectors of 3"),
    ],
)
def test_embeddings_that_do_not_fit_are_named(changes, match):
    fits = {"id": "s", "texts": ("a", "b", "c"), "sounds": np.eye(3), "captions": np.eye(3)}
    with pytest.raises(ValueError, match=match):
        EmbeddedStory(**{**fits, **changes})
