"""The whole in training: the recorded losses and gradients, and that each loss teaches exactly what it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import golden_weights
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from audiostory.model import audiostory as training
from audiostory.model import tiny
from audiostory.model.audiostory import AudioStory, draw, flow_loss
from audiostory.model.bridge import Bridge
from audiostory.model.dit import VelocityDiT
from audiostory.model.inputs import Condition, Losses, StoryBatch
from audiostory.story import script
from audiostory.story.types import Role

EVERY_LOSS = {"semantic", "text", "flow", "reason", "reason_count", "reason_content", "reason_caption"}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def tell(model: AudioStory, batch: StoryBatch, wanted: set[str] | None = None) -> dict[str, Tensor]:
    return dict(model.losses(batch, seeded(), wanted).named)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], **tolerance: float) -> None:
    assert set(ours) == set(theirs)
    for name, loss in theirs.items():
        assert_close(
            ours[name], loss, **{"rtol": 1e-5, "atol": 1e-5, **tolerance}, msg=lambda m, name=name: f"{name}: {m}"
        )


# Parity with the release


@pytest.fixture
def recorded_model() -> AudioStory:
    """Planner with unmerged LoRA; the published training formula, which only this recording uses."""
    parts = golden_weights.fresh_model(keep_lora=True)
    bridge = Bridge.from_config(parts.bridge.config, release_training_formula=True)
    bridge.load_state_dict(parts.bridge.state_dict())
    model = AudioStory(parts.planner, bridge, parts.dit, condition_dropout=0.0, sigma_distribution="logit_normal")
    return model.eval()  # recorded without LoRA's dropout


def recorded_batch() -> StoryBatch:
    golden = golden_weights.data("train_forward")

    def slots(kind: str) -> Tensor:
        return torch.stack([mask.nonzero()[:, 0] for mask in golden[f"ids_{kind}_gen_mask"]])

    return StoryBatch(
        ids=golden["input_ids"],
        attention=golden["attention_mask"].bool(),
        roles=torch.where(golden["labels"] == -100, Role.PROMPT, Role.MARKER),
        event_row=torch.arange(2),
        semantic_slots=slots("t5"),
        residual_slots=slots("aud"),
        seconds=golden["duration"],
        frames=torch.tensor([40, 40]),
        latents=golden["audio_latent"],
        teacher=golden["caption_embeds"],
    )


def test_training_losses_and_gradients_are_the_releases(recorded_model: AudioStory):
    golden = golden_weights.data("train_forward")
    losses = recorded_model.losses(recorded_batch(), torch.Generator().manual_seed(1234 + 3))
    names = {"text": "lm_loss", "semantic": "audio_rec_loss", "flow": "audio_dit_loss"}
    assert_same(dict(losses.named), {ours: golden[theirs][0] for ours, theirs in names.items()}, rtol=1e-4, atol=0)

    losses.weighted({"text": 1.0, "semantic": 0.5, "flow": 1.0}).backward()
    language_model = "seedx.llm.base_model.model.model."
    places = {
        f"{language_model}embed_tokens.weight": "embed_tokens.weight",
        f"{language_model}layers.0.self_attn.q_proj.lora_B.default.weight": "layers.0.self_attn.q_proj.lora_B",
        f"{language_model}norm.modules_to_save.default.weight": "model.norm.modules_to_save",
        "seedx.projector.2.bias": "semantic_projector.2.bias",
        "multihead_attention.out_proj.bias": "fuser.out_proj.bias",
        "tangoflux.duration_emebdder.time_positional_embedding.0.weights": "duration_embedder.frequencies",
    }
    for theirs, ours in places.items():
        (gradient,) = [parameter.grad for name, parameter in recorded_model.named_parameters() if ours in name]
        expected = golden[f"grad:{theirs}"]
        assert gradient is not None
        assert (gradient - expected).norm() / expected.norm() < 1e-4, ours


def test_what_a_batch_holds_nothing_for_is_absent_and_a_misnamed_loss_is_an_error(recorded_model: AudioStory):
    losses = recorded_model.losses(replace(recorded_batch(), latents=None), wanted={"text", "flow"})
    assert set(losses.absent) == {"flow"}
    assert losses.weighted({"text": 2.0, "flow": 1.0}) == 2 * losses.named["text"]
    with pytest.raises(ValueError, match="no loss named semantic"):
        losses.weighted({"text": 1.0, "semantic": 1.0})
    with pytest.raises(ValueError, match="no loss named flow"):
        losses.weighted({"flow": 1.0})
    with pytest.raises(ValueError, match="there is no loss flwo"):
        recorded_model.losses(recorded_batch(), wanted={"flwo"})


@torch.no_grad()
def test_flow_loss_is_the_releases(golden_dit: VelocityDiT):
    golden = golden_weights.data("flow_loss")
    draws = draw(golden["latents"], 0.0, "logit_normal", torch.Generator().manual_seed(1234 + 2))
    assert torch.equal(draws.noise, golden["noise"])
    condition = Condition(tokens=golden["t5_tokens"], seconds=golden["duration"])
    loss = flow_loss(golden_dit, golden["latents"], torch.full((3,), 40), condition, draws)
    assert_close(loss, golden["loss"][0], rtol=1e-5, atol=0)


# What each loss teaches


def test_the_tiny_losses_stay_what_they_were():
    recorded = {
        "semantic": 4.320320,
        "text": 6.785038,
        "flow": 2.080926,
        "reason": 20.087328,
        "reason_count": 6.556695,
        "reason_content": 6.766304,
        "reason_caption": 6.764330,
    }
    ours = tell(tiny.audiostory(), tiny.story_batch())
    assert_same(ours, {name: torch.tensor(loss) for name, loss in recorded.items()}, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("loss", "taught"),
    [
        ("text", {"planner"}),
        ("reason", {"planner"}),
        ("semantic", {"planner", "bridge.semantic_projector"}),
        ("flow", {"planner", "bridge.semantic_projector", "bridge.residual_projector", "bridge.fuser", "dit"}),
    ],
)
def test_each_loss_teaches_exactly_its_parts(loss: str, taught: set[str]):
    model = tiny.audiostory()
    tell(model, tiny.story_batch())[loss].backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, _ in model.named_parameters() if name.startswith(tuple(taught))}


def predicts(*roles: Role) -> Callable[[StoryBatch], Tensor]:
    """Where the state stands that predicts a token of these roles: one position before it."""

    def positions(batch: StoryBatch) -> Tensor:
        found = torch.isin(batch.roles, torch.tensor([int(role) for role in roles]))
        return torch.cat([found[:, 1:], torch.zeros_like(found[:, :1])], dim=1)

    return positions


def at_slots(*kinds: str) -> Callable[[StoryBatch], Tensor]:
    def positions(batch: StoryBatch) -> Tensor:
        found = torch.zeros_like(batch.attention)
        for kind in kinds:
            found[batch.event_row[:, None], getattr(batch, kind)] = True
        return found

    return positions


@pytest.mark.parametrize(
    ("loss", "reached"),
    [
        ("semantic", at_slots("semantic_slots")),
        ("flow", at_slots("semantic_slots", "residual_slots")),
        ("text", predicts(Role.MARKER, Role.ANSWER)),
        ("reason_count", predicts(Role.EVENT_COUNT)),
        ("reason_content", predicts(Role.CONTENT)),
        ("reason_caption", predicts(Role.CAPTION)),
        ("reason", predicts(Role.EVENT_COUNT, Role.CONTENT, Role.CAPTION)),
    ],
)
def test_each_loss_reaches_exactly_its_states(
    loss: str, reached: Callable[[StoryBatch], Tensor], monkeypatch: pytest.MonkeyPatch
):
    model, batch = tiny.audiostory(), tiny.story_batch()
    states = model.planner.states(batch.ids).detach().requires_grad_()
    monkeypatch.setattr(model.planner, "states", lambda ids, embeddings: states)
    tell(model, batch)[loss].backward()
    assert torch.equal(states.grad.abs().sum(-1) > 0, reached(batch))


def test_text_losses_equal_a_full_cross_entropy():
    model, batch = tiny.audiostory(), tiny.story_batch()
    logits = model.planner.logits(model.planner.states(batch.ids))[:, :-1].flatten(0, 1)
    for loss in ("text", *training.REASON_PARTS):
        roles = training.LEARNT_ROLES[loss]
        counted = torch.isin(batch.roles, torch.tensor([int(role) for role in roles]))
        labels = batch.ids.masked_fill(~counted, -100)[:, 1:].flatten()
        assert_close(tell(model, batch)[loss], torch.nn.functional.cross_entropy(logits, labels))


def test_reason_is_the_sum_of_its_three_parts():
    losses = tell(tiny.audiostory(), tiny.story_batch())
    parts = [losses[name] for name in ("reason_count", "reason_content", "reason_caption")]
    assert_close(losses["reason"], sum(parts))


def test_semantic_loss_compares_with_the_scaled_teacher_at_every_position():
    model, batch = tiny.audiostory(), tiny.story_batch()
    bridged = model.bridge(training.gather(model.planner.states(batch.ids), batch))
    perfect = replace(batch, teacher=bridged.semantic_prediction / tiny.FEATURE_SCALE)
    assert tell(model, perfect)["semantic"] < 1e-10
    for position in range(tiny.NUM_SEMANTIC):
        off = perfect.teacher.clone()
        off[:, position] += 1
        assert tell(model, replace(perfect, teacher=off))["semantic"] > 0.1


# What must not matter


def test_padding_changes_no_loss():
    model, batch = tiny.audiostory(), tiny.story_batch()
    columns = (0, 7)
    padded = replace(
        batch,
        ids=torch.nn.functional.pad(batch.ids, columns, value=5).masked_fill(
            ~torch.nn.functional.pad(batch.attention, columns), 9
        ),
        attention=torch.nn.functional.pad(batch.attention, columns),
        roles=torch.nn.functional.pad(batch.roles, columns, value=Role.PROMPT),
        latents=batch.latents.masked_fill(
            torch.arange(batch.latents.shape[1])[None, :, None] >= batch.frames[:, None, None], 100.0
        ),
    )
    assert_same(tell(model, padded), tell(model, batch))


def test_a_row_without_events_changes_no_loss_of_the_others():
    model, batch = tiny.audiostory(), tiny.story_batch()
    with_guest = replace(
        batch,
        ids=torch.cat([batch.ids[1:], batch.ids]),
        attention=torch.cat([batch.attention[1:], batch.attention]),
        roles=torch.cat([torch.full_like(batch.roles[1:], Role.PROMPT), batch.roles]),
        event_row=batch.event_row + 1,
    )
    assert_same(tell(model, with_guest), tell(model, batch))


def test_order_of_rows_and_events_changes_no_loss(monkeypatch: pytest.MonkeyPatch):
    model, batch = tiny.audiostory(), tiny.story_batch()
    order = torch.tensor([2, 0, 1])
    per_event = ("semantic_slots", "residual_slots", "seconds", "frames", "latents", "teacher")
    shuffled = replace(
        batch,
        ids=batch.ids.flip(0),
        attention=batch.attention.flip(0),
        roles=batch.roles.flip(0),
        event_row=1 - batch.event_row[order],
        **{name: getattr(batch, name)[order] for name in per_event},
    )
    expected = tell(model, batch)
    draws = draw(batch.latents, 0.0, "uniform", seeded())
    moved = replace(draws, noise=draws.noise[order], sigma=draws.sigma[order], dropped=draws.dropped[order])
    monkeypatch.setattr(training, "draw", lambda *_: moved)
    assert_same(tell(model, shuffled), expected)


def test_several_events_in_a_row_are_not_merged():
    """A story's flow loss is that of its clips one by one, each conditioned on its own tokens alone."""
    model = tiny.audiostory()
    batch = tiny.story_batch(tiny.STORIES[:1])
    draws = draw(batch.latents, 0.0, "uniform", seeded())
    fused = model.bridge(training.gather(model.planner.states(batch.ids), batch)).fused
    total = torch.tensor(0.0)
    for event, frames in enumerate(batch.frames.tolist()):
        one = slice(event, event + 1)
        condition = Condition(tokens=fused[one], seconds=batch.seconds[one])
        own = replace(draws, noise=draws.noise[one, :frames], sigma=draws.sigma[one], dropped=draws.dropped[one])
        total = total + frames * flow_loss(model.dit, batch.latents[one, :frames], batch.frames[one], condition, own)
    assert_close(tell(model, batch)["flow"], total / batch.frames.sum(), rtol=1e-5, atol=1e-5)


