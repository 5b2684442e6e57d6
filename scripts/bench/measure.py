"""Seconds and memory of the phases of a piece of work. No torch at import.

watch = Watch(torch.device("cpu"))
with watch.phase("decode"):
    ...
watch.seconds["decode"], watch.peaks["decode"].own_gb
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STATUS = Path("/proc/self/status")  # Linux; elsewhere own memory is not told
SAMPLING_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most memory at a time, in GB of 1e9 bytes. `own_gb` is the process's own: what is only mapped from a file
    does not count. None where the system does not tell."""

    own_gb: float | None
    gpu_gb: float | None

    @staticmethod
    def most(peaks: list[Peak]) -> Peak:
        def top(name: str) -> float | None:
            known = [getattr(peak, name) for peak in peaks if getattr(peak, name) is not None]
            return max(known, default=None)

        return Peak(own_gb=top("own_gb"), gpu_gb=top("gpu_gb"))

    def values(self) -> dict[str, float | None]:
        return {name: None if value is None else round(value, 4) for name, value in asdict(self).items()}


class Watch:
    """Notes what phases took, one at a time, waiting for the device at both ends; a phase that comes again adds up."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, Peak] = {}
        self._device, self._on_gpu = device, device.type == "cuda"

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._settle()
        with _sampled() as most:
            if self._on_gpu:
                import torch

                torch.cuda.reset_peak_memory_stats(self._device)
            began = time.perf_counter()
            yield
            self._settle()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        peak = Peak(own_gb=most[0], gpu_gb=self._gpu_peak())
        self.peaks[name] = Peak.most([peak, *([self.peaks[name]] if name in self.peaks else [])])

    def during(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with every call of it a part of the phase."""

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return watched

    def _settle(self) -> None:
        if self._on_gpu:
            import torch

            torch.cuda.synchronize(self._device)

    def _gpu_peak(self) -> float | None:
        if not self._on_gpu:
            return None
        import torch

        return torch.cuda.max_memory_allocated(self._device) / 1e9


@contextmanager
def _sampled() -> Iterator[list[float | None]]:
    """The greatest own memory of the process in GB, looked at now and then from a thread; a list of one."""
    most, done = [own_memory()], threading.Event()

    def look() -> None:
        now = own_memory()
        most[0] = now if most[0] is None or now is None else max(most[0], now)

    def keep_looking() -> None:
        while not done.wait(SAMPLING_SECONDS):
            look()

    thread = threading.Thread(target=keep_looking, daemon=True)
    if most[0] is not None:
        thread.start()
    try:
        yield most
    finally:
        done.set()
        look()


def own_memory() -> float | None:
    """Anonymous memory of this process in GB."""
    lines = STATUS.read_text().splitlines() if STATUS.is_file() else []
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), None)
    return None if kilobytes is None else kilobytes * 1024 / 1e9
