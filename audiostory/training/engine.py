"""The processes of a run, behind the few verbs that the loop needs: one process, copies of the model (DDP), or one
model shared by all (DeepSpeed's ZeRO).

accelerate starts the last two. On a CPU it has traps, so what was asked for is compared with what came to be before the
first step: `Accelerator(cpu=True)` would ignore DeepSpeed, and without it every process would think itself alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audiostory.training import optim
from audiostory.training.config import Runtime
from audiostory.training.optim import TOTAL, Averages, Optimizers

log = logging.getLogger(__name__)

T = TypeVar("T")
Parts = Mapping[str, Mapping[str, nn.Parameter]]

MODEL, AVERAGES, OPTIMIZER = "model.safetensors", "averages.safetensors", "optimizer.pt"


class Engine:
    """One process. The others are this with company.

    `micro_batches` is into how many a step's batch is cut, over all processes; `rounds` of them fall to each process.
    """

    rank = 0
    world = 1
    shared = False  # whether the parameters lie scattered: what runs the network must then run in every process

    def __init__(self, runtime: Runtime, *, clip_norm: float):
        self.clip_norm = clip_norm
        self.micro_batches, self.rounds = _cut(runtime, self.world)
        self.device = torch.device(_device(runtime))

    def about(self) -> dict[str, Any]:
        """What is kept with each checkpoint."""
        return {"kind": "one", "world": self.world, "micro_batches": self.micro_batches, "zero_stage": 0}

    def misfit(self, saved: Mapping[str, Any]) -> str:
        """Why a checkpoint that was saved by another engine cannot be gone on from; empty when it can."""
        if saved.get("kind") == "deepspeed":
            return (
                f"was shared out by DeepSpeed among {saved['world']} processes (ZeRO-{saved['zero_stage']}) and goes "
                "on only so; start as many with that runtime"
            )
        if saved and saved["micro_batches"] != self.micro_batches:
            log.warning(
                "a step's batch was cut into %d micro-batches and is cut into %d from here on: other losses than "
                "without the change (runtime.micro_batches)",
                saved["micro_batches"],
                self.micro_batches,
            )
        return ""

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def prepare(self, root: nn.Module, optimizer: Optimizers) -> nn.Module:
        """What to call in place of `root`, which is on its device; called once."""
        return root

    def micro_batch(self) -> Any:
        """Within, one of a step's `rounds` is computed; gradients are exchanged in the last alone."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        (loss / self.rounds).backward()

    def step(self, optimizer: Optimizers, parts: Parts, careful: bool = False) -> dict[str, Tensor]:
        """Clips, steps and forgets the gradients; their norms before clipping, by part and in all.

        `careful` waits for the norm and makes no step when it is not finite.
        """
        norms = optim.clip(parts, self.clip_norm)
        if not careful or norms[TOTAL].isfinite():
            optimizer.step()
        optimizer.zero_grad()
        return norms

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process; all must ask."""
        return flag

    def gather(self, value: T) -> list[T]:
        """Every process's `value`, in order of rank; all must ask. For log lines, not for tensors."""
        return [value]

    def wait(self) -> None:
        """Until all processes are here."""

    def save(self, folder: Path, root: nn.Module, optimizer: Optimizers, averages: Averages) -> None:
        """Writes what a run goes on from; all must call."""
        if self.main:
            save_file(learnt(root), folder / MODEL)
            if averages.averaged:
                save_file(averages.averaged, folder / AVERAGES)
            torch.save(optimizer.state_dict(), folder / OPTIMIZER)

    def load(self, folder: Path, root: nn.Module, optimizer: Optimizers, averages: Averages) -> None:
        """Puts back what `save` wrote. ValueError when it is of another model."""
        fill(learnt(root), load_file(folder / MODEL), folder / MODEL)
        if averages.averaged:
            fill(averages.averaged, load_file(folder / AVERAGES), folder / AVERAGES)
        optimizer.load_state_dict(torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu"))

    def whole_state(self, root: nn.Module) -> dict[str, Tensor]:
        """The state of a model that lies scattered, whole and on the CPU of the main process; empty in the others."""
        raise AssertionError("only a shared model lies scattered")

    def close(self) -> None:
        """After the last step."""


class _Company(Engine):
    """What DDP and DeepSpeed have in common: an Accelerator, and a group on the CPU for small talk."""

    def __init__(self, runtime: Runtime, *, clip_norm: float, accelerator: Any):
        self.accelerator = accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        super().__init__(runtime, clip_norm=clip_norm)
        self.device = accelerator.device
        self.module: Any = None
        # Flags and log lines must not make the GPU wait, nor NCCL move a byte.
        self._talk: Any = dist.new_group(backend="gloo")

    def micro_batch(self) -> Any:
        return self.accelerator.accumulate(self.module)

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)  # divides by the rounds itself

    def any(self, flag: bool) -> bool:
        total = torch.tensor(int(flag))
        dist.all_reduce(total, group=self._talk)
        return bool(total)

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._talk)
        return values

    def wait(self) -> None:
        dist.barrier(group=self._talk)

    def close(self) -> None:
        self.wait()
        self.accelerator.end_training()