# What is asked for


@pytest.mark.parametrize(
    "wanted",
    [{"semantic"}, {"flow"}, {"text"}, {"reason"}, {"reason_count", "text"}, {"semantic", "flow", "reason"}, set()],
)
def test_wanted_losses_are_those_of_all(wanted: set[str]):
    model, batch = tiny.audiostory(), tiny.story_batch()
    every = tell(model, batch)
    assert set(every) == EVERY_LOSS
    assert_same(tell(model, batch, wanted), {name: every[name] for name in wanted}, rtol=1e-6, atol=0)


def test_what_is_not_wanted_does_not_run(monkeypatch: pytest.MonkeyPatch):
    model, batch = tiny.audiostory(), tiny.story_batch()

    def must_not_run(*_):
        raise AssertionError("this part is not needed")

    monkeypatch.setattr(model.dit, "forward", must_not_run)
    assert set(tell(model, batch, {"semantic", "text", "reason"})) == {"semantic", "text", "reason"}
    monkeypatch.setattr(model.bridge, "forward", must_not_run)
    assert set(tell(model, batch, {"text"})) == {"text"}
    monkeypatch.setattr(model.planner, "logits", must_not_run)
    assert tell(model, batch, set()) == {}


def test_a_loss_without_material_is_absent():
    model, batch = tiny.audiostory(), tiny.story_batch()
    assert set(tell(model, replace(batch, latents=None))) == EVERY_LOSS - {"flow"}
    assert set(tell(model, replace(batch, teacher=None))) == EVERY_LOSS - {"semantic"}
    only_prompts = replace(batch, roles=torch.full_like(batch.roles, Role.PROMPT))
    assert set(tell(model, only_prompts)) == {"semantic", "flow"}
    no_count = replace(batch, roles=batch.roles.masked_fill(batch.roles == Role.EVENT_COUNT, Role.PROMPT))
    assert set(tell(model, no_count)) == EVERY_LOSS - {"reason_count"}


