"""The planner against the recorded states and ids of the released system, and against itself by slower ways."""

import warnings
from itertools import zip_longest

import golden_weights
import pytest
import torch
from torch._dynamo.utils import counters
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor

from audiostory.model import tiny
from audiostory.model.planner import CACHE, LoraSettings, Planner, PlannerConfig, reciting
from audiostory.story import Instruction, script
from audiostory.story.vocabulary import Vocabulary

RELEASED_SIZES = {"hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "intermediate": 96, "vocab_size": 388}
SCRIPTED = golden_weights.data("generate_scripted")
FREE = golden_weights.data("generate_free")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return golden_weights.model().vocabulary


@pytest.fixture(scope="module")
def recorded() -> Planner:
    return golden_weights.model().planner


def random_planner(seed: int = 0, **changes) -> Planner:
    torch.manual_seed(seed)
    return Planner.random(PlannerConfig(**{**RELEASED_SIZES, "layers": 2, **changes}))


def random_lora(planner: Planner) -> None:
    planner.add_lora(LoraSettings(rank=4, alpha=8))
    with torch.no_grad():
        for name, parameter in planner.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


def relative_error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def full_states(planner, ids):
    return planner.states(torch.tensor([ids]))[0]


EVENT = "<|gen|>rain<timestamp>2.5</timestamp><t5>{t5}</t5><aud>{aud}</aud><|/gen|>"


def answer_ids(vocabulary, num_events):
    event = EVENT.format(
        t5=vocabulary.decode(vocabulary.semantic_ids),
        aud=vocabulary.decode(vocabulary.residual_ids),
    )
    return vocabulary.encode("two sounds<|/think|>" + num_events * event + "<|im_end|>")


def test_states_equal_the_recorded_ones(recorded):
    prompt, generated = SCRIPTED["prompt_ids"][0], SCRIPTED["generated_ids"][:-1]
    states = full_states(recorded, [*prompt.tolist(), *generated.tolist()])
    assert relative_error(states[len(prompt) :], SCRIPTED["hidden_last"]) < 5e-5


@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_as_exact_in_half_precision(dtype, with_lora):
    planner, exact = random_planner(), random_planner()
    if with_lora:
        random_lora(planner)
    torch.nn.ModuleDict({"planner": planner}).to(dtype)  # as a part of a whole, too
    assert planner.dtype == dtype
    for name, buffer in exact.qwen.model.rotary_emb.named_buffers():
        assert torch.equal(planner.qwen.model.rotary_emb.get_buffer(name), buffer)
    assert planner.to("meta").qwen.model.rotary_emb.inv_freq.device.type == "meta"


def test_writing_a_script_gives_the_recorded_ids_and_bridge_tokens(recorded, vocabulary):
    generated = SCRIPTED["generated_ids"].tolist()
    written = recorded.write(SCRIPTED["prompt_ids"][0].tolist(), vocabulary, choose=reciting(generated, vocabulary))
    assert written.ids == tuple(generated)
    assert written.finished
    assert relative_error(written.bridge.semantic, SCRIPTED["hidden_semantic"]) < 5e-5
    assert relative_error(written.bridge.residual, SCRIPTED["hidden_residual"]) < 5e-5


def test_writing_makes_transformers_warn_of_nothing(recorded, vocabulary):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorded.write([1, 2], vocabulary, max_new_tokens=3)


def test_writing_freely_gives_the_recorded_ids_and_scores(recorded, vocabulary):
    seen = []

    def choose(scores):
        seen.append(scores)
        return int(scores.argmax())

    written = recorded.write(
        FREE["prompt_ids"][0].tolist(), vocabulary, max_new_tokens=40, repetition_penalty=1.05, choose=choose
    )
    assert written.ids == tuple(FREE["generated_ids"].tolist())
    assert not written.finished
    ours, theirs = torch.stack(seen[:40]), FREE["scores_after_bridge"]
    free = ours.isfinite()
    assert relative_error(ours[free], theirs[free]) < 5e-5
    assert (theirs[~free] == 0).all()  # the release's bar, and the best score beats it at every step:
    assert (theirs.max(dim=-1).values > 0).all()


def test_released_lora_weights_work_unmerged_and_merged(recorded):
    planner = golden_weights.fresh_model(keep_lora=True).planner
    assert planner.has_lora
    ids = SCRIPTED["prompt_ids"]
    assert relative_error(planner.states(ids), recorded.states(ids)) < 5e-5
    planner.merge_lora()
    assert relative_error(planner.states(ids), recorded.states(ids)) < 5e-5


def test_a_block_in_one_forward_equals_token_by_token(vocabulary):
    planner = random_planner()
    prompt, answer = vocabulary.encode("<|im_start|>rain<|think|>"), answer_ids(vocabulary, 2)
    offered = []

    def choose(scores):
        offered.append(scores)
        return script(scores)

    script = reciting(answer, vocabulary)
    written = planner.write(prompt, vocabulary, choose=choose)
    assert list(written.ids) == answer

    cache = DynamicCache(config=planner.qwen.config)
    with torch.no_grad():
        states = [
            planner.qwen.model(torch.tensor([[token]]), use_cache=True, **{CACHE: cache}).last_hidden_state[0, 0]
            for token in [*prompt, *answer]
        ]
    for kind, numbered in (("semantic", vocabulary.semantic_ids), ("residual", vocabulary.residual_ids)):
        at = [len(prompt) + place for place, token in enumerate(answer) if token in numbered]
        stepwise = torch.stack([states[place] for place in at])
        assert torch.allclose(getattr(written.bridge, kind).flatten(0, 1), stepwise, atol=1e-5)
    inside = {*vocabulary.semantic_block, *vocabulary.residual_block}
    before = [len(prompt) + place - 1 for place, token in enumerate(answer) if token not in inside]
    free = offered[0].isfinite()
    stepwise = planner.logits(torch.stack([states[place] for place in before]))
    assert torch.allclose(torch.stack(offered)[:, free], stepwise[:, free], atol=1e-5)


PROMPTS = ("<|im_start|>rain<|think|>", "<|think|>", "<|im_start|>a dog barks in the rain<|think|>")


def test_scripts_written_together_are_those_written_alone(vocabulary):
    """They reach their blocks at different steps, and end at different ones."""
    planner = random_planner()
    prompts = [vocabulary.encode(text) for text in PROMPTS]
    answers = [answer_ids(vocabulary, 2), answer_ids(vocabulary, 1)[:-1] + [5] * 7, answer_ids(vocabulary, 3)[3:]]

    def written_by(choosers, write):
        offered = [[] for _ in choosers]
        written = write(lambda number, scores: offered[number].append(scores) or choosers[number](scores))
        return written, [torch.stack(scores) for scores in offered]

    def together(choose):
        return planner.write_many(
            prompts, vocabulary, max_new_tokens=100, choose=choose, on_tokens=lambda piece: pieces.append(piece)
        )

    def alone(choose):
        return [
            planner.write(prompt, vocabulary, max_new_tokens=100, choose=lambda scores, i=i: choose(i, scores))
            for i, prompt in enumerate(prompts)
        ]

    pieces = []
    filled = [[*answer, *[7] * 100][:100] if answer[-1] != vocabulary.im_end else answer for answer in answers]
    many, many_scores = written_by([reciting(ids, vocabulary) for ids in filled], together)
    one_by_one, scores = written_by([reciting(ids, vocabulary) for ids in filled], alone)
    for ours, theirs, offered, expected in zip(many, one_by_one, many_scores, scores, strict=True):
        assert ours.ids == theirs.ids
        assert ours.finished == theirs.finished
        torch.testing.assert_close(ours.bridge.semantic, theirs.bridge.semantic, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.bridge.residual, theirs.bridge.residual, rtol=0, atol=1e-5)
        torch.testing.assert_close(offered, expected, rtol=0, atol=1e-5)
    assert [len(one.bridge.semantic) for one in many] == [2, 1, 3]
    assert [one.finished for one in many] == [True, False, True]
    assert sum(map(len, pieces)) == sum(len(one.ids) for one in many)


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3])
def test_free_scripts_written_together_have_the_ids_of_those_written_alone(vocabulary, repetition_penalty):
    planner = random_planner(tie=False)
    prompts = [vocabulary.encode(text) for text in (*PROMPTS, "rain and rain", "x")]
    choices = {"max_new_tokens": 40, "repetition_penalty": repetition_penalty}
    many = planner.write_many(prompts, vocabulary, **choices)
    assert [one.ids for one in many] == [planner.write(prompt, vocabulary, **choices).ids for prompt in prompts]
    assert len({one.ids for one in many}) > 1


def test_scripts_written_together_hear_each_its_own_recording():
    planner, vocabulary = tiny.planner(), tiny.vocabulary()
    generator = torch.Generator().manual_seed(1)
    heard = [torch.randn(num, tiny.PLANNER_WIDTH, generator=generator) for num in (6, 2)]
    prompts = [listening_prompt(6), listening_prompt(2), vocabulary.encode("<|think|>")]
    answer = script.write(Instruction(text="x"), tiny.STORIES[0][1], vocabulary).ids
    answer = answer[answer.index(vocabulary.think) + 1 :]
    choosers = [reciting(answer, vocabulary) for _ in prompts]
    many = planner.write_many(
        prompts, vocabulary, heard=[*heard, None], choose=lambda number, scores: choosers[number](scores)
    )
    for prompt, tokens, ours in zip(prompts, [*heard, None], many, strict=True):
        theirs = planner.write(prompt, vocabulary, heard=tokens, choose=reciting(answer, vocabulary))
        torch.testing.assert_close(ours.bridge.semantic, theirs.bridge.semantic, rtol=0, atol=1e-5)
    assert not torch.allclose(many[0].bridge.semantic, many[1].bridge.semantic, atol=1e-3)


def test_a_script_ends_where_the_planners_context_does(vocabulary):
    planner = random_planner(max_positions=20)
    long, short = planner.write_many([[1] * 15, [1] * 4], vocabulary, choose=lambda number, scores: 7)
    assert (len(long.ids), len(short.ids)) == (5, 16)
    assert not long.finished


