"""AudioLDM2 and Stable Audio through diffusers, with tiny random weights: lengths, seeds, and what is refused."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from systems.tiny_diffusers import write_audioldm2, write_stable_audio

from audiostory.systems.diffusers_audio import KINDS, DiffusersTextToAudio

RATES = {"AudioLDM2Pipeline": (64, 1), "StableAudioPipeline": (80, 2)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusers")
    return {
        "AudioLDM2Pipeline": write_audioldm2(folder / "audioldm2"),
        "StableAudioPipeline": write_stable_audio(folder / "stable_audio"),
    }


@pytest.fixture(scope="module", params=list(KINDS))
def system(request, folders) -> DiffusersTextToAudio:
    return DiffusersTextToAudio(folders[request.param], device="cpu", steps=2)


def test_clips_are_as_long_as_asked_and_depend_on_their_seed_and_words(system):
    rate, channels = RATES[system.settings["text_to_audio"]]
    clips = system.sounds(["a dog", "rain", "rain", "a dog"], [2.0, 1.3, 0.5, 2.0], [1, 2, 2**64 - 1, 2])
    assert [clip.num_samples for clip in clips] == [int(seconds * rate + 0.5) for seconds in (2.0, 1.3, 0.5, 2.0)]
    assert {(clip.sample_rate, clip.num_channels) for clip in clips} == {(rate, channels)}
    (again,) = system.sounds(["rain"], [1.3], [2])
    assert np.array_equal(again.samples, clips[1].samples)
    assert not np.array_equal(clips[0].samples, clips[3].samples)
    (other,) = system.sounds(["zzz zzz zzz"], [1.3], [2])
    assert not np.array_equal(again.samples, other.samples)


def test_the_longest_clip_is_what_diffusers_makes_when_none_is_asked(system):
    assert system.longest_seconds == 4.0
    (clip,) = system.sounds(["rain"], [4.0], [0])
    assert clip.seconds == 4.0


def test_steps_and_guidance_are_diffusers_own_unless_given(folders):
    for name, (steps, guidance) in {"AudioLDM2Pipeline": (200, 3.5), "StableAudioPipeline": (100, 7.0)}.items():
        settings = DiffusersTextToAudio(folders[name]).settings
        assert (settings["text_to_audio"], settings["steps"], settings["guidance"]) == (name, steps, guidance)
    assert DiffusersTextToAudio(folders[name], steps=3).settings == settings | {"steps": 3}
    with pytest.raises(ValueError, match="steps must be"):
        DiffusersTextToAudio(folders[name], steps=0)


@pytest.fixture
def copy(folders, tmp_path):
    return shutil.copytree(folders["StableAudioPipeline"], tmp_path / "copy")


def edit(folder, **changes) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, "expected AudioLDM2Pipeline or StableAudioPipeline"),
        ({"_class_name": ["StableAudioPipeline"]}, "expected AudioLDM2Pipeline or StableAudioPipeline"),
        ({"vae": ["os", "system"]}, "expected diffusers AutoencoderOobleck; other classes are never loaded"),
        ({"vae": ["transformers", "AutoencoderOobleck"]}, "other classes are never loaded"),
        ({"vae": None}, "vae is None"),
        ({"more": ["diffusers", "AutoencoderKL"]}, "expected nothing of that name"),
        ({"tokenizer": ["transformers", "AutoTokenizer"]}, "expected transformers T5Tokenizer or"),
    ],
)
def test_other_classes_are_never_loaded(copy, changes, message):
    edit(copy, **changes)
    with pytest.raises(ValueError, match=message):
        DiffusersTextToAudio(copy)


def test_code_in_the_folder_is_refused(copy):
    (copy / "vae" / "diffusers.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match="is code, which is never run"):
        DiffusersTextToAudio(copy)


def test_weights_that_are_no_safetensors_are_not_read(copy):
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(OSError, match="safetensors"):
        DiffusersTextToAudio(copy, device="cpu").sounds(["rain"], [1.0], [0])


@pytest.mark.skipif(find_spec("torchsde") is not None, reason="torchsde is here")
def test_stable_audios_own_scheduler_says_what_it_needs(copy):
    edit(copy, scheduler=["diffusers", "CosineDPMSolverMultistepScheduler"])
    with pytest.raises(ValueError, match=r"needs a package that is not here: Cosine.* torchsde"):
        DiffusersTextToAudio(copy, device="cpu").sounds(["rain"], [1.0], [0])


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model_index\.json is missing"):
        DiffusersTextToAudio(tmp_path)