def test_a_batch_without_events_still_teaches_words():
    model = tiny.audiostory()
    written = script.write(*tiny.STORIES[0], tiny.vocabulary(), bridge=False)
    batch = tiny.story_batch(tiny.STORIES[:1])
    wordy = replace(
        batch,
        ids=torch.tensor([written.ids]),
        attention=torch.ones(1, len(written.ids), dtype=torch.bool),
        roles=torch.tensor([[int(role) for role in written.roles]]),
        **{
            name: getattr(batch, name)[:0]
            for name in ("event_row", "semantic_slots", "residual_slots", "seconds", "frames", "latents", "teacher")
        },
    )
    assert set(tell(model, wordy)) == EVERY_LOSS - {"semantic", "flow"}


# Recordings


def test_a_recording_is_heard_at_its_places_and_nowhere_else():
    model, batch = tiny.audiostory(listens=True), tiny.listening_batch()
    plain, heard = model.planner.embed(batch.ids), model.heard(batch)
    assert heard is not None
    places = batch.ids == tiny.vocabulary().listening
    assert torch.equal(heard[~places], plain[~places])
    tokens = model.listener_projector(batch.audio_features)
    assert_close(heard[0][places[0]], tokens[:2].flatten(0, 1))
    assert_close(heard[1][places[1]], tokens[2])
    assert model.heard(tiny.story_batch()) is None


