"""Every special token and its id, over any base tokenizer.

The planner's vocabulary is a base tokenizer (Qwen2.5's, or a small one of our own) with the 612 names below appended.
Only their order counts: a name's id is the length of the base tokenizer plus its place in the list (SPEC 3). A model
uses the first `num_semantic` and `num_residual` numbered tokens; the rest are never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

LISTENING = "<video_padding>"
"""Stands wherever a recording is heard. The release has no name for that and never says which token it takes; this is
the one of its tokens that is made to be stood in for."""

SPECIAL_TOKENS: tuple[str, ...] = (
    "</t5>",
    LISTENING,
    "<timestamp>",
    "</timestamp>",
    "<t5>",
    *(f"<t5_{i:05d}>" for i in range(100)),
    "<aud>",
    "</aud>",
    *(f"<aud_{i:05d}>" for i in range(501)),
    "<|gen|>",
    "<|/gen|>",
    "<|think|>",
    "<|/think|>",
)


def add_special_tokens(tokenizer: Tokenizer, names: Sequence[str] = SPECIAL_TOKENS) -> None:
    """Appends `names` in order, so that ids are `len(tokenizer) + index`; Qwen2.5 ends at 152277 (SPEC 3).

    Raises ValueError when the tokenizer already knows one of the names, since the ids would then not follow the order.
    """
    known = [name for name in names if tokenizer.token_to_id(name) is not None]
    if known:
        raise ValueError(
            f"the tokenizer already holds {_some(known)}; append the special tokens to the base tokenizer, only once"
        )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])


class Vocabulary:
    """A tokenizer and the ids of all its special tokens, looked up once.

    Raises ValueError naming the special tokens that the tokenizer lacks.
    """

    def __init__(self, tokenizer: Tokenizer, *, num_semantic: int, num_residual: int):
        if num_semantic < 1 or num_residual < 1:
            raise ValueError(
                f"an event needs at least one semantic and one residual token; got num_semantic={num_semantic}, "
                f"num_residual={num_residual}"
            )
        semantic = [f"<t5_{i:05d}>" for i in range(num_semantic)]
        residual = [f"<aud_{i:05d}>" for i in range(num_residual)]
        id_of = _look_up(tokenizer, [*_MARKERS, *semantic, *residual])

        self.tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size(with_added_tokens=True)
        self.im_start = id_of["<|im_start|>"]
        self.im_end = id_of["<|im_end|>"]
        self.think = id_of["<|think|>"]
        self.end_think = id_of["<|/think|>"]
        self.gen = id_of["<|gen|>"]
        self.end_gen = id_of["<|/gen|>"]
        self.timestamp = id_of["<timestamp>"]
        self.end_timestamp = id_of["</timestamp>"]
        self.semantic_open = id_of["<t5>"]
        self.semantic_close = id_of["</t5>"]
        self.residual_open = id_of["<aud>"]
        self.residual_close = id_of["</aud>"]
        self.listening = id_of[LISTENING]
        self.semantic_ids = tuple(id_of[name] for name in semantic)
        self.residual_ids = tuple(id_of[name] for name in residual)
        self.semantic_block = (*self.semantic_ids, self.semantic_close)
        self.residual_block = (*self.residual_ids, self.residual_close)
        self.stop_ids = (self.im_end, id_of["<|endoftext|>"])
        self.special_ids = frozenset(tokenizer.get_added_tokens_decoder()) | frozenset(id_of.values())

    @classmethod
    def from_folder(cls, folder: str | Path, *, num_semantic: int, num_residual: int) -> Vocabulary:
        """Reads `tokenizer.json` in `folder`, special tokens included. FileNotFoundError when there is none."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer at {path}; expected the planner's tokenizer.json there")
        tokenizer = Tokenizer.from_file(str(path))
        # Files that other libraries saved may pad or cut every text.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, num_semantic=num_semantic, num_residual=num_residual)

    def __len__(self) -> int:
        return self.size

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens in it become their ids, none are added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_spans(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Like `encode`, with the half-open range of characters that each id stands for."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return list(zip(encoding.ids, encoding.offsets, strict=True))

    def decode(self, ids: Sequence[int]) -> str:
        """The exact text of `ids`: special tokens by name, nothing skipped, nothing cleaned up."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def is_text(self, token: int) -> bool:
        """Whether an id, any integer, stands for ordinary text."""
        return 0 <= token < self.size and token not in self.special_ids

    def name(self, token: int) -> str:
        """What to call an id, any integer, in a message."""
        known = self.tokenizer.id_to_token(token) if 0 <= token < self.size else None
        return known if known is not None else f"id {token}"


_MARKERS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(name for name in SPECIAL_TOKENS if not name.startswith(("<t5_", "<aud_"))),
)


def _look_up(tokenizer: Tokenizer, names: Sequence[str]) -> dict[str, int]:
    found = {name: tokenizer.token_to_id(name) for name in names}
    missing = [name for name, token in found.items() if token is None]
    if missing:
        raise ValueError(
            f"the tokenizer lacks {_some(missing)}; append them with add_special_tokens, or ask for fewer bridge tokens"
        )
    return {name: token for name, token in found.items() if token is not None}


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest
