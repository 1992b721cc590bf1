"""Several processes on one training, as `accelerate launch` starts them: who does what, and how gradients meet.

Each process takes its share of every batch; gradients, already weighted by the whole batch, are added up, so all make
the same step. The first process alone writes, measures and publishes; the others leave after the training. When one
ends, the others notice at their next step.
Does not know: losses, models, files. One process needs none of this, and accelerate is not imported for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import HypergenError
from hypergen.launcher import are_several, remark

LONGEST_WAIT = timedelta(hours=2)  # of the others while the first one measures; nccl's own 10 minutes are too few


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

    def check_equal(self, what: str, value: Any) -> None:
        """Training on different things would go on without a word, and be neither.

        Raises:
            HypergenError: the value is not the same in all processes.
        """
        if self.count == 1:
            return
        from accelerate.utils import gather_object

        with _all_there():
            told = gather_object([value])
        if others := [rank for rank, one in enumerate(told) if one != told[0]]:
            raise HypergenError(f"{what}: those of process {others[0]} differ from those of process 0")

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


def join(device: str) -> Processes:
    """The processes that a launcher started together; one where there was none."""
    if not are_several():
        if (line := remark()) is not None:
            print(f"hypergen: {line}", file=sys.stderr)
        return Processes()
    from accelerate import PartialState

    on_cpu = device == "cpu" or torch.accelerator.current_accelerator(check_available=True) is None
    state = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
    return Processes(state.process_index, state.num_processes)


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo and nccl raise it when a connection closes
        raise HypergenError("another process of this training has ended; --resume continues") from error