def test_a_recording_changes_the_losses_of_its_own_row_alone():
    model, batch = tiny.audiostory(listens=True), tiny.listening_batch()
    features = batch.audio_features.clone()
    features[2] += 1  # what the second row hears
    before, after = (
        model.planner.states(one.ids, model.heard(one)) for one in (batch, replace(batch, audio_features=features))
    )
    assert_close(after[[0, 2]], before[[0, 2]])
    first = int(batch.audio_slots[2, 0])
    assert_close(after[1, :first], before[1, :first])
    assert ((after[1, first:] - before[1, first:]).abs().amax(-1) > 1e-4).all()


def test_rows_with_and_without_recordings_compute_what_they_do_alone():
    model, batch = tiny.audiostory(listens=True), tiny.listening_batch()
    together = model.planner.states(batch.ids, model.heard(batch))
    (first, _), alone = tiny.STORIES[1], tiny.story_batch(tiny.STORIES[1:])
    assert_close(together[2][batch.attention[2]], model.planner.states(alone.ids)[0])
    script_of_two = batch.ids[1][batch.attention[1]].tolist()
    tokens = model.listener_projector(batch.audio_features)[2]
    by_hand = model.planner.hear(script_of_two, tiny.vocabulary(), tokens)
    assert_close(together[1][batch.attention[1]], model.planner.states(torch.tensor([script_of_two]), by_hand)[0])
    assert first.text == "rain"


