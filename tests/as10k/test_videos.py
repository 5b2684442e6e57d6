"""Videos from elsewhere are found, told apart and decoded, and none of them leads anywhere else."""

import errno
import io
import os
from dataclasses import replace

import numpy as np
import pytest
from as10k.small_videos import BLUE, GREEN, RED

from audiostory import sound
from audiostory.as10k import videos
from audiostory.as10k.clips import cut
from audiostory.as10k.ledger import Dropped, PassedOver
from audiostory.as10k.settings import ClipSettings, VideoSettings
from audiostory.as10k.shots import Span

LIMITS = VideoSettings()
SCENES = [(RED, 400.0, 2.0), (GREEN, 800.0, 2.0), (BLUE, 1200.0, 2.0)]


def pitch(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))


def test_a_folder_is_searched_and_what_is_left_out_has_a_reason(video, tmp_path):
    folder, outside = tmp_path / "videos", tmp_path / "outside"
    (folder / "deeper").mkdir(parents=True)
    outside.mkdir()
    video(outside / "secret.mp4", SCENES[:1])
    for name in ("b.mp4", "deeper/a.MKV", "notes.txt", "a;rm -rf $HOME\n.mp4"):
        (folder / name).write_bytes(b"x")
    (folder / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    (folder / "big.mp4").write_bytes(b"x" * 100)
    (folder / "link.mp4").symlink_to(outside / "secret.mp4")
    (folder / "linked").symlink_to(outside)
    os.mkfifo(folder / "pipe.mp4")
    found, left_out = videos.find(folder, "natural", VideoSettings(max_bytes=50))
    names = ["a;rm -rf $HOME\n.mp4", "b.mp4", os.fsdecode(b"caf\xe9.mp4"), "deeper/a.MKV"]
    assert sorted(source.name for source in found) == sorted(names)
    assert dict(left_out) == {
        "notes.txt": "no video by its name",
        "big.mp4": "larger than 50 bytes",
        "link.mp4": "a link; put the file itself there",
        "linked": "a link; put the file itself there",
        "pipe.mp4": "no plain file",
    }


def test_a_clips_name_is_a_safe_one_whatever_the_video_is_called():
    sources = [
        videos.Source(domain="natural", name=name, size=1, changed=1)
        for name in (
            "../../etc/passwd.mp4",
            "a b.mp4",
            "a_b.mp4",
            "ünï.mp4",
            os.fsdecode(b"\xff.mp4"),
            "x" * 300 + ".mp4",
        )
    ]
    prefixes = [source.clip_prefix for source in sources]
    assert len(set(prefixes)) == len(sources)
    assert all(prefix.replace("-", "").isalnum() and prefix.isascii() and len(prefix) < 60 for prefix in prefixes)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_video_is_told_by_its_streams(video, tmp_path, name):
    facts = videos.probe(video(tmp_path / name, SCENES), LIMITS)
    assert facts["seconds"] == pytest.approx(6.0, abs=0.2)
    assert (facts["width"], facts["height"], facts["sample_rate"], facts["channels"]) == (64, 64, 16000, 1)


def silent_picture(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode()])


def test_files_that_are_no_such_video_are_dropped_with_a_reason(video, tmp_path):
    whole = video(tmp_path / "whole.mp4", SCENES)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{whole}'\n")
    (tmp_path / "live.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{whole}\n#EXT-X-ENDLIST\n")
    silent_picture(tmp_path / "mute.mp4")
    sound.write(tmp_path / "sound.wav", sound.Waveform(samples=np.zeros((1, 8000), np.float32), sample_rate=16000))
    os.rename(tmp_path / "sound.wav", tmp_path / "sound.mp4")
    (tmp_path / "link.mp4").symlink_to(whole)
    reasons = {}
    for name in ("cut", "noise", "empty", "list", "live", "mute", "sound", "link", "none"):
        with pytest.raises(Dropped) as dropped:
            videos.probe(tmp_path / f"{name}.mp4", LIMITS)
        reasons[name] = dropped.value.reason
    assert reasons.pop("mute") == "no sound"
    assert {reasons.pop("link"), reasons.pop("none")} == {"cannot be read now"}
    assert set(reasons.values()) == {"damaged"}


def test_a_disk_that_fails_while_a_video_is_read_is_no_fault_of_the_video(video, tmp_path, monkeypatch):
    path = video(tmp_path / "a.mp4", SCENES)
    real = os.fdopen

    class Failing(io.BufferedReader):
        def read(self, size=-1):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: Failing(real(descriptor, mode, buffering=0)))
    with pytest.raises(PassedOver, match=r"cannot be read now \(Input/output error\)"):
        videos.probe(path, LIMITS)


