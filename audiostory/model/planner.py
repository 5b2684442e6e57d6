"""The planner: a Qwen2.5 that reads an instruction and writes the story as tokens, bridge tokens included.

It stands on both walks. In training, `states` gives the teacher-forced states, and `logits` applies the head only where
a loss asks for it. In telling, `write` writes greedily with a KV cache. The ids between `<t5>` and `</t5>`, and between
`<aud>` and `</aud>`, are known in advance, so each such block goes through the network in one forward: the same states
and the same cache as token by token, at the price of one token (SPEC 10).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from audiostory.model.inputs import BridgeTokens
from audiostory.story import script
from audiostory.story.vocabulary import Vocabulary

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA_LEARNT_WHOLE = ("input_layernorm", "post_attention_layernorm", "norm")


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """Sizes of a planner that starts from random weights; the defaults are audiostory-mini's (5 M parameters).

    The 3B planner is hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11008, vocab_size=152277 (SPEC 1).
    """

    vocab_size: int
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 768
    rope_theta: float = 1e6
    max_positions: int = 4096
    tie: bool = True  # the head is the embedding table


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank updates W + alpha/rank * B A; the defaults are the release's (SPEC 2)."""

    rank: int = 32
    alpha: int = 32
    dropout: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Written:
    """An answer: its ids without the prompt, the states of its complete events, and whether it ended by itself."""

    ids: tuple[int, ...]
    bridge: BridgeTokens
    finished: bool


def greedy(scores: Float[Tensor, " V"]) -> int:
    return int(scores.argmax())


def following(vocabulary: Vocabulary) -> dict[int, tuple[int, ...]]:
    """What must come after an opening or numbered bridge token: the rest of its block."""
    blocks = (
        (vocabulary.semantic_open, *vocabulary.semantic_block),
        (vocabulary.residual_open, *vocabulary.residual_block),
    )
    return {token: block[place + 1 :] for block in blocks for place, token in enumerate(block[:-1])}


def reciting(ids: Sequence[int], vocabulary: Vocabulary) -> Callable[[Float[Tensor, " V"]], int]:
    """A `choose` that has the planner write a given answer: it is asked for each id outside the bridge blocks."""
    known = following(vocabulary)
    free = iter([token for before, token in zip([None, *ids], ids, strict=False) if before not in known])
    return lambda scores: next(free)


