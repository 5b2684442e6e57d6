"""The planner: a Qwen2.5 that reads an instruction and writes the story as tokens, bridge tokens included.

It stands on both walks. In training, `states` gives the teacher-forced states, and `logits` applies the head only where
a loss asks for it. In telling, `writing` writes greedily, many scripts at a time, and `write` and `write_many` wait for
its end. The ids between `<t5>` and `</t5>`, and between `<aud>` and `</aud>`, are known in advance, so each such block
goes through the network in one forward: the same states and the same cache as token by token, at the price of one token
(SPEC 10).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from audiostory.model.cache import FixedCache, RaggedCache, Step
from audiostory.model.inputs import BridgeTokens
from audiostory.story import script
from audiostory.story.vocabulary import Vocabulary

# transformers 5.17, our floor, has the first name; later ones warn of it and want the other.
CACHE = "cache" if "cache" in inspect.signature(Qwen2Model.forward).parameters else "past_key_values"
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


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one of several scripts gains in a step: a token, or a bridge block with the states at all of its ids."""

    script: int
    ids: tuple[int, ...]
    states: Float[Tensor, "K H"] | None = None


class Answer:
    """An answer that grows by pieces. Of states it keeps those of bridge blocks only."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._blocks: dict[int, Tensor] = {}  # the states at a block's numbered tokens, by the place of the first

    def add(self, piece: Piece) -> None:
        if piece.states is not None:
            self._blocks[len(self.ids) + 1] = piece.states[1:-1]
        self.ids.extend(piece.ids)

    def written(self, vocabulary: Vocabulary, empty: Float[Tensor, "0 H"]) -> Written:
        """The answer as it stands. `empty` has the width and the kind of the states, where there may be none."""
        slots = script.read(self.ids, vocabulary).slots

        def gather(starts: list[int], num_tokens: int) -> Tensor:
            states = [self._blocks[start] for start in starts]
            return torch.stack(states) if states else empty[:, None].expand(-1, num_tokens, -1)  # [S M H]

        semantic = gather([slot.semantic.start for slot in slots], len(vocabulary.semantic_ids))
        residual = gather([slot.residual.start for slot in slots], len(vocabulary.residual_ids))
        return Written(
            ids=tuple(self.ids),
            bridge=BridgeTokens(semantic=semantic, residual=residual),
            finished=bool(self.ids) and self.ids[-1] in vocabulary.stop_ids,
        )


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


def not_finite(what: str, dtype: torch.dtype) -> ValueError:
    """Of a network, whatever it was asked."""
    to_do = (
        "use float32 or bfloat16, which hold larger ones"
        if dtype == torch.float16
        else "the model is damaged: copy its folder again, or take a checkpoint from before"
    )
    return ValueError(f"{what} is not finite in {dtype}, numbers were expected; {to_do}")


class Planner(nn.Module):
    """`language_model` is a Qwen2ForCausalLM, wrapped by peft while LoRA is there; `qwen` is it in both cases."""

    def __init__(self, language_model: Qwen2ForCausalLM) -> None:
        super().__init__()
        self.language_model: Any = language_model
        self._compiled_step: Callable[..., Tensor] | None = None
        self._spare: FixedCache | None = None  # that of the last scripts, for the next ones of the same shape

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Planner:
        """Moved and converted as any module, but for the rotary frequencies, which stay in float32 as in transformers'
        own loading: rounded to bfloat16 they would be off by up to a radian after a thousand tokens."""
        rotary = self.qwen.model.rotary_emb
        exact = dict(rotary.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in rotary.named_buffers():
            if buffer.dtype != exact[name].dtype:
                setattr(rotary, name, exact[name].to(buffer.device))
        return self

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

    def compile_steps(self, **options: Any) -> None:
        """From here on, single tokens are written by a compiled step of the network; the ids stay the same.

        For GPUs, where launching the kernels of a small step takes longer than their work: with
        `mode="reduce-overhead"` a CUDA graph launches them at once. The options are torch.compile's. The first script
        waits for the compiler, and so does the first of another shape: another number of scripts, or twice the length.
        The keys and values of `writing`'s last scripts stay in memory for the next ones.
        """
        self._compiled_step = torch.compile(_step, **options)

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

    def write(
        self,
        prompt_ids: Sequence[int],
        vocabulary: Vocabulary,
        *,
        heard: Float[Tensor, "P H"] | None = None,
        max_new_tokens: int = 1600,
        repetition_penalty: float = 1.0,
        free_bridge_score: float = -math.inf,
        choose: Callable[[Float[Tensor, " V"]], int] | None = None,
        on_tokens: Callable[[tuple[int, ...]], None] | None = None,
    ) -> Written:
        """The answer to one prompt, about whose recording `heard` are the tokens; the rest is as in `write_many`."""
        (written,) = self.write_many(
            [prompt_ids],
            vocabulary,
            heard=[heard],
            max_new_tokens=max_new_tokens,
            repetition_penalty=repetition_penalty,
            free_bridge_score=free_bridge_score,
            choose=None if choose is None else lambda script, scores: choose(scores),
            on_tokens=on_tokens,
        )
        return written

    def write_many(
        self,
        prompts: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        *,
        on_tokens: Callable[[tuple[int, ...]], None] | None = None,
        **choices: Any,
    ) -> list[Written]:
        """The answers to several prompts, written together: the same ids as one by one, and the same states but for
        rounding. The choices are those of `writing`; `on_tokens` is told the ids just written, of whichever answer."""
        answers = [Answer() for _ in prompts]
        for piece in self.writing(prompts, vocabulary, **choices):
            answers[piece.script].add(piece)
            if on_tokens is not None:
                on_tokens(piece.ids)
        empty = self.qwen.lm_head.weight.new_empty(0, self.qwen.config.hidden_size)
        return [answer.written(vocabulary, empty) for answer in answers]

    @torch.no_grad()
    def writing(
        self,
        prompts: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        *,
        heard: Sequence[Float[Tensor, "_ H"] | None] | None = None,
        max_new_tokens: int = 1600,
        repetition_penalty: float = 1.0,
        free_bridge_score: float = -math.inf,
        choose: Callable[[int, Float[Tensor, " V"]], int] | None = None,
    ) -> Iterator[Piece]:
        """The pieces of answers to several prompts as they are written, a step of all of them at a time.

        An answer ends after a stop id, or unfinished before the token or block that would exceed `max_new_tokens` or
        the planner's context. The repetition penalty, 1.05 in the release, is over prompt and answer (SPEC 4); for
        `free_bridge_score` see WritingRules. `heard` are the tokens of each prompt's recording. `choose` picks the next
        id from a script's scores, in place of the greatest. ValueError for a prompt, a recording or a vocabulary that
        does not fit, and where the network computes what is not finite.
        """
        assert not self.training, "writing needs planner.eval(): LoRA's dropout would be written along"
        for prompt in prompts:
            self._check(prompt, vocabulary, repetition_penalty)
        if not prompts:
            return
        config = self.qwen.config
        rules = WritingRules(
            vocabulary, repetition_penalty, config.vocab_size, self.device, free_bridge_score, num_rows=len(prompts)
        )
        longest = min(max(map(len, prompts)) + max_new_tokens, config.max_position_embeddings)
        cache = self._take_cache(len(prompts), longest)
        last = self._begin(prompts, vocabulary, heard, cache)  # [R H], the states that the next ids are read from
        for row, prompt in enumerate(prompts):
            rules.heed(prompt, [row])
        scripts = list(range(len(prompts)))  # which of them each row still writes
        room = [min(max_new_tokens, config.max_position_embeddings - len(prompt)) for prompt in prompts]
        while scripts:
            scores = rules.scores(self.logits(last))
            if choose is None:
                tokens = scores.argmax(dim=-1)
            else:
                chosen = [choose(one, row) if left else 0 for one, row, left in zip(scripts, scores, room, strict=True)]
                tokens = torch.tensor(chosen, device=self.device)
            tokens = torch.where(scores.amax(dim=-1).isfinite(), tokens, -1)  # a NaN is the greatest of any scores
            # The one wait for the device in a step of all scripts:
            pieces = [(token, *rules.following.get(token, ())) for token in tokens.tolist()]
            if any(piece == (-1,) for piece in pieces):
                raise not_finite("what the planner computes", self.dtype)
            fits = [row for row, piece in enumerate(pieces) if len(piece) <= room[row]]
            yield from (
                Piece(script=scripts[row], ids=pieces[row]) for row in fits if pieces[row][0] in vocabulary.stop_ids
            )
            going = [row for row in fits if pieces[row][0] not in vocabulary.stop_ids]
            if len(going) < len(scripts):
                cache.keep(going)
                rules.keep(going)
                tokens = tokens[going]
                scripts, pieces = [scripts[row] for row in going], [pieces[row] for row in going]
            room = [room[row] - len(piece) for row, piece in zip(going, pieces, strict=True)]
            last = torch.empty_like(last[: len(scripts)])
            for piece, numbers in _alike(pieces):
                whole = len(numbers) == len(scripts)  # then nothing is copied to the device, which would wait for it
                rows = torch.arange(len(numbers), device=self.device) if whole else tokens.new_tensor(numbers)
                ids = tokens[rows, None] if piece is None else torch.tensor([piece] * len(numbers), device=self.device)
                rules.heed(ids, rows)
                if piece is None and isinstance(cache, FixedCache):
                    states = self._take_step(ids, cache, rows, numbers)
                else:
                    states = self._feed(self.embed(ids), cache, rows, numbers)
                last[rows] = states[:, -1]
                for number, at in zip(numbers, states, strict=True):
                    yield Piece(script=scripts[number], ids=pieces[number], states=at if piece else None)
        if isinstance(cache, FixedCache):
            self._spare = cache

    def _take_cache(self, num_rows: int, longest: int) -> RaggedCache:
        """Of scripts that grow to `longest` tokens at most. Its shapes stay where a step is compiled for them."""
        if self._compiled_step is None:
            return RaggedCache(num_rows, self.device)
        room = 2 ** math.ceil(math.log2(longest))
        spare, self._spare = self._spare, None  # whoever else writes meanwhile must not find it
        if spare is None or not spare.serves(num_rows, room, self.device, self.dtype):
            return FixedCache(num_rows, self.device, room)
        spare.restart()
        return spare

    def _begin(
        self,
        prompts: Sequence[Sequence[int]],
        vocabulary: Vocabulary,
        heard: Sequence[Float[Tensor, "_ H"] | None] | None,
        cache: RaggedCache,
    ) -> Float[Tensor, "R H"]:
        """The states at the last ids of the prompts, which are padded on the right, where nothing looks."""
        recordings = [None] * len(prompts) if heard is None else heard
        rows = [self.hear(ids, vocabulary, tokens)[0] for ids, tokens in zip(prompts, recordings, strict=True)]
        lengths = [len(ids) for ids in prompts]
        numbers = torch.arange(len(prompts), device=self.device)
        states = self._feed(pad_sequence(rows, batch_first=True), cache, numbers, range(len(prompts)), lengths)
        return states[numbers, torch.tensor(lengths, device=self.device) - 1]

    def _feed(
        self,
        embeddings: Float[Tensor, "r q H"],
        cache: RaggedCache,
        rows: Int[Tensor, " r"],
        numbers: Sequence[int],
        own: Sequence[int] | None = None,
    ) -> Float[Tensor, "r q H"]:
        """Appends tokens to what the cache holds of some rows; the states at them."""
        positions, mask = cache.reserve(rows, numbers, embeddings.shape[1], own)
        network: Any = self.qwen.model  # takes any cache that has an `update`
        return network(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask={"full_attention": mask},
            use_cache=True,
            **{CACHE: cache},
        ).last_hidden_state

    def _take_step(
        self, ids: Int[Tensor, "r 1"], cache: FixedCache, rows: Int[Tensor, " r"], numbers: Sequence[int]
    ) -> Float[Tensor, "r 1 H"]:
        """`_feed` of a single token of some rows, in which all rows go through the compiled step."""
        assert self._compiled_step is not None
        all_ids, step, at = cache.step(ids, rows, numbers)
        return self._compiled_step(self.qwen.model, all_ids, step)[at]

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
    id to what must come after it. Each of `num_rows` scripts is penalised for its own ids.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        repetition_penalty: float,
        rows: int,
        device: torch.device | str,
        free_bridge_score: float = -math.inf,
        num_rows: int = 1,
    ) -> None:
        self._penalty, self._free_bridge_score = repetition_penalty, free_bridge_score
        self._seen = torch.zeros(num_rows, rows, dtype=torch.bool, device=device)
        self._bridge, self._absent = torch.zeros_like(self._seen[0]), torch.zeros_like(self._seen[0])
        self._bridge[[*vocabulary.semantic_block, *vocabulary.residual_block]] = True
        self._absent[len(vocabulary) :] = True  # Qwen's tables have more rows than its tokenizer has tokens
        self.following = following(vocabulary)

    def heed(self, ids: Sequence[int] | Int[Tensor, "r K"], rows: Sequence[int] | Int[Tensor, " r"] = (0,)) -> None:
        """The ids stand in these scripts from now on."""
        places = torch.as_tensor(rows, device=self._seen.device)[:, None]
        self._seen[places, torch.as_tensor(ids, device=self._seen.device)] = True

    def keep(self, rows: Sequence[int]) -> None:
        """Lets go of all scripts but these, which are counted from 0 again."""
        self._seen = self._seen[list(rows)]

    def penalised(self, logits: Float[Tensor, "*R V"]) -> Float[Tensor, "*R V"]:
        scores = logits.float()
        if self._penalty == 1.0:
            return scores
        penalised = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
        return torch.where(self._seen.view(scores.shape), penalised, scores)

    def scores(self, logits: Float[Tensor, "*R V"]) -> Float[Tensor, "*R V"]:
        scores = self.penalised(logits).masked_fill(self._bridge, self._free_bridge_score)
        return scores.masked_fill(self._absent, -torch.inf)


def _step(network: Any, ids: Int[Tensor, "R 1"], step: Step) -> Float[Tensor, "R 1 H"]:
    return network(
        inputs_embeds=network.embed_tokens(ids),
        position_ids=step.places,
        attention_mask={"full_attention": step.mask()},
        use_cache=True,
        **{CACHE: step},
    ).last_hidden_state


def _alike(pieces: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...] | None, list[int]]]:
    """The rows that go through the network together: those that write one token, as None, and those of each block."""
    groups: dict[tuple[int, ...] | None, list[int]] = {}
    for row, piece in enumerate(pieces):
        groups.setdefault(piece if len(piece) > 1 else None, []).append(row)
    return list(groups.items())