@pytest.mark.parametrize("loss", ["text", "reason", "semantic", "flow"])
def test_every_loss_teaches_the_projector_to_listen_and_features_are_data(loss: str):
    model, batch = tiny.audiostory(listens=True), tiny.listening_batch()
    batch = replace(batch, audio_features=batch.audio_features.requires_grad_(False))
    tell(model, batch)[loss].backward()
    assert all(one.grad is not None and one.grad.any() for one in model.listener_projector.parameters())
    assert batch.audio_features.grad is None
    assert not any("audio_encoder" in name for name, _ in model.named_parameters())


def test_a_step_without_recordings_does_not_use_the_projector():
    model, batch = tiny.audiostory(listens=True), tiny.story_batch()
    losses = tell(model, batch)
    assert_same(losses, tell(tiny.audiostory(), batch))
    sum(losses.values()).backward()
    assert all(parameter.grad is None for parameter in model.listener_projector.parameters())


def test_a_model_without_a_listener_refuses_recordings():
    with pytest.raises(ValueError, match=r"the rows tiny-0, tiny-1, tiny-2 \.\.\. hold recordings"):
        tell(tiny.audiostory(), tiny.listening_batch())


def test_an_answer_is_learnt_word_by_word():
    model, batch = tiny.audiostory(listens=True), tiny.listening_batch()
    answers = replace(batch, roles=batch.roles.masked_fill(batch.roles != Role.ANSWER, Role.PROMPT))
    counted = (batch.roles == Role.ANSWER)[:, 1:]
    logits = model.planner.logits(model.planner.states(batch.ids, model.heard(batch)))[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits[counted], batch.ids[:, 1:][counted])
    assert_close(tell(model, answers)["text"], expected)
    assert tiny.vocabulary().decode(batch.ids[:, 1:][counted].tolist()) == "a dog"


def test_each_answer_counts_as_much_as_another_however_long():
    model, batch = tiny.audiostory(listens=True), tiny.listening_batch()
    ids = torch.cat([batch.ids, batch.ids])
    roles = torch.cat([torch.where(batch.roles == Role.ANSWER, Role.ANSWER, Role.PROMPT)] * 2)
    asked = (roles == Role.ANSWER).any(1).nonzero()[:, 0]
    assert len(asked) == 2
    shorter = roles[asked[1]] == Role.ANSWER
    roles[asked[1]] = torch.where(shorter & (shorter.cumsum(0) > 1), Role.PROMPT, roles[asked[1]])
    model.planner.states = lambda ids, embeddings: states  # recordings need not be doubled
    states = torch.randn(*ids.shape, model.planner.qwen.config.hidden_size, generator=seeded())
    doubled = replace(batch, ids=ids, roles=roles, audio_features=None)
    logits, labels = model.planner.logits(states)[:, :-1], ids[:, 1:]
    own = [
        torch.nn.functional.cross_entropy(logits[row][of], labels[row][of])
        for row in asked
        for of in [roles[row, 1:] == Role.ANSWER]
    ]
    assert_close(tell(model, doubled, ["answer"])["answer"], torch.stack(own).mean())