def test_limits_hold_before_anything_is_decoded(video, tmp_path):
    path = video(tmp_path / "a.mp4", SCENES)
    with pytest.raises(Dropped, match="longer than 5 s"):
        videos.probe(path, replace(LIMITS, max_seconds=5.0))
    with pytest.raises(Dropped, match=r"more than 1000 pixels|damaged"):
        videos.probe(path, replace(LIMITS, max_pixels=1000))
    with pytest.raises(Dropped, match="damaged"):  # the decoder itself refuses, should a header have lied
        list(videos.pictures(path, replace(LIMITS, max_pixels=1000)))


def test_frames_come_one_by_one_with_their_times(video, tmp_path):
    path = video(tmp_path / "a.mp4", SCENES, moving=False)
    seen = list(videos.pictures(path, LIMITS, start=1.5, end=4.5))
    assert [round(time, 3) for time, _ in seen] == pytest.approx(np.arange(1.5, 4.45, 0.1), abs=1e-3)
    colours = [np.argmax(frame.to_ndarray(format="rgb24").mean((0, 1))) for _, frame in seen]
    assert colours == [0] * 5 + [1] * 20 + [2] * 5


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_piece_of_the_sound_is_the_piece_that_was_asked_for(video, tmp_path, name):
    path = video(tmp_path / name, [(RED, 400.0, 4.0), (GREEN, 800.0, 4.0)])
    found = videos.sound(path, LIMITS, start=3.0, seconds=2.0, rate=8000, channels=2)
    assert found.samples.shape == (2, 16000)
    assert pitch(found.samples[0, :7500], 8000) == pytest.approx(400, abs=3)
    assert pitch(found.samples[1, 8500:], 8000) == pytest.approx(800, abs=3)


def test_sound_that_ends_early_is_dropped(video, tmp_path):
    path = video(tmp_path / "a.mp4", SCENES)
    with pytest.raises(Dropped, match="holes or ends early"):
        videos.sound(path, LIMITS, start=4.0, seconds=4.0, rate=16000, channels=1)


def test_half_a_file_that_still_opens_is_found_out_when_it_is_cut(video, tmp_path):
    whole = video(tmp_path / "whole.mkv", SCENES)
    half = tmp_path / "half.mkv"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(Dropped, match=r"ends early|damaged"):
        cut(half, Span(start=0.0, end=6.0), tmp_path, "clip", ClipSettings(), LIMITS)
    assert not list(tmp_path.glob("*clip*"))


def test_a_clip_is_cut_in_picture_and_sound(video, tmp_path):
    path = video(tmp_path / "a.mp4", SCENES, moving=False)
    settings = ClipSettings(sample_rate=16000, side=32, frame_rate=5)
    audio, picture = cut(path, Span(start=1.0, end=5.0), tmp_path / "clips", "one", settings, LIMITS)
    kept = sound.read(audio)
    assert (kept.sample_rate, kept.num_samples) == (16000, 64000)
    assert pitch(kept.samples[0, 20000:40000], 16000) == pytest.approx(800, abs=3)
    facts = videos.probe(picture, LIMITS)
    assert (facts["width"], facts["height"]) == (32, 32)
    assert facts["seconds"] == pytest.approx(4.0, abs=0.15)
    colours = [
        np.argmax(frame.to_ndarray(format="rgb24").mean((0, 1))) for _, frame in videos.pictures(picture, LIMITS)
    ]
    assert colours == [0] * 5 + [1] * 10 + [2] * 5
    assert sorted(file.name for file in (tmp_path / "clips").iterdir()) == ["one.flac", "one.mp4"]


def test_a_silent_clip_is_dropped(video, tmp_path):
    path = video(tmp_path / "a.mp4", [(RED, 0.0, 3.0)])
    with pytest.raises(Dropped, match="silent"):
        cut(path, Span(start=0.0, end=3.0), tmp_path, "clip", ClipSettings(), LIMITS)


def test_stills_are_a_picture_of_each_second(video, tmp_path):
    import av

    path = video(tmp_path / "a.mp4", SCENES, moving=False)
    found = videos.stills(path, LIMITS, every=1.0)
    assert [time for time, _ in found] == pytest.approx([0, 1, 2, 3, 4, 5], abs=0.06)
    decoder = av.CodecContext.create("mjpeg", "r")
    (frame,) = [*decoder.decode(av.Packet(found[3][1])), *decoder.decode(None)][:1]
    assert np.argmax(frame.to_ndarray(format="rgb24").mean((0, 1))) == 1