class Planner(nn.Module):
    """`language_model` is a Qwen2ForCausalLM, wrapped by peft while LoRA is there; `qwen` is it in both cases."""

    def __init__(self, language_model: Qwen2ForCausalLM) -> None:
        super().__init__()
        self.language_model: Any = language_model

    @classmethod
    def random(cls, config: PlannerConfig) -> Planner:
        """Fresh weights from torch's global generator; in eval mode, as `from_pretrained`."""
        qwen = Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.intermediate,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=config.tie,
        )
        return cls(Qwen2ForCausalLM(qwen)).eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> Planner:
        """Reads a Qwen2 folder (config.json, safetensors). ValueError when it is absent, damaged or another model."""
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(
                f"no planner in {folder}: config.json is missing; give a folder that save_pretrained wrote"
            )
        if (Path(folder) / "lora").is_dir():
            raise ValueError(
                f"{folder} keeps its LoRA apart, in lora/, without which it is another model; read the whole model "
                "with AudioStoryPipeline.from_pretrained, or this part with weights.ours.read_component"
            )
        try:
            loaded = Qwen2ForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"the planner in {folder} cannot be read ({error}); copy the folder again") from error
        qwen, report = cast(tuple[Qwen2ForCausalLM, dict], loaded)
        if wrong := sorted([*report["missing_keys"], *report["unexpected_keys"]]):
            raise ValueError(f"{folder} holds another model than its config.json says; missing or unexpected: {wrong}")
        return cls(qwen).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a plain Qwen2 folder. LoRA goes in merged, but stays apart in this planner, so it can learn on."""
        plain = copy.deepcopy(self.language_model).merge_and_unload() if self.has_lora else self.language_model
        plain.save_pretrained(str(folder))

    @property
    def has_lora(self) -> bool:
        return not isinstance(self.language_model, Qwen2ForCausalLM)

    @property
    def qwen(self) -> Qwen2ForCausalLM:
        return self.language_model.get_base_model() if self.has_lora else self.language_model

    @property
    def device(self) -> torch.device:
        return self.qwen.device

    @property
    def dtype(self) -> torch.dtype:
        return self.qwen.dtype

    def enable_gradient_checkpointing(self) -> None:
        # transformers 5.17, our floor, knows the old name only; 5.23 warns of it.
        enable = getattr(self.qwen, "activation_checkpointing_enable", None) or self.qwen.gradient_checkpointing_enable
        enable()

    def add_lora(self, settings: LoraSettings) -> None:
        """From here on LoRA, the norms and the embeddings learn and the rest does not, as in the release (SPEC 1, 2).

        The network computes what it computed before: B starts at zero and the norms as copies.
        """
        from peft import LoraConfig, get_peft_model  # takes seconds to import, and telling a story needs none of it

        assert not self.has_lora, "the planner has LoRA already; merge_lora() first"
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(LORA_TARGETS),
            modules_to_save=list(LORA_LEARNT_WHOLE),
        )
        self.language_model = get_peft_model(self.language_model, lora).train(self.training)
        self.qwen.model.embed_tokens.requires_grad_(True)  # the new tokens have to be learnt
        self.qwen.lm_head.requires_grad_(True)

    def merge_lora(self) -> None:
        """Folds LoRA into the weights: a plain Qwen2 again, faster to write with (SPEC 10)."""
        self.language_model = self.language_model.merge_and_unload()

    def embed(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L H"]:
        return self.qwen.model.embed_tokens(ids)

    def hear(
        self, ids: Sequence[int], vocabulary: Vocabulary, heard: Float[Tensor, "P H"] | None = None
    ) -> Float[Tensor, "1 L H"]:
        """The embeddings of a row of ids, with the tokens of its recording at its listening places, in order.

        ValueError unless there are as many of both.
        """
        row = torch.tensor([list(ids)], device=self.device)
        places = row == vocabulary.listening
        num_places, num_heard = int(places.sum()), 0 if heard is None else len(heard)
        if num_places != num_heard:
            raise ValueError(
                f"the script listens at {num_places} places and its recording has {num_heard} tokens; write the script "
                "with num_listening as many as the recording has"
            )
        embeddings = self.embed(row)
        return embeddings if heard is None else embeddings.masked_scatter(places[..., None], heard.to(embeddings))

    def states(
        self, ids: Int[Tensor, "B L"], embeddings: Float[Tensor, "B L H"] | None = None
    ) -> Float[Tensor, "B L H"]:
        """States after the final norm, without logits; `embeddings` stand in for those of the ids.

        Rows are padded on the right. Attention looks back only, so no token sees that padding and no mask is needed,
        which allows the faster kernel; the states at the padding mean nothing.
        """
        heard = {"input_ids": ids} if embeddings is None else {"inputs_embeds": embeddings}
        return self.qwen.model(**heard, use_cache=False).last_hidden_state

    def logits(self, states: Float[Tensor, "... H"]) -> Float[Tensor, "... V"]:
        return self.qwen.lm_head(states)

    @torch.no_grad()
    def write(
        self,
        prompt_ids: Sequence[int],
        vocabulary: Vocabulary,
        *,
        heard: Float[Tensor, "P H"] | None = None,
        max_new_tokens: int = 1600,
        repetition_penalty: float = 1.0,
        free_bridge_score: float = -math.inf,
        choose: Callable[[Float[Tensor, " V"]], int] = greedy,
        on_tokens: Callable[[tuple[int, ...]], None] | None = None,
    ) -> Written:
        """Writes the answer to a prompt, token by token and bridge block by bridge block.

        Ends after a stop id, or unfinished before the token or block that would exceed `max_new_tokens`. The repetition
        penalty, 1.05 in the release, is over prompt and answer (SPEC 4); for `free_bridge_score` see WritingRules.
        `heard` are the tokens of the prompt's recording. `choose` picks the next id from the scores; `on_tokens` is
        told the ids just written. ValueError for a prompt, a recording or a vocabulary that does not fit.
        """
        assert not self.training, "write() needs planner.eval(): LoRA's dropout would be written along"
        self._check(prompt_ids, vocabulary, repetition_penalty)
        rules = WritingRules(
            vocabulary, repetition_penalty, self.qwen.config.vocab_size, self.device, free_bridge_score
        )
        cache = DynamicCache(config=self.qwen.config)
        states = self._feed(self.hear(prompt_ids, vocabulary, heard), cache)
        rules.heed(prompt_ids)
        answer: list[int] = []
        answer_states = [states[:, :0]]
        finished = False
        while not finished and len(answer) < max_new_tokens:
            token = choose(rules.scores(self.logits(states[0, -1])))
            piece = (token, *rules.following.get(token, ()))
            if len(answer) + len(piece) > max_new_tokens:
                break
            states = self._feed(self.embed(torch.tensor([piece], device=self.device)), cache)
            rules.heed(piece)
            answer.extend(piece)
            answer_states.append(states)
            if on_tokens is not None:
                on_tokens(piece)
            finished = token in vocabulary.stop_ids
        bridge = _bridge_tokens(torch.cat(answer_states, dim=1)[0], answer, vocabulary)
        return Written(ids=tuple(answer), bridge=bridge, finished=finished)

    def _feed(self, embeddings: Float[Tensor, "1 L H"], cache: DynamicCache) -> Float[Tensor, "1 L H"]:
        """Appends tokens to what the cache holds; the states at them."""
        return self.qwen.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).last_hidden_state

    def _check(self, prompt_ids: Sequence[int], vocabulary: Vocabulary, repetition_penalty: float) -> None:
        rows = self.qwen.config.vocab_size
        if len(vocabulary) > rows:
            raise ValueError(
                f"the tokenizer has {len(vocabulary)} tokens, the planner only {rows} embedding rows; "
                "use the tokenizer that the planner was trained with"
            )
        if not prompt_ids:
            raise ValueError("the prompt is empty; the planner needs at least one token to go on from")
        if strangers := [token for token in prompt_ids if not 0 <= token < len(vocabulary)]:
            raise ValueError(
                f"the prompt holds {strangers[:5]}, but ids run from 0 to {len(vocabulary) - 1}; "
                "encode it with the planner's own tokenizer"
            )
        if not repetition_penalty > 0:
            raise ValueError(
                f"repetition_penalty is {repetition_penalty}, expected a positive number; 1.0 turns it off"
            )


class WritingRules:
    """What stands between logits and choice: the repetition penalty, then the bar on bridge ids (the order of SPEC 4).

    Bridge ids come only as part of a block, so anywhere else they get `free_bridge_score`. The release's is 0: the same
    choice whenever the best score is positive, and nonsense when it is not (SPEC 9, row 8). `following` leads from an
    id to what must come after it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        repetition_penalty: float,
        rows: int,
        device: torch.device | str,
        free_bridge_score: float = -math.inf,
    ) -> None:
        self._penalty, self._free_bridge_score = repetition_penalty, free_bridge_score
        self._seen = torch.zeros(rows, dtype=torch.bool, device=device)
        self._bridge, self._absent = torch.zeros_like(self._seen), torch.zeros_like(self._seen)
        self._bridge[[*vocabulary.semantic_block, *vocabulary.residual_block]] = True
        self._absent[len(vocabulary) :] = True  # Qwen's tables have more rows than its tokenizer has tokens
        self.following = following(vocabulary)

    def heed(self, ids: Sequence[int]) -> None:
        self._seen[list(ids)] = True

    def penalised(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        scores = logits.float()
        penalised = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
        return torch.where(self._seen, penalised, scores)

    def scores(self, logits: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        scores = self.penalised(logits).masked_fill(self._bridge, self._free_bridge_score)
        return scores.masked_fill(self._absent, -torch.inf)


def _bridge_tokens(states: Float[Tensor, "L H"], answer: Sequence[int], vocabulary: Vocabulary) -> BridgeTokens:
    """The states at the numbered tokens of every complete event."""
    slots = script.read(answer, vocabulary).slots

    def gather(ranges: list[range], num_tokens: int) -> Tensor:
        positions = torch.tensor([list(positions) for positions in ranges], dtype=torch.long, device=states.device)
        return states[positions.reshape(len(ranges), num_tokens)]  # [S M H]; without events [0 M H]

    return BridgeTokens(
        semantic=gather([slot.semantic for slot in slots], len(vocabulary.semantic_ids)),
        residual=gather([slot.residual for slot in slots], len(vocabulary.residual_ids)),
    )