class _DataParallel(_Company):
    """Every process holds the model; gradients are averaged."""

    def prepare(self, root: nn.Module, optimizer: Optimizers) -> nn.Module:
        self.module = self.accelerator.prepare_model(root)
        _check("DDP", isinstance(self.module, nn.parallel.DistributedDataParallel), self.world)
        return self.module


class _Zero(_Company):
    """DeepSpeed: optimiser states, gradients and (in stage 3) parameters are shared out among the processes."""

    def __init__(self, runtime: Runtime, *, clip_norm: float, accelerator: Any):
        super().__init__(runtime, clip_norm=clip_norm, accelerator=accelerator)
        self.zero_stage = runtime.zero_stage
        self.shared = self.zero_stage == 3

    def prepare(self, root: nn.Module, optimizer: Optimizers) -> nn.Module:
        from deepspeed import DeepSpeedEngine

        self.module, prepared = self.accelerator.prepare(root, optimizer.only_adamw())
        _check("DeepSpeed", isinstance(self.module, DeepSpeedEngine), self.world)
        optimizer.optimizers = (prepared,)
        return self.module

    def step(self, optimizer: Optimizers, parts: Parts, careful: bool = False) -> dict[str, Tensor]:
        """DeepSpeed stepped in `backward`; the parts' own norms lie scattered and are not gathered."""
        return {TOTAL: torch.as_tensor(self.module.get_global_grad_norm(), dtype=torch.float32)}

    def about(self) -> dict[str, Any]:
        return {**super().about(), "kind": "deepspeed", "zero_stage": self.zero_stage}

    def misfit(self, saved: Mapping[str, Any]) -> str:
        ours = self.about()
        if not saved or all(saved[name] == ours[name] for name in ("kind", "world", "zero_stage")):
            return ""
        return (
            f"is of {saved['world']} processes ({saved['kind']}, ZeRO-{saved['zero_stage']}), this is "
            f"ZeRO-{self.zero_stage} on {self.world}; what DeepSpeed shares out goes on only as it was; start as then"
        )

    def save(self, folder: Path, root: nn.Module, optimizer: Optimizers, averages: Averages) -> None:
        self.module.save_checkpoint(str(folder), tag="deepspeed", exclude_frozen_parameters=True)
        if averages.averaged and (self.shared or self.main):
            save_file(averages.averaged, folder / self._averages)

    def load(self, folder: Path, root: nn.Module, optimizer: Optimizers, averages: Averages) -> None:
        with optimizer.own_settings():
            found, _ = self.module.load_checkpoint(str(folder), tag="deepspeed", load_module_strict=False)
        if found is None:
            raise ValueError(f"{folder} holds no DeepSpeed checkpoint; go on with the runtime that wrote it")
        if averages.averaged:
            fill(averages.averaged, load_file(folder / self._averages), folder / self._averages)

    @property
    def _averages(self) -> str:
        return f"averages_{self.rank}.safetensors" if self.shared else AVERAGES

    def whole_state(self, root: nn.Module) -> dict[str, Tensor]:
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        state: dict[str, Tensor] = {}
        for name, tensor in root.state_dict(keep_vars=True).items():
            with GatheredParameters([tensor] if isinstance(tensor, nn.Parameter) else []):
                if self.main:
                    state[name] = tensor.detach().cpu().clone()
        return state


