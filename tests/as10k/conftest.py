import pytest
from as10k import small_videos


@pytest.fixture
def video():
    """Writes small videos (`small_videos.write`). What asks for it is skipped without the extra."""
    for package in ("av", "scenedetect"):
        pytest.importorskip(package, reason=f"{package} is missing: pip install 'audiostory[as10k]'")
    return small_videos.write
