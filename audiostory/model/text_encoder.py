"""The text encoder (T5): the semantic tokens' teacher, and the author of the unconditional tokens.

It computes in float32 even under autocast, since T5 overflows in half precision, and without dropout even in training,
since its states serve as targets. All positions are handed on, padding too: the DiT sees them all (SPEC 7).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

TOKENIZER_FILE = "tokenizer.json"
PAD_ID, END_ID = 0, 1  # in every T5 vocabulary


class TextEncoder(nn.Module):
    """T5's encoder and its tokenizer, kept in one folder: config.json, model.safetensors, tokenizer.json."""

    def __init__(self, model: T5EncoderModel, tokenizer: Tokenizer):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def random(cls, config: T5Config, tokenizer: Tokenizer) -> TextEncoder:
        """An untrained encoder, drawn from torch's global generator. The config's dropout is passed over."""
        config = copy.deepcopy(config)
        config.dropout_rate = 0.0
        return cls(T5EncoderModel(config), tokenizer)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TextEncoder:
        """Reads our folders and Flan-T5's alike (of which the decoder is left out), in float32.

        Raises ValueError when the tokenizer or a tensor is missing; a damaged file raises what its reader raises.
        """
        tokenizer_file = Path(folder) / TOKENIZER_FILE
        if not tokenizer_file.is_file():
            raise ValueError(f"{folder} has no {TOKENIZER_FILE}, so it is not a text encoder's folder; check the path")
        loaded = T5EncoderModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, dropout_rate=0.0, output_loading_info=True
        )
        model, info = cast(tuple[T5EncoderModel, dict], loaded)
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"]))
            raise ValueError(f"the text encoder in {folder} lacks {missing}; fetch or train it again")
        return cls(model, Tokenizer.from_file(str(tokenizer_file)))

    def save_pretrained(self, folder: str | Path) -> None:
        self.model.save_pretrained(folder)  # leaves out the alias of the embedding table
        self.tokenizer.save(str(Path(folder) / TOKENIZER_FILE))

    @property
    def width(self) -> int:
        return self.model.config.d_model

    def tokenize(self, texts: Sequence[str], num_tokens: int) -> tuple[Int[Tensor, "S M"], Bool[Tensor, "S M"]]:
        """Ids, and which of them are not padding, on the CPU. "" becomes [1, 0, 0, ...].

        A text that is too long keeps its first num_tokens - 1 ids and its end.
        """
        ids = torch.full((len(texts), num_tokens), PAD_ID)
        attention = torch.zeros(len(texts), num_tokens, dtype=torch.bool)
        for row, text in enumerate(texts):
            text_ids = [*self.tokenizer.encode(text, add_special_tokens=False).ids[: num_tokens - 1], END_ID]
            ids[row, : len(text_ids)] = torch.tensor(text_ids)
            attention[row, : len(text_ids)] = True
        return ids, attention

    def forward(self, ids: Int[Tensor, "S M"], attention: Bool[Tensor, "S M"]) -> Float[Tensor, "S M C"]:
        """The states at all M positions. Padding is not attended to, but has states of its own."""
        with torch.autocast(ids.device.type, enabled=False):
            return self.model(input_ids=ids, attention_mask=attention).last_hidden_state

    @torch.no_grad()
    def encode(self, texts: Sequence[str], num_tokens: int) -> Float[Tensor, "S M C"]:
        """The states of the texts, without gradient: teacher states when the texts are captions."""
        ids, attention = self.tokenize(texts, num_tokens)
        return self(ids.to(self.model.device), attention.to(self.model.device))

    def unconditional(self, num_tokens: int) -> Float[Tensor, "M C"]:
        """The states of the empty text: what guidance steps away from, and what a dropped condition is."""
        return self.encode([""], num_tokens)[0]
