"""VGGish: the published names and shapes, the front end against other people's, and patches.

What the published weights make of a recording could not be compared here: they cannot be had.
"""

from functools import partial

import numpy as np
import pytest
import torch

from audiostory.benchmark.embedders import checkpoints, vggish
from audiostory.benchmark.embedders.recordings import prepare
from audiostory.benchmark.embedders.vggish import Vggish, VggishNetwork, log_mel, mel_bank, patch
from audiostory.sound import Waveform

# Of vggish-10086976.pth, as torchvggish's definition has them.
CONVOLUTIONS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
LAYERS = {0: (12288, 4096), 2: (4096, 4096), 4: (4096, 128)}
KEYS = {
    **{f"features.{n}.weight": (out, size, 3, 3) for n, (size, out) in CONVOLUTIONS.items()},
    **{f"features.{n}.bias": (out,) for n, (_, out) in CONVOLUTIONS.items()},
    **{f"embeddings.{n}.weight": (out, size) for n, (size, out) in LAYERS.items()},
    **{f"embeddings.{n}.bias": (out,) for n, (_, out) in LAYERS.items()},
}
small = partial(VggishNetwork, width=2, hidden=8)


def noise(num, seed=0):
    return (0.3 * np.random.default_rng(seed).normal(size=num)).astype(np.float32)


def embedder():
    torch.manual_seed(0)
    return Vggish(small(), "weights of a test")


def test_names_and_shapes_are_those_of_the_published_weights_and_so_is_their_size():
    with torch.device("meta"):
        network = VggishNetwork()
        assert network(torch.zeros(3, 96, 64)).shape == (3, 128)
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == KEYS
    num_bytes = 4 * sum(tensor.numel() for tensor in network.state_dict().values())
    assert vggish.PUBLISHED.megabytes == round(num_bytes / 1e6)


def test_the_bands_are_those_of_an_independent_bank():
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(
        257, 64, 125.0, 7500.0, 16_000, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    np.testing.assert_allclose(mel_bank(), expected, atol=1e-9)


def test_the_frames_are_librosas_magnitudes_in_those_bands():
    import librosa

    samples = noise(16_000)
    # librosa lays a window of 400 into the middle of 512 samples, VGGish at their beginning.
    shifted = np.pad(samples.astype(np.float64), (56, 56))
    magnitudes = np.abs(librosa.stft(shifted, n_fft=512, hop_length=160, win_length=400, center=False)).T
    np.testing.assert_allclose(log_mel(samples), np.log(magnitudes @ mel_bank() + 0.01), atol=1e-9)


def test_silence_is_the_logarithm_of_the_offset():
    np.testing.assert_allclose(log_mel(np.zeros(15_600, np.float32)), np.log(0.01))


@pytest.mark.parametrize(
    ("num", "patches"), [(1, 1), (15_360, 1), (15_600, 1), (30_959, 1), (30_960, 2), (160_000, 10), (480_000, 31)]
)
def test_patches_follow_each_other_without_overlap_and_a_short_clip_has_one(num, patches):
    clip = prepare(Waveform(samples=noise(num), sample_rate=16_000), Vggish.preparation)
    frames = log_mel(clip)
    assert len(patch(frames)) == patches
    np.testing.assert_allclose(patch(frames)[-1], frames[96 * (patches - 1) : 96 * patches], rtol=1e-6)


def test_maps_are_flattened_channels_last_as_the_published_layer_expects():
    network = small().eval()
    patches = torch.randn(3, 96, 64)
    maps = network.features(patches[:, None])
    published = maps.transpose(1, 3).transpose(1, 2).contiguous().view(3, -1)
    torch.testing.assert_close(network(patches), network.embeddings(published))


def test_the_last_activation_is_left_out():
    vectors = embedder()([noise(160_000)])[0]["embedding"]
    assert vectors.shape == (10, 128)
    assert (vectors < 0).any()


def test_a_clip_is_heard_alike_alone_and_in_company(monkeypatch):
    clips = [noise(16_000, 1), noise(50_000, 2), noise(31_000, 3)]
    alone = [embedder()([clip])[0]["embedding"] for clip in clips]
    monkeypatch.setattr(vggish, "AT_ONCE", 2)
    for heard, expected in zip(embedder()(clips), alone, strict=True):
        np.testing.assert_allclose(heard["embedding"], expected, rtol=1e-5, atol=1e-6)


def test_weights_come_from_the_published_file_and_are_named_by_its_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(vggish, "VggishNetwork", small)
    expected = embedder()
    torch.save(expected.network.state_dict(), tmp_path / "vggish-10086976.pth", _use_new_zipfile_serialization=False)
    loaded = Vggish.load(tmp_path)
    clip = noise(16_000)
    np.testing.assert_array_equal(loaded([clip])[0]["embedding"], expected([clip])[0]["embedding"])
    assert loaded.version == checkpoints.digest([tmp_path / "vggish-10086976.pth"])


def test_missing_weights_and_another_networks_are_told_of(tmp_path):
    with pytest.raises(ValueError, match=r"fetch vggish-10086976\.pth \(about 289 MB\) from .*harritaylor/torchvggish"):
        Vggish.load(tmp_path)
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "vggish-10086976.pth")
    with pytest.raises(ValueError, match=r"not the weights of a VggishNetwork \(17 missing"):
        Vggish.load(tmp_path)
