"""The codec: parity with the released VAE, exact short decodes, its fronts, and losses that train it."""

from __future__ import annotations

import math

import golden_weights
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import Snake1d
from hypothesis import given, settings
from hypothesis import strategies as st

from audiostory.model import tiny
from audiostory.model.codec import FRAME_HOP, Codec, LeanSnake, compress, expand, griffin_lim, istft, stft
from audiostory.model.inputs import WaveformBatch


@pytest.fixture(scope="module")
def released() -> Codec:
    return golden_weights.model().codec


def chirp(seconds: float, sample_rate: int = 16000) -> torch.Tensor:
    """[1 1 W]: a rising tone over a little noise."""
    time = torch.arange(round(seconds * sample_rate)) / sample_rate
    noise = 0.01 * torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return (0.3 * torch.sin(2 * math.pi * 440 * time * (1 + time)) + noise)[None, None]


def tiny_codec(front: str) -> Codec:
    """`tiny.codec`, and the vocoder front at the same size."""
    if front != "vocoder":
        return tiny.codec(front=front)
    torch.manual_seed(0)
    return Codec(
        front=front,
        sample_rate=16000,
        audio_channels=1,
        encoder_hidden_size=2 * tiny.LATENT_CHANNELS,
        downsampling_ratios=(2, 2),
        channel_multiples=(1, 2),
        decoder_channels=16,
        latent_channels=tiny.LATENT_CHANNELS,
    ).eval()


FRONTS = pytest.mark.parametrize("front", ["waveform", "spectrogram", "vocoder"])


