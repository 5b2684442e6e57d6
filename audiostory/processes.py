"""Work that several processes share without talking: each takes every N-th piece, as torchrun numbers them. No torch
at import."""

from __future__ import annotations

import os
from typing import NamedTuple


class Place(NamedTuple):
    """Which of how many processes this is."""

    rank: int = 0
    processes: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> Place:
        """As torchrun tells its processes."""
        rank, processes, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        return cls(rank=rank, processes=processes, local_rank=local)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, asked: str | None) -> str:
        """The device asked for, or the best there is; "cuda" is the process's own."""
        if asked is None:
            import torch

            asked = "cuda" if torch.cuda.is_available() else "cpu"
        return f"cuda:{self.local_rank}" if asked == "cuda" else asked

    def wait_for_all(self) -> None:
        """Returns when every process has come here."""
        if self.processes == 1:
            return
        from datetime import timedelta

        from accelerate import PartialState

        # Shares are never equal, and the first process may have long waited for the last one.
        PartialState(cpu=True, backend="gloo", timeout=timedelta(days=7)).wait_for_everyone()

    def __str__(self) -> str:
        return f" [{self.rank + 1}/{self.processes}]" if self.processes > 1 else ""
