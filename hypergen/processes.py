"""Several processes on one training, as `accelerate launch` starts them: who does what, and how gradients meet.

Each process takes its share of every batch; gradients, already weighted by the whole batch, are added up, so all make
the same step. The first process alone writes, measures and publishes; the others leave after the training. When one
ends, the others notice at their next step.
Does not know: losses, models, files. One process needs none of this, and accelerate is not imported for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import HypergenError


@dataclass(frozen=True)
class Processes:
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def own(self, rows: Tensor) -> Tensor:
        """This process's share of the rows of a batch; may be empty."""
        return rows[self.rank :: self.count]

    def add_up(self, parameters: Iterable[nn.Parameter], loss: float) -> float:
        """The sum of the gradients, in place, and of the losses over all processes.

        Raises:
            HypergenError: another process has ended.
        """
        if self.count == 1:
            return loss
        from accelerate.utils import gather_object, reduce

        with _all_there():
            for parameter in parameters:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = reduce(own, "sum")
            return sum(gather_object([loss]))

    def agree(self, signal: int | None, stopped_by: Any) -> tuple[int | None, Any]:
        """A signal that arrived anywhere, and what the first process says ends the training."""
        if self.count == 1:
            return signal, stopped_by
        from accelerate.utils import gather_object

        with _all_there():
            told = gather_object([(signal, stopped_by)])
        return max((one or 0 for one, _ in told)) or None, told[0][1]

    def same(self, value: Any) -> Any:
        """What the first process has."""
        if self.count == 1:
            return value
        from accelerate.utils import gather_object

        with _all_there():
            return gather_object([value])[0]

    def leave(self) -> None:
        """After the training: the first process goes on alone, the others end here, with exit code 0."""
        if self.count == 1:
            return
        torch.distributed.destroy_process_group()
        if not self.is_first:
            raise SystemExit(0)


def are_several() -> bool:
    """Whether a launcher started this process as one of several."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: str) -> Processes:
    """The processes that a launcher started together; one where there was none."""
    if not are_several():
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or torch.accelerator.current_accelerator(check_available=True) is None)
    return Processes(state.process_index, state.num_processes)


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo and nccl raise it when a connection closes
        raise HypergenError("another process of this training has ended; --resume continues") from error
