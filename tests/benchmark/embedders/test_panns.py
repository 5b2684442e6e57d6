"""Cnn14: the published names and shapes, its spectrogram against librosa's, and the network against its definition.

What the published weights make of a recording could not be compared here: they cannot be had.
"""

from functools import cache, partial

import librosa
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from audiostory.benchmark.embedders import checkpoints, panns
from audiostory.benchmark.embedders.panns import FRONT_ENDS, Cnn14, Panns, log_mel

RATES = (16_000, 32_000)
SIZES = {16_000: 512, 32_000: 1024}
small = partial(Cnn14, channels=(2, 3, 4, 5, 6, 7), num_classes=9)


def published_keys(rate):
    """Of Cnn14_16k_mAP=0.438.pth and Cnn14_mAP=0.431.pth, as audioset_tagging_cnn and torchlibrosa define them."""
    size, bins = SIZES[rate], SIZES[rate] // 2 + 1
    keys = {
        "spectrogram_extractor.stft.conv_real.weight": (bins, 1, size),
        "spectrogram_extractor.stft.conv_imag.weight": (bins, 1, size),
        "logmel_extractor.melW": (bins, 64),
        "fc1.weight": (2048, 2048),
        "fc1.bias": (2048,),
        "fc_audioset.weight": (527, 2048),
        "fc_audioset.bias": (527,),
    }
    norms = {"bn0": 64}
    widths = (1, 64, 128, 256, 512, 1024, 2048)
    for block in range(1, 7):
        keys[f"conv_block{block}.conv1.weight"] = (widths[block], widths[block - 1], 3, 3)
        keys[f"conv_block{block}.conv2.weight"] = (widths[block], widths[block], 3, 3)
        norms |= {f"conv_block{block}.bn1": widths[block], f"conv_block{block}.bn2": widths[block]}
    for norm, width in norms.items():
        keys |= {f"{norm}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
        keys[f"{norm}.num_batches_tracked"] = ()
    return keys


@cache
def torchlibrosa_filters(rate):
    """Powers of one root of unity, windowed by scipy's Hann, and librosa's mel bank."""
    from scipy.signal import get_window

    size = SIZES[rate]
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    waves = np.power(np.exp(-2j * np.pi / size), x * y)[:, : size // 2 + 1] * get_window("hann", size)[:, None]
    highest = {16_000: 8000, 32_000: 14_000}[rate]
    mel = librosa.filters.mel(sr=rate, n_fft=size, n_mels=64, fmin=50, fmax=highest).T
    return {
        "spectrogram_extractor.stft.conv_real.weight": torch.tensor(waves.real.T[:, None], dtype=torch.float32),
        "spectrogram_extractor.stft.conv_imag.weight": torch.tensor(waves.imag.T[:, None], dtype=torch.float32),
        "logmel_extractor.melW": torch.tensor(mel.copy(), dtype=torch.float32),
    }


def network():
    torch.manual_seed(0)
    made = small()
    for module in made.modules():  # as after some training
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval()


def noise(num, seed=0):
    return (0.3 * np.random.default_rng(seed).normal(size=num)).astype(np.float32)


def published_file(folder, rate, monkeypatch, without=(), **changed):
    monkeypatch.setattr(panns, "Cnn14", small)
    tensors = {**network().state_dict(), **torchlibrosa_filters(rate), **changed}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(without or "nothing")}
    path = folder / FRONT_ENDS[rate].published.file
    torch.save({"iteration": 1, "model": tensors, "sampler": {"indexes": np.arange(3)}}, path)
    return path


@pytest.mark.parametrize("rate", RATES)
def test_names_and_shapes_are_those_of_the_published_weights_and_so_is_their_size(rate):
    with torch.device("meta"):
        made = Cnn14()
        features, logits = made(torch.zeros(2, 101, 64))
    assert (features.shape, logits.shape) == ((2, 2048), (2, 527))
    ours = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    ours |= {name: tuple(make(FRONT_ENDS[rate]).shape) for name, make in panns.FILTERS.items()}
    assert ours == published_keys(rate)
    num_bytes = 4 * sum(np.prod(shape) for shape in published_keys(rate).values())
    assert FRONT_ENDS[rate].published.megabytes == pytest.approx(num_bytes / 1e6, abs=2)


@pytest.mark.parametrize("rate", RATES)
def test_the_filters_are_torchlibrosas(rate):
    for name, expected in torchlibrosa_filters(rate).items():
        torch.testing.assert_close(panns.FILTERS[name](FRONT_ENDS[rate]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", RATES)
def test_the_spectrogram_is_librosas(rate):
    samples = noise(rate)
    spectrum = librosa.stft(samples, n_fft=SIZES[rate], hop_length=rate // 100, pad_mode="reflect")
    mels = np.abs(spectrum.T) ** 2 @ torchlibrosa_filters(rate)["logmel_extractor.melW"].numpy()
    expected = librosa.power_to_db(mels, ref=1.0, amin=1e-10, top_db=None)
    made = log_mel(torch.from_numpy(samples)[None], FRONT_ENDS[rate])[0]
    assert made.shape == (101, 64)
    np.testing.assert_allclose(made, expected, atol=1e-3)


def test_silence_is_100_decibels_down():
    assert (log_mel(torch.zeros(1, 32_000), FRONT_ENDS[16_000]) == -100).all()


def test_the_network_is_the_published_one_step_by_step():
    made, mels = network(), 10 * torch.randn(2, 70, 64) - 30

    def norm(x, name):
        layer = made.get_submodule(name)
        shape = (1, -1, 1, 1)
        x = (x - layer.running_mean.view(shape)) / (layer.running_var.view(shape) + 1e-5).sqrt()
        return x * layer.weight.view(shape) + layer.bias.view(shape)

    x = mels[:, None].transpose(1, 3)
    x = norm(x, "bn0").transpose(1, 3)
    for block in range(1, 7):
        for number in (1, 2):
            name = f"conv_block{block}"
            x = F.conv2d(x, made.get_parameter(f"{name}.conv{number}.weight"), padding=1)
            x = norm(x, f"{name}.bn{number}").relu()
        x = F.avg_pool2d(x, (2, 2) if block < 6 else (1, 1))
    x = x.mean(3)
    features = made.fc1(x.max(2).values + x.mean(2)).relu()
    torch.testing.assert_close(made(mels), (features, made.fc_audioset(features)))


def test_a_recording_gives_one_vector_and_its_logits_alike_alone_and_in_company():
    embedder = Panns(network(), "weights of a test", 16_000)
    clips = [noise(32_000, 1), noise(40_000, 2), noise(32_000, 3)]
    heard = embedder(clips)
    assert {kind: array.shape for kind, array in heard[1].items()} == {"embedding": (1, 7), "logits": (1, 9)}
    for clip, together in zip(clips, heard, strict=True):
        for kind, array in embedder([clip])[0].items():
            np.testing.assert_allclose(together[kind], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", RATES)
def test_weights_come_from_the_published_file_of_the_rate(tmp_path, monkeypatch, rate):
    path = published_file(tmp_path, rate, monkeypatch)
    loaded, expected = Panns.load(tmp_path, rate), Panns(network(), "", rate)
    clip = noise(32_000)
    np.testing.assert_array_equal(loaded([clip])[0]["logits"], expected([clip])[0]["logits"])
    assert (loaded.name, loaded.version) == (f"panns-cnn14-{rate // 1000}k", checkpoints.digest([path]))
    assert loaded.preparation.sample_rate == rate


def test_counters_may_lack_and_nothing_else(tmp_path, monkeypatch):
    Panns.load(published_file(tmp_path, 16_000, monkeypatch, without="num_batches_tracked"), 16_000)
    with pytest.raises(ValueError, match=r"1 missing: fc1\.bias"):
        Panns.load(published_file(tmp_path, 16_000, monkeypatch, without="fc1.bias"), 16_000)


def test_weights_of_the_other_rate_or_another_spectrogram_are_found_out(tmp_path, monkeypatch):
    other = published_file(tmp_path, 32_000, monkeypatch)
    with pytest.raises(
        ValueError, match=r"not Cnn14 for 16000 Hz.*\[257, 1, 512\], it has one of shape \[513, 1, 1024\]"
    ):
        Panns.load(other, 16_000)
    bank = torch.tensor(librosa.filters.mel(sr=16_000, n_fft=512, n_mels=64, fmin=0, fmax=8000).T.copy())
    changed = published_file(tmp_path, 16_000, monkeypatch, **{"logmel_extractor.melW": bank})
    with pytest.raises(ValueError, match=r"the filter logmel_extractor\.melW is another"):
        Panns.load(changed, 16_000)
    bare = published_file(tmp_path, 16_000, monkeypatch, without="melW")
    with pytest.raises(ValueError, match="it has none"):
        Panns.load(bare, 16_000)


def test_missing_weights_and_other_rates_are_told_of(tmp_path):
    with pytest.raises(ValueError, match=r"fetch Cnn14_16k_mAP=0\.438\.pth \(about 325 MB\) from zenodo\.org"):
        Panns.load(tmp_path, 16_000)
    with pytest.raises(ValueError, match="16000 or 32000 Hz, not at 44100"):
        Panns.load(tmp_path, 44_100)