def test_forward_is_losses_for_the_wrappers_of_distributed_training():
    model, batch = tiny.audiostory(), tiny.story_batch()
    losses = model(batch, seeded())
    assert isinstance(losses, Losses)
    assert_same(dict(losses.named), tell(model, batch), rtol=0, atol=0)


@pytest.mark.parametrize(
    "root", [lambda: (tiny.audiostory(), tiny.story_batch()), lambda: (tiny.text_to_audio(), tiny.clip_batch())]
)
def test_losses_are_float32_and_close_under_autocast(root: Callable):
    model, batch = root()
    expected = dict(model.losses(batch, seeded()).named)
    with torch.autocast("cpu", torch.bfloat16):
        losses = dict(model.losses(batch, seeded()).named)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert_same(losses, expected, rtol=0.03, atol=0)


# Chance


def test_without_its_condition_the_flow_loss_does_not_depend_on_the_planner():
    batch = tiny.story_batch()
    model = tiny.audiostory(condition_dropout=1.0)
    other = AudioStory(tiny.planner(seed=1), model.bridge, model.dit, condition_dropout=1.0)
    losses = tell(model, batch)
    assert torch.equal(losses["flow"], tell(other, batch)["flow"])
    assert not torch.equal(losses["semantic"], tell(other, batch)["semantic"])
    losses["flow"].backward()
    taught = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught
    assert all(name.startswith("dit.") for name in taught)


def test_a_dropped_condition_is_what_guidance_steps_away_from():
    model, batch = tiny.audiostory(condition_dropout=1.0), tiny.story_batch()
    draws = draw(batch.latents, 1.0, "uniform", seeded())
    tokens = model.bridge.unconditional.expand(3, -1, -1)
    expected = flow_loss(model.dit, batch.latents, batch.frames, Condition(tokens=tokens, seconds=batch.seconds), draws)
    assert_close(tell(model, batch)["flow"], expected)


def test_noise_is_drawn_first_then_sigma_and_dropout_disturbs_neither():
    latents, generator = torch.zeros(500, 3, 2), seeded()
    draws = draw(latents, 0.25, "uniform", seeded())
    assert torch.equal(draws.noise, torch.randn(500, 3, 2, generator=generator))
    assert torch.equal(draws.sigma, 1 - torch.rand(500, generator=generator))
    assert draws.dropped.float().mean() == pytest.approx(0.25, abs=0.05)
    assert not draw(latents, 0.0, "uniform", seeded()).dropped.any()
    assert draw(latents, 1.0, "uniform", seeded()).dropped.all()


# Text to audio


def test_the_tiny_text_to_audio_loss_stays_what_it_was():
    loss = tiny.text_to_audio().losses(tiny.clip_batch(), seeded()).named["flow"]
    assert_close(loss, torch.tensor(2.344219), rtol=1e-4, atol=0)


def test_text_to_audio_teaches_text_encoder_and_dit():
    model = tiny.text_to_audio()
    model.losses(tiny.clip_batch(), seeded()).named["flow"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_dropped_text_is_the_empty_text():
    model = tiny.text_to_audio(condition_dropout=1.0)
    dropped = model.losses(tiny.clip_batch(["a bell", "rain"]), seeded()).named["flow"]
    assert torch.equal(dropped, model.losses(tiny.clip_batch(["owls", "dogs"]), seeded()).named["flow"])
    model.condition_dropout = 0.0
    assert_close(dropped, model.losses(tiny.clip_batch(["", ""]), seeded()).named["flow"])
    assert not torch.allclose(dropped, model.losses(tiny.clip_batch(["owls", "dogs"]), seeded()).named["flow"])
