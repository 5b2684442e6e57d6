"""Captions whose scores are known, where aac-metrics is installed; without it, words on what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from audiostory.benchmark.metrics.captions import score_captions, words

TRUTH = ["a dog barks loudly twice", "rain falls on tin roofs"]
CIDER, ROUGE = "CIDEr-D, words split in Python", "ROUGE-L, words split in Python"


@pytest.fixture
def package():
    return pytest.importorskip("aac_metrics.functional", reason="the extra `captions` is not installed")


def means(captions, references, **options):
    return {name: score.mean for name, score in score_captions(captions, references, **options).items()}


def test_words_are_what_is_left_of_case_space_and_punctuation():
    assert words(" A dog,  isn't it? 3-4 times.\n") == "a dog isn't it 3 4 times"


def test_the_references_themselves_reach_the_top_and_shuffled_ones_nothing(package):
    references = [[caption.upper() + "."] for caption in TRUTH]
    assert means(TRUTH, references) == pytest.approx({CIDER: 10.0, ROUGE: 1.0})
    assert means(TRUTH[::-1], references) == pytest.approx({CIDER: 0.0, ROUGE: 0.0})


def test_a_caption_that_is_half_right_counted_by_hand(package):
    """No word is in both references, so all weigh log 2. Of "the dog barks", 2 of 3 words, 1 of 2 pairs and no triple
    are in the reference "a dog barks", which has as many: cosines 2/3, 1/2, 0 and 0, for equal lengths no penalty."""
    scores = score_captions(["the dog barks", "rain falls"], [["a dog barks"], ["rain falls"]])
    first, second = (2 / 3 + 1 / 2) / 4, (1 + 1) / 4  # a caption of two words has no triples
    assert scores[CIDER].mean == pytest.approx(10 * (first + second) / 2)
    assert scores[ROUGE].mean == pytest.approx((2 / 3 + 1) / 2)
    assert scores[CIDER].num == 2


def test_captions_of_one_recording_are_resampled_together(package):
    captions, references = TRUTH * 10, [[caption] for caption in TRUTH * 10]
    captions[::4] = ["wind"] * 5
    alone = score_captions(captions, references)[CIDER]
    together = score_captions(captions, references, [k // 4 for k in range(20)])[CIDER]
    assert alone.mean == together.mean
    assert together.high - together.low < 1e-9 < alone.high - alone.low  # each recording has one that is wrong


def test_with_java_the_captions_go_through_its_tokenizer_and_spider_is_the_mean(package, monkeypatch):
    torch = pytest.importorskip("torch")
    from aac_metrics.utils import tokenization

    seen = {}

    def mono(sentences, **given):
        seen.update(given, lines=sentences)
        return [words(sentence) for sentence in sentences]

    monkeypatch.setattr(tokenization, "preprocess_mono_sents", mono)
    monkeypatch.setattr(tokenization, "preprocess_mult_sents", lambda many, **given: [mono(one) for one in many])
    monkeypatch.setattr(package, "meteor", lambda *_, **__: ({}, {"meteor": torch.tensor([0.2, 0.4])}))
    monkeypatch.setattr(package, "spice", lambda *_, **__: ({}, {"spice": torch.tensor([0.5, 0.1])}))
    captions = ["a dog barks\nloudly twice", ""]
    scores = means(captions, [[caption] for caption in TRUTH], tools=Path("jars"), java="java11")
    assert (seen["cache_path"], seen["java_path"]) == ("jars", "java11")
    assert scores == pytest.approx({"CIDEr-D": 5.0, "ROUGE-L": 0.5, "METEOR": 0.3, "SPICE": 0.3, "SPIDEr": 2.65})


def test_a_caption_is_one_line_and_never_lost_on_its_way_to_java():
    from audiostory.benchmark.metrics.captions import _line

    assert [_line(caption) for caption in ("a\n dog ", "", " \n")] == ["a dog", ".", "."]


def test_without_java_or_jars_it_says_what_to_fetch(package, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be had.*Java of 8 to 13.*download_metrics"):
        score_captions(TRUTH, [[caption] for caption in TRUTH], tools=tmp_path, java=str(tmp_path / "java"))


def test_without_the_package_it_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "aac_metrics", None)
    with pytest.raises(ValueError, match=r"pip install 'audiostory\[captions\]'"):
        score_captions(TRUTH, [[caption] for caption in TRUTH])


@pytest.mark.parametrize(
    ("captions", "references", "match"),
    [
        (["a dog"], [["a dog"]], "at least 2"),
        (TRUTH, [["a dog"]], "references for 1"),
        (TRUTH, [["a dog"], []], "caption 1 .* no reference"),
    ],
)
def test_captions_without_what_they_are_compared_with_are_refused(captions, references, match):
    with pytest.raises(ValueError, match=match):
        score_captions(captions, references)
