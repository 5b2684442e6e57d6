"""What every report says of how it was made."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("audiostory", "torch", "diffusers", "transformers", "numpy", "scipy")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