@torch.no_grad()
def test_decodes_as_the_release_does(released: Codec):
    recorded = golden_weights.data("vae")
    torch.testing.assert_close(released.decode(recorded["latents"]), recorded["wave"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_encodes_as_the_release_does(released: Codec):
    recorded = golden_weights.data("vae")
    posterior = released.posterior(recorded["encode_wave"])
    golden_weights.assert_as_recorded(posterior.mean, recorded["encode_mean"])
    golden_weights.assert_as_recorded(posterior.std, recorded["encode_std"])


@torch.no_grad()
@pytest.mark.parametrize("num_samples", [1, 32, 333, 1279, 1280])
def test_a_short_decode_equals_the_cut_of_a_whole_one(released: Codec, num_samples: int):
    latents = golden_weights.data("vae")["latents"]
    latents = torch.cat([latents, latents.flip(1)], dim=1)  # so long that a short decode leaves latents out
    whole = released.decode(latents)[..., :num_samples]
    torch.testing.assert_close(released.decode(latents, num_samples), whole, atol=2e-7, rtol=0)


@torch.no_grad()
def test_a_short_decode_of_the_vocoder_front_makes_the_same_phases():
    codec = tiny_codec("vocoder")
    latents = torch.randn(2, 80, tiny.LATENT_CHANNELS, generator=torch.Generator().manual_seed(0))
    num_samples = 7 * codec.hop + 5
    assert latents.shape[1] > codec.num_frames(num_samples) + codec.context_frames
    whole = codec.decode(latents)[..., :num_samples]
    torch.testing.assert_close(codec.decode(latents, num_samples), whole, atol=1e-4 * whole.abs().max().item(), rtol=0)


@FRONTS
@settings(max_examples=10, deadline=None)
@given(data=st.data())
@torch.no_grad()
def test_a_decode_in_pieces_equals_one_that_is_not_split(front: str, data):
    codec = tiny_codec(front)
    length = data.draw(st.integers(1, 90))
    num_samples = data.draw(st.integers(1, length * codec.hop))
    max_frames = data.draw(st.integers(1, length + 1))
    latents = torch.randn(2, length, tiny.LATENT_CHANNELS, generator=torch.Generator().manual_seed(length))
    if front == "spectrogram":  # its phases amplify the last digit of a magnitude, so the magnitudes are compared
        codec._samples = lambda frames: frames
    whole, pieces = codec.decode(latents, num_samples), codec.decode(latents, num_samples, max_frames)
    assert pieces.shape == whole.shape
    # The phases of the vocoder front follow one another, so a last digit may grow.
    atol = (1e-4 if front == "vocoder" else 1e-5) * whole.abs().max().item()
    torch.testing.assert_close(pieces, whole, atol=atol, rtol=0)


@torch.no_grad()
def test_a_decode_in_pieces_never_sees_more_than_a_piece_and_its_context():
    codec, seen = tiny_codec("spectrogram"), []
    codec.vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    samples = codec.decode(torch.randn(1, 120, tiny.LATENT_CHANNELS), max_frames=9)
    assert samples.shape[-1] == 120 * codec.hop
    assert max(seen) == 9 + 2 * codec.context_frames
    with pytest.raises(ValueError, match="max_frames must be at least 1, got 0"):
        codec.decode(torch.randn(1, 2, tiny.LATENT_CHANNELS), max_frames=0)


@torch.no_grad()
@FRONTS
def test_context_frames_are_enough_and_not_many_too_many(front: str):
    codec = tiny_codec(front)
    latents = torch.randn(1, 80, tiny.LATENT_CHANNELS, generator=torch.Generator().manual_seed(0))
    moved = latents.clone()
    outputs_per_frame = math.prod(codec.config.downsampling_ratios)

    def first_outputs_change(distance: int) -> bool:
        moved.copy_(latents)[:, distance] += 100
        ours, theirs = (codec.vae.decoder(z.mT)[..., :outputs_per_frame] for z in (latents, moved))
        return bool((ours - theirs).abs().max() > 1e-6)

    assert not first_outputs_change(codec.context_frames + 1)
    assert first_outputs_change(codec.context_frames - 7)


def test_the_released_strides_need_the_context_that_was_measured():
    assert Codec(encoder_hidden_size=4, decoder_channels=2, latent_channels=2).context_frames == 10  # SPEC 7


@torch.no_grad()
@FRONTS
@pytest.mark.parametrize("extra", [0, 1, 639])
def test_the_sound_comes_back_as_long_as_it_went_in(front: str, extra: int):
    codec = tiny_codec(front)
    num_samples = 5 * codec.hop + extra
    samples = chirp(1)[..., :num_samples]
    latents = codec.encode(samples)
    assert latents.shape == (1, codec.num_frames(num_samples), tiny.LATENT_CHANNELS)
    assert codec.num_frames(num_samples) == math.ceil(num_samples / codec.hop)
    assert codec.decode(latents, num_samples).shape == samples.shape
    assert codec.decode(latents).shape[-1] == latents.shape[1] * codec.hop


@torch.no_grad()
def test_griffin_lim_finds_a_sound_with_the_wanted_spectrum():
    magnitude = stft(chirp(1)[0]).abs()
    found = stft(griffin_lim(magnitude)).abs()
    assert (found - magnitude).norm() / magnitude.norm() < 0.15


@torch.no_grad()
def test_a_clip_sounds_the_same_in_every_batch_and_every_time():
    magnitude = stft(torch.cat([chirp(0.2)[0], 0.5 * chirp(0.2)[0].flip(-1)])).abs()
    torch.testing.assert_close(griffin_lim(magnitude)[1:], griffin_lim(magnitude[1:]), atol=1e-3, rtol=0)


def test_the_spectrum_has_an_inverse():
    samples = chirp(0.2)[0]
    spectrum = stft(samples)
    assert spectrum.shape == (1, 256, samples.shape[-1] // FRAME_HOP)
    inside = slice(0, -FRAME_HOP)  # the last hop has lost one of its windows, the Nyquist bin all
    torch.testing.assert_close(istft(spectrum)[:, inside], samples[:, inside], atol=2e-3, rtol=0)
    torch.testing.assert_close(expand(compress(spectrum.abs())), spectrum.abs(), atol=1e-4, rtol=1e-4)
    assert expand(torch.tensor([-1.0, compress(torch.tensor(0.0))])).tolist() == pytest.approx([0, 0], abs=1e-6)


@torch.no_grad()
def test_normalised_latents_have_unit_scale_and_decode_as_before():
    codec = tiny.codec(front="waveform")
    samples = torch.randn(4, 1, 640, generator=torch.Generator().manual_seed(0))
    sound = codec.decode(codec.encode(samples))
    for _ in range(2):  # a second fit starts from normalised latents and changes nothing
        codec.fit_normalisation(codec.encode(samples))
        latents = codec.encode(samples).flatten(0, 1)
        torch.testing.assert_close(latents.mean(0), torch.zeros(tiny.LATENT_CHANNELS), atol=1e-5, rtol=0)
        torch.testing.assert_close(latents.std(0), torch.ones(tiny.LATENT_CHANNELS), atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.decode(codec.encode(samples)), sound, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_folder_keeps_weights_settings_and_normalisation(tmp_path):
    codec = tiny.codec()
    codec.fit_normalisation(torch.randn(2, 9, tiny.LATENT_CHANNELS, generator=torch.Generator().manual_seed(0)))
    codec.save_pretrained(tmp_path)
    again = Codec.from_pretrained(tmp_path)
    latents = codec.encode(chirp(0.2))
    assert again.hop == codec.hop
    assert torch.equal(again.encode(chirp(0.2)), latents)
    assert torch.equal(again.decode(latents), codec.decode(latents))


@torch.no_grad()
def test_a_drawn_encoding_follows_its_generator():
    codec = tiny.codec()
    first, second, other = (
        codec.encode(chirp(0.2), sample=True, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


LOSS_NAMES = {
    "spectrogram": {"reconstruction_l1", "reconstruction_mse", "reconstruction_relative", "kl"},
    "vocoder": {"reconstruction_l1", "reconstruction_mse", "reconstruction_relative", "phase", "kl"},
    "waveform": {"waveform_l1", "stft_l1", "stft_convergence", "kl"},
}


@FRONTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_few_steps_lower_every_reconstruction_loss(front: str, dtype: torch.dtype):
    codec = tiny_codec(front)
    batch = WaveformBatch(samples=chirp(0.16))
    weights = dict.fromkeys(LOSS_NAMES[front], 1.0) | {"kl": 1e-6}
    optimizer = torch.optim.Adam(codec.parameters(), lr=3e-3)
    history = []
    for _ in range(15):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses = codec.losses(batch, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        losses.weighted(weights).backward()
        assert all(parameter.grad is not None for parameter in codec.parameters())
        optimizer.step()
        history.append(losses.named)
    assert set(history[0]) == LOSS_NAMES[front]
    for name in LOSS_NAMES[front] - {"kl"}:
        assert history[-1][name].dtype == torch.float32
        assert history[-1][name] < history[0][name]


def test_a_quiet_clip_does_not_blow_up_the_relative_loss():
    codec = tiny.codec()
    batch = WaveformBatch(samples=torch.cat([chirp(0.2), torch.zeros(1, 1, 3200)]))
    assert codec.losses(batch).named["reconstruction_relative"] < 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"front": "wave"}, "waveform, spectrogram, vocoder"),
        ({"front": "spectrogram", "audio_channels": 2}, "mono"),
        ({"front": "vocoder", "audio_channels": 2}, "mono"),
    ],
)
def test_a_wrong_front_is_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Codec(**settings)


def test_more_samples_than_the_latents_hold_are_refused():
    codec = tiny.codec()
    with pytest.raises(ValueError, match="hold 1280 samples, 1281"):
        codec.decode(torch.zeros(1, 2, tiny.LATENT_CHANNELS), 1281)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logscale", [True, False])
def test_the_lean_activation_is_that_of_diffusers_to_the_last_bit(dtype: torch.dtype, logscale: bool):
    torch.manual_seed(0)
    theirs = Snake1d(12, logscale=logscale).to(dtype)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    lean = LeanSnake(12, logscale=logscale).to(dtype)
    lean.load_state_dict(theirs.state_dict())
    states = 3 * torch.randn(2, 12, 101, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(lean(states), theirs(states))
    assert torch.equal(lean(states), theirs(states))
    assert lean(states).requires_grad


def test_every_activation_of_a_codec_is_lean():
    kinds = {type(module) for module in tiny_codec("waveform").modules() if isinstance(module, Snake1d)}
    assert kinds == {LeanSnake}