def start(runtime: Runtime, *, clip_norm: float) -> Engine:
    """The engine that `runtime` asks for. ValueError when the processes that were started are not fit for it."""
    if _device(runtime) == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed says on import that it found no GPU
    launched, world = "LOCAL_RANK" in os.environ, int(os.environ.get("WORLD_SIZE", "1"))
    if runtime.processes == "one":
        if world > 1:
            raise ValueError(
                f"this runtime is for one process and torchrun started {world}; take runtime=ddp, or one of "
                "runtime=deepspeed_zero1, deepspeed_zero2, deepspeed_zero3"
            )
        return Engine(runtime, clip_norm=clip_norm)
    if not launched:
        raise ValueError(
            "this runtime is for processes that torchrun starts: torchrun --nproc_per_node=2 train.py ...; for one "
            "process alone take runtime=cpu or runtime=single_gpu"
        )
    from accelerate import Accelerator
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
        InitProcessGroupKwargs,
    )

    on_cpu = _device(runtime) == "cpu"
    _, rounds = _cut(runtime, world)
    accumulation = GradientAccumulationPlugin(num_steps=rounds, sync_with_dataloader=False)
    group = InitProcessGroupKwargs(backend="gloo" if on_cpu else "nccl")
    if runtime.processes == "ddp":
        # A step of one source need not touch every parameter that another source teaches.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        accelerator = Accelerator(
            cpu=on_cpu, gradient_accumulation_plugin=accumulation, kwargs_handlers=[group, unused]
        )
        engine: _Company = _DataParallel(runtime, clip_norm=clip_norm, accelerator=accelerator)
    else:
        import deepspeed
        from accelerate.utils import DeepSpeedPlugin

        # On a CPU it would first compile an extension for shared memory, behind a lock file that a killed process
        # leaves for all later ones to wait at, for ever. gloo does the same work.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        accelerator = Accelerator(
            deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=_deepspeed(runtime, rounds, clip_norm)),
            gradient_accumulation_plugin=accumulation,
            kwargs_handlers=[group],
        )
        engine = _Zero(runtime, clip_norm=clip_norm, accelerator=accelerator)
    if engine.world != world:
        raise RuntimeError(f"torchrun started {world} processes, accelerate sees {engine.world}")
    return engine


def _cut(runtime: Runtime, world: int) -> tuple[int, int]:
    """Into how many micro-batches a step is cut, and how many of them fall to each process."""
    micro_batches = runtime.micro_batches or world
    rounds, left = divmod(micro_batches, world)
    if left:
        raise ValueError(
            f"runtime.micro_batches={micro_batches} cannot be shared evenly by {world} processes; take a multiple of "
            f"{world}, or null for one each"
        )
    if runtime.skip_not_finite and world > 1 and rounds > 1:
        raise ValueError(
            "runtime.skip_not_finite needs one micro-batch per process where there are several: a step cannot be "
            f"taken back once a part of it was exchanged; here each process has {rounds}"
        )
    return micro_batches, rounds


def _device(runtime: Runtime) -> str:
    found = torch.cuda.is_available()
    if runtime.device == "auto":
        return "cuda" if found else "cpu"
    if runtime.device != "cpu" and not (runtime.device.startswith("cuda") and found):
        raise ValueError(
            f"there is no device {runtime.device!r} here; runtime.device=cpu works everywhere, and auto takes a GPU "
            "where there is one"
        )
    return runtime.device


def _deepspeed(runtime: Runtime, rounds: int, clip_norm: float) -> dict[str, Any]:
    """DeepSpeed's configuration: the runtime's, and what follows from the rest of ours."""
    return {
        **{key: dict(value) if isinstance(value, Mapping) else value for key, value in runtime.deepspeed.items()},
        "train_micro_batch_size_per_gpu": 1,  # it is only told; our batches are cut by length
        "gradient_accumulation_steps": rounds,
        "gradient_clipping": clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _check(wanted: str, came: bool, world: int) -> None:
    if not came or dist.get_world_size() != world:
        raise RuntimeError(f"accelerate gave another engine than {wanted}, or not {world} processes")


def learnt(root: nn.Module) -> dict[str, Tensor]:
    """Views of what training changes: the parameters that learn, and the buffers that belong to the weights."""
    tensors = {name: p.detach() for name, p in root.named_parameters() if p.requires_grad}
    kept = root.state_dict(keep_vars=True)
    return tensors | {name: buffer for name, buffer in root.named_buffers() if name in kept}


@torch.no_grad()
def fill(targets: Mapping[str, Tensor], values: Mapping[str, Tensor], source: Path) -> None:
    """Copies `values` into `targets`. ValueError unless names and shapes are the same."""
    wrong = sorted(set(targets) ^ set(values))
    wrong += [name for name in targets if name in values and targets[name].shape != values[name].shape]
    if wrong:
        raise ValueError(
            f"{source} does not hold what this stage learns: {_some(wrong)}; was it written with another "
            "configuration? Give this run another output"
        )
    for name, target in targets.items():
        target.copy_(values[name])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
