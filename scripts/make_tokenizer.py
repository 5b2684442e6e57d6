"""Trains audiostory-mini's two tokenizers on a corpus, one for the planner and one for the text encoder.

    python scripts/make_soundworld.py corpora/stories-train --num 20000 --no-audio
    python scripts/make_tokenizer.py --manifest corpora/stories-train/manifest.jsonl --output runs/tokenizers

Both are byte-level BPE and split text as Qwen2.5's does, every digit by itself; a word that the corpus uses often
becomes one token. The planner's learns from prompts, reasonings, captions and answers, and ends with the special tokens
in their released order. The text encoder's learns from captions, and its first ids are T5's padding and end. The same
corpus always gives the same files.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from audiostory.disk import write_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer

    from audiostory.dataset.manifest import Row

# Qwen2.5's pre-tokenizer: a word keeps the space before it.
SPLIT = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
BASE_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
NUM_BYTES = 256


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, nargs="+", required=True, help="manifest.jsonl of one or more corpora")
    parser.add_argument("--output", type=Path, required=True, help="folder for tokenizer/ and text_tokenizer/")
    parser.add_argument(
        "--vocab_size", type=int, default=1200, help="the planner's, without special tokens [%(default)s]"
    )
    parser.add_argument("--text_vocab_size", type=int, default=800, help="the text encoder's [%(default)s]")
    parser.add_argument("--num_semantic", type=int, default=16, help="semantic tokens per event [%(default)s]")
    parser.add_argument("--num_residual", type=int, default=8, help="residual tokens per event [%(default)s]")
    arguments = parser.parse_args(argv)
    try:
        make(arguments)
    except (ValueError, OSError) as error:
        print(f"make_tokenizer.py: {error}", file=sys.stderr)
        return 2
    return 0


def make(arguments: argparse.Namespace) -> None:
    """Trains both before it writes either. ValueError or OSError for a corpus or sizes that cannot be used."""
    from tokenizers import normalizers

    from audiostory.dataset import manifest
    from audiostory.story.vocabulary import add_special_tokens

    names = special_names(arguments.num_semantic, arguments.num_residual)
    rows = [row for path in arguments.manifest for row in manifest.read(path).rows]

    texts = [piece for row in rows for text in planner_texts(row) for piece in without(BASE_SPECIALS + names, text)]
    planner = train_bpe(texts, arguments.vocab_size, normalizers.NFC())
    planner.add_special_tokens(list(BASE_SPECIALS))
    add_special_tokens(planner, names)

    captions = [event.caption for row in rows for event in row.storyline.events]
    # A caption's first word is to be the same token as that word further on.
    text_encoder = train_bpe(
        captions,
        arguments.text_vocab_size,
        normalizers.Sequence([normalizers.NFC(), normalizers.Prepend(" ")]),
        ["<pad>", "</s>"],
    )

    for folder, tokenizer, learnt_from in (("tokenizer", planner, texts), ("text_tokenizer", text_encoder, captions)):
        path = arguments.output / folder / "tokenizer.json"
        save(tokenizer, path)
        print(f"{path}: {tokenizer.get_vocab_size()} tokens; {word_report(tokenizer, learnt_from)}")


def special_names(num_semantic: int, num_residual: int) -> tuple[str, ...]:
    """The released special tokens in their order, less the numbered ones that are not used: each costs a row."""
    from audiostory.story.vocabulary import SPECIAL_TOKENS

    used = {"t5": num_semantic, "aud": num_residual}
    numbers = {name: re.fullmatch(r"<(t5|aud)_(\d+)>", name) for name in SPECIAL_TOKENS}
    for kind, asked in used.items():
        most = sum(found is not None and found[1] == kind for found in numbers.values())
        if not 1 <= asked <= most:
            raise ValueError(f"{asked} <{kind}_...> tokens per event asked for; expected 1 to {most}")
    return tuple(name for name, found in numbers.items() if found is None or int(found[2]) < used[found[1]])


def planner_texts(row: Row) -> Iterator[str]:
    """What the planner reads and writes of a row. Durations are left out: digits have nothing to merge. So is what it
    hears: no words."""
    from audiostory.story import prompts

    instruction = replace(row.instruction, audio=None)
    if row.answer:
        yield prompts.question_text(instruction)
        yield row.answer
        if row.reasoning:
            yield row.reasoning
        return
    yield prompts.prompt_text(instruction)
    try:
        yield prompts.reasoning_text(row.storyline)
    except ValueError as error:
        raise ValueError(f"row {row.id} cannot be told in a script: {error}") from error
    for event in row.storyline.events:
        yield event.caption


def without(names: Sequence[str], text: str) -> list[str]:
    """The stretches of text between special tokens; the trainer would take these for words."""
    return [piece for piece in re.split("|".join(map(re.escape, names)), text) if piece]


def train_bpe(texts: Sequence[str], vocab_size: int, normalizer: Normalizer, specials: Sequence[str] = ()) -> Tokenizer:
    """Byte-level BPE with `specials` as its first ids; smaller than asked when the texts have no more to merge."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    least = NUM_BYTES + len(specials)
    if vocab_size < least:
        raise ValueError(f"a vocabulary of {vocab_size} is too small: every byte needs a token, so at least {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def word_report(tokenizer: Tokenizer, texts: Sequence[str]) -> str:
    """How whole the words of the texts stay."""
    words: Counter[str] = Counter()
    for text, count in Counter(texts).items():
        text = tokenizer.normalizer.normalize_str(text)
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
        words.update({piece: count for piece, (start, end) in pieces if text[start:end].strip().isalpha()})
    lengths = {word: len(tokenizer.model.tokenize(word)) for word in words}
    average = sum(count * lengths[word] for word, count in words.items()) / max(1, words.total())
    whole = sum(length == 1 for length in lengths.values())
    return f"{average:.3f} tokens per word, {whole} of {len(words)} different words are one token"


def save(tokenizer: Tokenizer, path: Path) -> None:
    write_text(path, tokenizer.to_str(pretty=True))


if __name__ == "__main__":
    sys.exit(main())
