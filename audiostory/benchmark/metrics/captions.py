"""How near captions of recordings come to what people wrote: CIDEr-D, ROUGE-L, METEOR, SPICE and SPIDEr of aac-metrics.

The package is the extra `captions`. METEOR, SPICE and the tokenizer that papers use are Java programs, so they want a
Java of 8 to 13 and a folder of jars, some hundred MB, which the package fetches when told to (never from here):

    from aac_metrics.download import download_metrics
    download_metrics("TOOLS", fense=False, bert_score=False)

Without them CIDEr-D and ROUGE-L are there still, on words that are split in Python, and named so: where captions have
hyphens, apostrophes or numbers, the tokenizers differ, and figures of one are not to be put beside those of the other.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from audiostory.benchmark.intervals import Score, bootstrap, grouped

OLDEST_JAVA, NEWEST_JAVA = 8, 13  # that the package takes


def score_captions(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    recordings: Sequence[Hashable] | None = None,
    *,
    tools: Path | None = None,
    java: str = "java",
) -> dict[str, Score]:
    """Means over captions, `references[i]` being all that people wrote for caption i.

    CIDEr-D, from 0 to 10, weighs words by how few of these references have them, so it depends on what else is asked
    and takes at least two captions; the interval leaves the weights as they are. METEOR is here the mean over captions,
    which differs a little from its own figure for a corpus. SPIDEr is the mean of CIDEr-D and SPICE. Papers often print
    a hundred times these. Captions of the same one of `recordings` are resampled together.

    With `tools`, the folder of jars, everything is there; without, only what needs no Java. ValueError when the
    package, Java or the jars are missing, for fewer than two captions, and for one without any reference.
    """
    if not len(captions) == len(references) == len(recordings or captions):
        raise ValueError(f"got {len(captions)} captions, and references for {len(references)}; expected some for each")
    if len(captions) < 2:
        raise ValueError(f"CIDEr-D compares captions among each other; expected at least 2, got {len(captions)}")
    if bare := [i for i, written in enumerate(references) if not written]:
        raise ValueError(f"caption {bare[0]} ({captions[bare[0]]!r}) has no reference; leave it out")
    values = _in_python(captions, references) if tools is None else _in_java(captions, references, tools, java)
    return {name: bootstrap(grouped(row, recordings or range(len(row)))) for name, row in values.items()}


def words(caption: str) -> str:
    """What is compared where there is no Java: " A dog,  isn't it?" is "a dog isn't it"."""
    return " ".join(re.findall(r"\w+(?:'\w+)*", caption.lower()))


def _in_python(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    package = _package()
    told, truth = [words(caption) for caption in captions], [[words(one) for one in written] for written in references]
    return {
        "CIDEr-D, words split in Python": _each(package.cider_d(told, truth), "cider_d"),
        "ROUGE-L, words split in Python": _each(package.rouge_l(told, truth), "rouge_l"),
    }


def _in_java(
    captions: Sequence[str], references: Sequence[Sequence[str]], tools: Path, java: str
) -> dict[str, list[float]]:
    package = _package()
    from aac_metrics.utils import tokenization  # pyright: ignore[reportMissingImports]  # an extra

    given: dict[str, Any] = {"cache_path": str(tools), "java_path": java}
    told, truth = [_line(caption) for caption in captions], [[_line(one) for one in written] for written in references]
    try:
        told = tokenization.preprocess_mono_sents(told, **given)
        truth = tokenization.preprocess_mult_sents(truth, **given)
        meteor, spice = (_each(getattr(package, name)(told, truth, **given), name) for name in ("meteor", "spice"))
    except (RuntimeError, ValueError, OSError, CalledProcessError) as error:  # no Java, another Java, no jars
        raise ValueError(
            f"METEOR, SPICE and SPIDEr cannot be had ({error}); they want a Java of {OLDEST_JAVA} to {NEWEST_JAVA} "
            f"({java}), and the jars that aac_metrics.download.download_metrics({str(tools)!r}) fetches"
        ) from error
    cider = _each(package.cider_d(told, truth), "cider_d")
    return {
        "CIDEr-D": cider,
        "ROUGE-L": _each(package.rouge_l(told, truth), "rouge_l"),
        "METEOR": meteor,
        "SPICE": spice,
        "SPIDEr": [(one + other) / 2 for one, other in zip(cider, spice, strict=True)],
    }


def _package() -> Any:
    try:
        from aac_metrics import functional  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise ValueError(f"scoring captions needs aac-metrics ({error}); pip install 'audiostory[captions]'") from error
    return functional


def _line(caption: str) -> str:
    """The tokenizer reads a caption per line, and loses an empty one; a full stop it takes off again."""
    return " ".join(caption.split()) or "."


def _each(outputs: tuple[Any, Any], name: str) -> list[float]:
    """Of the package's pair (of the corpus, of each caption)."""
    return outputs[1][name].tolist()
