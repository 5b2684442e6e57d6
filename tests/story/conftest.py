"""The vocabularies that the story room is tested with."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from audiostory.story import SPECIAL_TOKENS, Vocabulary, add_special_tokens

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture(scope="session")
def golden() -> dict:
    return json.loads((GOLDEN / "data" / "meta.json").read_text())


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    """The golden one: byte-level like Qwen2.5's, with 20 and 12 numbered tokens of which 8 and 4 are used."""
    tokenizer = Tokenizer.from_file(str(GOLDEN / "ckpt_static" / "Qwen-tiny" / "tokenizer.json"))
    numbered = [name for name in SPECIAL_TOKENS if name[-6:-1].isdigit()]
    kept = {*numbered[:20], *numbered[100:112]}
    add_special_tokens(tokenizer, [name for name in SPECIAL_TOKENS if name in kept or name not in numbered])
    return Vocabulary(tokenizer, num_semantic=8, num_residual=4)


@pytest.fixture(scope="session")
def merging_vocabulary() -> Vocabulary:
    """A byte-level tokenizer of the other habit: a space belongs to the word or number after it, " 12" is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    base = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=base
    )
    tokenizer.train_from_iterator(["Number of events: 12\nNumber of events: 3\na dog barks 12 times\n"] * 9, trainer)
    add_special_tokens(tokenizer)
    return Vocabulary(tokenizer, num_semantic=3, num_residual=1)