def compiled_planner(backend: str, **changes) -> Planner:
    """`random_planner` with compiled steps, and nothing compiled so far."""
    torch._dynamo.reset()
    counters.clear()
    planner = random_planner(**changes)
    planner.compile_steps(fullgraph=True, backend=backend)
    return planner


BACKENDS = ["eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_steps_write_the_same_scripts_and_compile_once(vocabulary, backend):
    """The scripts reach their blocks at different steps, and end at different ones."""
    plain, compiled = random_planner(), compiled_planner(backend=backend)
    prompts = [vocabulary.encode(text) for text in PROMPTS]
    answers = [answer_ids(vocabulary, 2), [*answer_ids(vocabulary, 1)[:-1], *[5] * 60], answer_ids(vocabulary, 3)[3:]]

    def written_by(planner):
        choosers = [reciting(ids, vocabulary) for ids in answers]
        return planner.write_many(
            prompts, vocabulary, max_new_tokens=90, choose=lambda number, scores: choosers[number](scores)
        )

    for _ in range(2):  # the second time with the cache of the first
        for ours, theirs in zip(written_by(compiled), written_by(plain), strict=True):
            assert ours.ids == theirs.ids
            torch.testing.assert_close(ours.bridge.semantic, theirs.bridge.semantic, rtol=0, atol=1e-5)
            torch.testing.assert_close(ours.bridge.residual, theirs.bridge.residual, rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    choices = {"max_new_tokens": 90, "repetition_penalty": 1.3}
    free = [planner.write_many(prompts, vocabulary, **choices) for planner in (compiled, plain)]
    assert [one.ids for one in free[0]] == [one.ids for one in free[1]]
    assert counters["stats"]["unique_graphs"] == 1


def test_compiled_steps_may_be_interleaved_and_broken_off(vocabulary):
    plain, compiled = random_planner(), compiled_planner(backend="eager")
    prompts, length = [vocabulary.encode(text) for text in PROMPTS[:2]], 12
    expected = [plain.write(prompt, vocabulary, max_new_tokens=length).ids for prompt in prompts]
    both = [compiled.writing([prompt], vocabulary, max_new_tokens=length) for prompt in prompts]
    pieces = list(zip_longest(*both))
    for number, ids in enumerate(expected):
        assert tuple(token for step in pieces if step[number] for token in step[number].ids) == ids
    next(compiled.writing(prompts[:1], vocabulary, max_new_tokens=length))  # the rest is never asked for
    assert compiled.write(prompts[0], vocabulary, max_new_tokens=length).ids == expected[0]


def test_compiled_steps_fill_the_room_to_its_end(vocabulary):
    """One script ends where the room does, with a block; meanwhile the other takes steps."""
    plain, compiled = random_planner(max_positions=32), compiled_planner(backend="eager", max_positions=32)
    block = 1 + len(vocabulary.semantic_block)
    prompts = [[1] * (32 - block - 3), [1] * 15]

    def written_by(planner):
        seen = [[], []]

        def choose(number, scores):
            seen[number].append(scores[scores.isfinite()])
            return vocabulary.semantic_open if number == 0 and len(seen[0]) == 4 else 7

        written = planner.write_many(prompts, vocabulary, max_new_tokens=100, choose=choose)
        return [one.ids for one in written], torch.stack(seen[1])

    (ours, our_scores), (theirs, their_scores) = written_by(compiled), written_by(plain)
    assert ours == theirs
    assert len(ours[0]) == 3 + block  # nothing is left
    assert len(ours[1]) == 17
    torch.testing.assert_close(our_scores, their_scores, rtol=0, atol=1e-5)


def test_nothing_asked_is_nothing_written(vocabulary):
    assert random_planner().write_many([], vocabulary) == []


def listening_prompt(num: int) -> list[int]:
    return script.prompt(Instruction(text="and then?"), tiny.vocabulary(), num_listening=num)


def test_writing_with_a_recording_continues_what_a_full_forward_computes():
    planner, vocabulary = tiny.planner(), tiny.vocabulary()
    prompt, heard = listening_prompt(6), torch.randn(6, tiny.PLANNER_WIDTH, generator=torch.Generator().manual_seed(1))
    answer = script.write(Instruction(text="and then?"), tiny.STORIES[0][1], vocabulary, num_listening=6).ids
    answer = answer[len(prompt) :]
    written = planner.write(prompt, vocabulary, heard=heard, choose=reciting(answer, vocabulary))
    assert written.ids == answer
    embeddings = planner.embed(torch.tensor([[*prompt, *answer]]))
    embeddings[0, [place for place, token in enumerate(prompt) if token == vocabulary.listening]] = heard
    states = planner.states(torch.zeros(1, 1, dtype=torch.long), embeddings)[0]
    slots = script.read([*prompt, *answer], vocabulary).slots
    for event, slot in enumerate(slots):
        torch.testing.assert_close(written.bridge.semantic[event], states[list(slot.semantic)], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(written.bridge.residual[event], states[list(slot.residual)], rtol=1e-4, atol=1e-5)


def test_what_is_written_depends_on_what_is_heard():
    planner, vocabulary = tiny.planner(), tiny.vocabulary()
    scores = []
    for seed in (1, 2):
        heard = torch.randn(6, tiny.PLANNER_WIDTH, generator=torch.Generator().manual_seed(seed))
        planner.write(
            listening_prompt(6), vocabulary, heard=heard, max_new_tokens=1, choose=lambda s: scores.append(s) or 0
        )
    first, second = (one[one.isfinite()] for one in scores)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(("places", "tokens"), [(6, 5), (6, 0), (0, 6), (6, None)])
def test_a_recording_must_fit_its_places(places, tokens):
    heard = None if tokens is None else torch.zeros(tokens, tiny.PLANNER_WIDTH)
    with pytest.raises(ValueError, match=f"listens at {places} places and its recording has {tokens or 0} tokens"):
        tiny.planner().write(listening_prompt(places), tiny.vocabulary(), heard=heard)


def test_a_broken_off_event_has_no_bridge_tokens_and_the_complete_ones_keep_theirs(vocabulary):
    planner = random_planner()
    answer = answer_ids(vocabulary, 2)
    prompt = vocabulary.encode("<|think|>")
    second_residual_block = len(answer) - 1 - answer[::-1].index(vocabulary.residual_open)
    whole = planner.write(prompt, vocabulary, choose=reciting(answer, vocabulary))
    cut = planner.write(
        prompt, vocabulary, max_new_tokens=second_residual_block + 3, choose=reciting(answer, vocabulary)
    )
    assert list(cut.ids) == answer[:second_residual_block]  # a block that would overrun is not started
    assert not cut.finished
    assert whole.bridge.semantic.shape == (2, 8, 64)
    assert torch.equal(cut.bridge.semantic, whole.bridge.semantic[:1])
    assert torch.equal(cut.bridge.residual, whole.bridge.residual[:1])


def test_nothing_written_gives_no_bridge_tokens(vocabulary):
    planner = random_planner()
    written = planner.write([1], vocabulary, max_new_tokens=8, choose=lambda scores: vocabulary.semantic_open)
    assert written.ids == ()
    assert written.bridge.semantic.shape == (0, 8, 64)
    assert written.bridge.residual.shape == (0, 4, 64)


def test_bridge_ids_are_barred_outside_a_block(vocabulary):
    planner = random_planner(vocab_size=400)
    offered = []

    def choose(scores):
        offered.append(scores)
        return vocabulary.semantic_open if len(offered) == 1 else vocabulary.im_end

    planner.write([1], vocabulary, choose=choose)
    barred = {*vocabulary.semantic_block, *vocabulary.residual_block, *range(388, 400)}
    for scores in offered:
        assert set((scores == -torch.inf).nonzero().flatten().tolist()) == barred


def test_repetition_penalty_is_that_of_transformers(vocabulary):
    planner = random_planner()
    with torch.no_grad():
        planner.qwen.lm_head.weight.mul_(10)
    prompt = vocabulary.encode("rain and rain")
    offered = []

    def choose(scores):
        offered.append(scores)
        return 7 if len(offered) == 1 else vocabulary.im_end

    planner.write(prompt, vocabulary, repetition_penalty=1.3, choose=choose)
    logits = planner.logits(full_states(planner, [*prompt, 7]))[-2:]
    for scores, raw, ids in zip(offered, logits, ([*prompt], [*prompt, 7]), strict=True):
        theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([ids]), raw[None].clone())[0]
        free = scores.isfinite()
        assert torch.allclose(scores[free], theirs[free], atol=1e-5)


def test_writing_ends_at_a_stop_id_and_tells_what_it_writes(vocabulary):
    planner = random_planner()
    answer = answer_ids(vocabulary, 1)
    pieces = []
    written = planner.write(
        [1], vocabulary, choose=reciting([*answer, 5, 5], vocabulary), on_tokens=lambda piece: pieces.append(piece)
    )
    assert written.finished
    assert written.ids[-1] == vocabulary.im_end
    assert [token for piece in pieces for token in piece] == answer
    assert max(map(len, pieces)) == 1 + len(vocabulary.semantic_block)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "prompt is empty"),
        ([1, 388], {}, "ids run from 0 to 387"),
        ([-1], {}, "ids run from 0 to 387"),
        ([1], {"repetition_penalty": 0.0}, "expected a positive number"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(vocabulary, prompt, settings, message):
    with pytest.raises(ValueError, match=message):
        random_planner().write(prompt, vocabulary, **settings)


def test_a_tokenizer_that_is_too_large_is_refused(vocabulary):
    with pytest.raises(ValueError, match="388 tokens, the planner only 387"):
        random_planner(vocab_size=387).write([1], vocabulary)


def test_padding_changes_no_state():
    planner = random_planner()
    ids = torch.randint(0, 388, (2, 12))
    states = planner.states(ids)
    assert torch.allclose(states[1, :7], planner.states(ids[1:, :7])[0], atol=1e-5)
    assert torch.allclose(states[0], planner.states(ids[:1])[0], atol=1e-5)


def test_states_compute_no_logits_and_use_fused_attention():
    planner = random_planner()
    assert planner.qwen.config._attn_implementation == "sdpa"
    planner.qwen.lm_head.register_forward_hook(lambda *_: pytest.fail("logits were computed"))
    full_states(planner, [1, 2, 3])


def test_gradient_checkpointing_changes_no_gradient():
    planner = random_planner().train()
    ids = torch.randint(0, 388, (1, 9))

    def gradient():
        planner.zero_grad()
        planner.states(ids).square().sum().backward()
        return planner.qwen.model.layers[0].mlp.up_proj.weight.grad.clone()

    plain = gradient()
    planner.enable_gradient_checkpointing()
    assert all(layer.gradient_checkpointing for layer in planner.qwen.model.layers)
    assert torch.allclose(gradient(), plain, atol=1e-6)


def test_lora_starts_as_the_planner_it_was_added_to():
    planner = random_planner()
    before = full_states(planner, [1, 2, 3])
    planner.add_lora(LoraSettings())
    assert torch.equal(full_states(planner, [1, 2, 3]), before)


def test_lora_norms_and_embeddings_learn_and_nothing_else():
    planner = random_planner()
    planner.add_lora(LoraSettings(rank=4, alpha=8))
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    linears = [*(f"self_attn.{name}" for name in attention), *(f"mlp.{name}" for name in mlp)]
    expected = {"model.embed_tokens.weight", "model.norm.modules_to_save.default.weight"}
    for layer in range(2):
        expected |= {f"model.layers.{layer}.{name}.lora_{side}.default.weight" for name in linears for side in "AB"}
        norms = ("input_layernorm", "post_attention_layernorm")
        expected |= {f"model.layers.{layer}.{name}.modules_to_save.default.weight" for name in norms}
    prefix = "language_model.base_model.model."
    learning = {name for name, parameter in planner.named_parameters() if parameter.requires_grad}
    assert learning == {prefix + name for name in expected}
    planner.train().logits(full_states(planner, [1, 2, 3])).square().sum().backward()
    assert {name for name, parameter in planner.named_parameters() if parameter.grad is not None} == learning


def test_merged_lora_equals_unmerged(vocabulary):
    planner = random_planner()
    plain = full_states(planner, [1, 2, 3])
    random_lora(planner)
    unmerged = full_states(planner, [1, 2, 3])
    assert not torch.allclose(unmerged, plain, atol=1e-2)
    written = planner.write([1, 2, 3], vocabulary, max_new_tokens=8)
    planner.merge_lora()
    assert not planner.has_lora
    assert torch.allclose(full_states(planner, [1, 2, 3]), unmerged, atol=1e-5)
    assert planner.write([1, 2, 3], vocabulary, max_new_tokens=8).ids == written.ids


def test_saving_merges_a_copy_and_loading_gives_the_same_planner(tmp_path):
    planner = random_planner()
    random_lora(planner)
    states, names = full_states(planner, [1, 2, 3]), set(planner.state_dict())
    planner.save_pretrained(tmp_path / "planner")
    assert set(planner.state_dict()) == names
    assert torch.equal(full_states(planner, [1, 2, 3]), states)
    loaded = Planner.from_pretrained(tmp_path / "planner")
    assert not loaded.training
    assert torch.allclose(full_states(loaded, [1, 2, 3]), states, atol=1e-5)
    assert Planner.from_pretrained(tmp_path / "planner", dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("tie", [True, False])
def test_a_saved_planner_has_the_same_weights(tmp_path, tie):
    planner = random_planner(tie=tie)
    planner.save_pretrained(tmp_path)
    loaded = Planner.from_pretrained(tmp_path).state_dict()
    assert set(loaded) == set(planner.state_dict())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in planner.state_dict().items())


def test_a_damaged_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        Planner.from_pretrained(tmp_path / "nowhere")
    random_planner().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        Planner.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        Planner.from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    random_planner(layers=3).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    random_planner(layers=2).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match="missing or unexpected"):
        Planner.from_pretrained(tmp_path)
    random_planner(layers=3, hidden=32).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match="cannot be read"):
        Planner.from_pretrained(tmp_path)
