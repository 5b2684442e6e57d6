"""Text to audio with tiny networks: the condition of its training, lengths to the sample, batches, refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import golden_weights
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from systems.cases import RATE, write_text_to_audio

from audiostory import timeline
from audiostory.model import tiny
from audiostory.model.codec import Codec
from audiostory.model.inputs import Condition
from audiostory.systems.text_to_audio import OurTextToAudio

TOKENS = 12


@pytest.fixture(scope="module")
def ours(text_to_audio) -> OurTextToAudio:
    return OurTextToAudio(text_to_audio, device="cpu", steps=2, guidance=2.0, num_tokens=TOKENS)


def test_a_clip_is_what_the_trained_parts_make_of_it_step_by_step(ours):
    """Written out for one clip: one step of guidance away from the empty text, then half the way again."""
    dit, encoder, codec = tiny.dit().eval(), tiny.text_encoder().eval(), tiny.codec(front="waveform").eval()
    (clip,) = ours.sounds(["a bell"], [2.0], [5])
    latents = torch.randn(50, tiny.LATENT_CHANNELS, generator=torch.Generator().manual_seed(5))[None]
    with torch.no_grad():
        for sigma in (1.0, 0.5):
            told, empty = (
                dit(
                    latents,
                    torch.tensor([sigma]),
                    Condition(tokens=encoder.encode([text], TOKENS), seconds=torch.tensor([2.0])),
                )
                for text in ("a bell", "")
            )
            latents = latents - 0.5 * (empty + 2.0 * (told - empty))
        expected = codec.decode(latents)[0]
    assert clip.sample_rate == RATE
    torch.testing.assert_close(torch.from_numpy(clip.samples), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.123, 1.0, 1.011, 3.99, 4.0])
def test_clips_are_as_long_as_asked_to_the_sample(ours, seconds):
    (clip,) = ours.sounds(["rain"], [seconds], [0])
    assert clip.num_samples == int(seconds * RATE + 0.5)


def test_a_clip_hardly_depends_on_those_beside_it(ours):
    both = ours.sounds(["rain", "a bell"], [1.0, 3.0], [1, 2])
    (alone,) = ours.sounds(["rain"], [1.0], [1])
    np.testing.assert_allclose(both[0].samples, alone.samples, rtol=0, atol=1e-5)
    again = ours.sounds(["rain", "a bell"], [1.0, 3.0], [1, 2])
    assert all(np.array_equal(one.samples, other.samples) for one, other in zip(both, again, strict=True))


def test_a_caption_longer_than_those_of_training_is_read_to_its_end(ours):
    """And its clip leaves the others as they are."""
    captions = ["rain", "a bell and then rain", "a bell and then wind"]
    short, *long = ours.sounds(captions, [1.0, 1.0, 1.0], [1, 2, 2])
    assert not np.allclose(long[0].samples, long[1].samples, atol=1e-4)
    assert np.array_equal(short.samples, ours.sounds(captions[:1], [1.0], [1])[0].samples)
    assert np.array_equal(long[1].samples, ours.sounds(captions[2:], [1.0], [2])[0].samples)


@pytest.mark.parametrize(("caption", "seed"), [("a bell", 1), ("rain", 2)])
def test_another_caption_and_another_seed_make_another_clip(ours, caption, seed):
    (one,), (other,) = ours.sounds(["rain"], [1.0], [1]), ours.sounds([caption], [1.0], [seed])
    assert not np.allclose(one.samples, other.samples, atol=1e-4)


def test_the_longest_clip_is_what_the_duration_token_tells_apart(ours):
    assert ours.longest_seconds == tiny.MAX_SECONDS
    with pytest.raises(ValueError, match="split the event"):
        ours.sounds(["rain"], [4.5], [0])


def test_settings_change_with_weights_codec_and_choices(text_to_audio, tmp_path):
    def settings(folder, codec=None, **choices):
        return OurTextToAudio(folder, codec, **choices).settings

    first = settings(text_to_audio, text_to_audio)
    assert settings(text_to_audio) == first
    assert first | {"steps": 25, "guidance": 3.0, "num_tokens": 16} == first
    assert settings(shutil.copytree(text_to_audio, tmp_path / "copy")) == first
    other = write_text_to_audio(tmp_path / "other", seed=1)
    assert settings(other, text_to_audio) == first | {"text_to_audio_sha256": settings(other)["text_to_audio_sha256"]}
    assert settings(other)["text_to_audio_sha256"] != first["text_to_audio_sha256"]
    assert settings(text_to_audio, other)["codec_sha256"] != first["codec_sha256"]
    assert settings(text_to_audio, steps=3, num_tokens=8) == first | {"steps": 3, "num_tokens": 8}


def test_a_codec_of_another_model_is_refused(text_to_audio, tmp_path):
    Codec(
        sample_rate=2 * RATE,
        audio_channels=1,
        encoder_hidden_size=2 * tiny.LATENT_CHANNELS,
        downsampling_ratios=(2, 4, 4),
        channel_multiples=(1, 1, 2),
        decoder_channels=16,
        latent_channels=tiny.LATENT_CHANNELS,
    ).save_pretrained(tmp_path / "codec")
    with pytest.raises(ValueError, match="latent frames per second of DiT and codec"):
        OurTextToAudio(text_to_audio, tmp_path, device="cpu").sounds(["rain"], [1.0], [0])


def test_a_folder_without_the_parts_is_refused(tmp_path, text_to_audio):
    with pytest.raises(ValueError, match="no folder"):
        OurTextToAudio(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no model in"):
        OurTextToAudio(tmp_path)
    shutil.copytree(text_to_audio / "dit", tmp_path / "half" / "dit")
    with pytest.raises(ValueError, match="holds no text_encoder"):
        OurTextToAudio(tmp_path / "half", text_to_audio, device="cpu").sounds(["rain"], [1.0], [0])


@pytest.fixture(scope="module")
def tangoflux(tmp_path_factory) -> Path:
    """TangoFlux's own layout at tiny size, made of the recorded checkpoint; its text encoder lies beside it."""
    checkpoint = golden_weights.RECORDING.rebuild(tmp_path_factory.mktemp("golden"))
    folder = checkpoint / "TangoFlux"
    folder.mkdir()
    for name, new in (("config.json",) * 2, ("vae_config.json",) * 2, ("model.safetensors", "vae.safetensors")):
        shutil.copyfile(checkpoint / "Flux_detokenizer" / name, folder / new)
    unified = golden_weights.tensors("ckpt/audiostory-tiny/pytorch_model.bin")
    own = {name.removeprefix("tangoflux."): one for name, one in unified.items() if name.startswith("tangoflux.")}
    del own["text_encoder.encoder.embed_tokens.weight"]  # an alias, which is not published
    save_file({name: value.clone() for name, value in own.items()}, folder / "tangoflux.safetensors")
    return folder


def test_tangoflux_pads_no_caption_and_renders_one_by_one(tangoflux):
    system = OurTextToAudio(tangoflux, device="cpu", steps=2)
    assert (system.settings["num_tokens"], system.settings["guidance"]) == (None, 4.5)
    captions, seconds = ["rain", "a bell rings twice"], [system.longest_seconds, 0.7 * system.longest_seconds]
    several = system.sounds(captions, seconds, [1, 2])
    rate = several[0].sample_rate
    assert [clip.num_samples for clip in several] == [timeline.place(length, rate) for length in seconds]
    (alone,) = system.sounds(captions[1:], seconds[1:], [2])
    assert np.array_equal(several[1].samples, alone.samples)
    system.num_tokens = int(golden_weights.model().text_encoder.tokenize(captions[1:], 99)[1].sum())
    (padded_to_itself,) = system.sounds(captions[1:], seconds[1:], [2])
    assert np.array_equal(padded_to_itself.samples, alone.samples)
