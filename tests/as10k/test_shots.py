"""Videos become clips where they should, and clips that show nothing new are dropped."""

import numpy as np
import pytest
from as10k.small_videos import BLUE, GREEN, RED, WHITE

from audiostory.as10k import shots
from audiostory.as10k.settings import ShotSettings, VideoSettings
from audiostory.as10k.shots import Seen, pieces, scenes
from audiostory.as10k.similarity import ColourLikeness, DinoLikeness

NATURAL = ShotSettings(find_shots=False, min_seconds=30.0, max_seconds=60.0)
CARTOON = ShotSettings(find_shots=True, min_seconds=2.0, max_seconds=10.0)


def spans(found: list[shots.Span]) -> list[tuple[float, float, str]]:
    return [(round(span.start, 1), round(span.end, 1), span.dropped) for span in found]


def test_a_video_that_fits_is_kept_whole_to_its_last_tenth():
    assert spans(pieces(45.67, NATURAL)) == [(0.0, 45.6, "")]


def test_a_shorter_one_is_dropped_and_a_longer_one_cut_into_equal_pieces():
    assert spans(pieces(29.9, NATURAL)) == [(0.0, 29.9, "shorter than 30 s")]
    assert spans(pieces(150.0, NATURAL)) == [(0.0, 50.0, ""), (50.0, 100.0, ""), (100.0, 150.0, "")]


def seen(*looks: tuple[str, float], cuts: bool = True) -> Seen:
    """Shots of one look each; looks that share a letter are alike to 0.9, and each frame differs a little."""
    rng = np.random.default_rng(0)
    axes = dict(zip("abcdef", np.eye(64), strict=False))
    features, times, bounds, now = [], [], [], 0.0
    for letter, seconds in looks:
        bounds.append(now)
        for place in np.arange(0, seconds, 0.5):
            feature = axes[letter] + 0.08 * rng.standard_normal(64)
            features.append(feature / np.linalg.norm(feature))
            times.append(now + place)
        now += seconds
    return Seen(seconds=now, cuts=tuple(bounds[1:]) if cuts else (), times=np.array(times), features=np.array(features))


def test_neighbours_that_look_alike_are_merged():
    assert spans(scenes(seen(("a", 3), ("a", 3), ("b", 4)), CARTOON)) == [(0.0, 6.0, ""), (6.0, 10.0, "")]


def test_a_talk_shown_from_two_sides_stays_together():
    found = seen(("a", 2), ("b", 2), ("a", 2), ("b", 2), ("c", 3))
    assert spans(scenes(found, CARTOON)) == [(0.0, 8.0, ""), (8.0, 11.0, "")]


def test_no_merged_clip_is_longer_than_allowed():
    found = scenes(seen(*[("a", 4)] * 5), CARTOON)
    assert [span.seconds for span in found] == [8.0, 8.0, 4.0]


def test_a_single_shot_that_is_too_long_is_cut():
    found = scenes(seen(("a", 25)), CARTOON)
    assert len(found) == 3
    assert all(span.seconds <= 10 for span in found)


def test_shots_that_are_too_short_still_or_seen_before_are_dropped():
    found = seen(("a", 3), ("b", 1), ("c", 3), ("d", 3), ("a", 3))
    still = found.features.copy()
    still[(found.times >= 4) & (found.times < 7)] = np.eye(64)[2]
    found = Seen(seconds=found.seconds, cuts=found.cuts, times=found.times, features=still)
    settings = ShotSettings(find_shots=True, min_seconds=2.0, max_seconds=10.0, repeat=0.9)
    assert spans(scenes(found, settings)) == [
        (0.0, 3.0, ""),
        (3.0, 4.0, "shorter than 2 s"),
        (4.0, 7.0, "nearly still"),
        (7.0, 10.0, ""),
        (10.0, 13.0, "repeats an earlier clip"),
    ]


def test_colours_tell_one_scene_from_another():
    likeness = ColourLikeness()
    frames = np.stack([np.full((64, 64, 3), colour, np.uint8) for colour in (RED, RED, BLUE, (0, 0, 0))])
    features = likeness(frames)
    assert np.linalg.norm(features, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert features[0] @ features[1] == pytest.approx(1.0, abs=1e-5)
    assert features[0] @ features[2] < 0.5


def test_dinov2_is_read_from_a_folder_and_names_itself(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    likeness = DinoLikeness(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 3), dtype=np.uint8)
    features = likeness(frames)
    assert features.shape == (2, 16)
    assert np.linalg.norm(features, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert likeness.name.startswith("dinov2 ")


def test_a_folder_without_dinov2_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no DINOv2: expected config\.json and model\.safetensors"):
        DinoLikeness(tmp_path)


def test_shots_are_found_where_the_picture_changes(video, tmp_path):
    path = video(tmp_path / "a.mp4", [(RED, 400, 2), (GREEN, 800, 3), (BLUE, 400, 2), (WHITE, 300, 2)])
    settings = ShotSettings(find_shots=True, min_seconds=1.0, max_seconds=10.0, min_shot_seconds=0.3)
    found = shots.look(path, 9.0, settings, VideoSettings(), ColourLikeness())
    assert found.cuts == pytest.approx((2.0, 5.0, 7.0), abs=0.11)
    assert found.features.shape[0] == len(found.times) == 18
    kept = scenes(found, settings)
    assert [round(span.start) for span in kept] == [0, 2, 5, 7]
    assert [span.dropped for span in kept] == ["", "", "", "nearly still"]  # white on white


def test_a_still_picture_is_dropped(video, tmp_path):
    path = video(tmp_path / "a.mp4", [(RED, 400, 3), (GREEN, 800, 3)], moving=False)
    settings = ShotSettings(find_shots=True, min_seconds=1.0, max_seconds=10.0, min_shot_seconds=0.3)
    kept = scenes(shots.look(path, 6.0, settings, VideoSettings(), ColourLikeness()), settings)
    assert [span.dropped for span in kept] == ["nearly still", "nearly still"]
