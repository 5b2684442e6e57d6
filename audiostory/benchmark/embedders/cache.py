"""Features that were computed before, a file per recording; never stale, never half written. No torch here.

A file is named by the content of the recording and lies in a folder named by all that its features depend on: network,
weights, how it is fed, versions. So another recording or other weights are another file. What a file says about itself
and the sums of its numbers are compared when it is read.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from audiostory.disk import replacing


class DamagedError(ValueError):
    """A file that is there and cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """`facts` are all that features depend on beside the recording, "name" among them; each file holds them too."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()

    def path(self, recording: str) -> Path:
        """`recording` is the digest of its content."""
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in str(self.facts["name"]))
        return self.folder / f"{name}-{self.key[:16]}" / f"{recording}.safetensors"

    def read(self, recording: str) -> dict[str, np.ndarray] | None:
        """None when there is no file; DamagedError when there is one that is not what was written."""
        path = self.path(recording)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "np") as file:
                about = json.loads((file.metadata() or {})["about"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = (about["recording"], about["key"], about["crc32"])
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise DamagedError(f"{path} cannot be read ({error})") from error
        if told != (recording, self.key, {name: _checksum(array) for name, array in arrays.items()}):
            raise DamagedError(f"{path} does not hold what was written under its name")
        return arrays

    def write(self, recording: str, arrays: Mapping[str, np.ndarray]) -> None:
        """The file appears whole or not at all; several processes may write the same one."""
        path = self.path(recording)
        rows = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        sums = {name: _checksum(array) for name, array in rows.items()}
        about = {"recording": recording, "key": self.key, "facts": dict(self.facts), "crc32": sums}
        with replacing(path) as unfinished:
            save_file(rows, unfinished, metadata={"about": json.dumps(about)})


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)
