"""Train in several processes, as `accelerate launch` and `torchrun` start them: shards of a batch, summed gradients.

Each process takes its shard of every batch; gradients, already weighted by the whole batch, are summed, so all make
the same step. The first process alone writes, measures and publishes; the others end after the training. When one
ends early, the others notice at their next step. One process needs none of this, and accelerate is not imported for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import HypergenError
from hypergen.runtime.console import warn
from hypergen.runtime.launcher import is_distributed, single_process_hint

LONGEST_WAIT = timedelta(hours=2)  # of the others while the first one measures; nccl's own 10 minutes are too few


@dataclass(frozen=True)
class Processes:
    """Hold the rank of this process and the number of processes of one training; by default it is the only one."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Tell whether this process is the one that writes, measures and publishes."""
        return self.rank == 0

    def shard(self, rows: Tensor) -> Tensor:
        """Take this process's shard of the rows of a batch; it may be empty."""
        return rows[self.rank :: self.count]

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter], numbers: tuple[float, ...]) -> tuple[float, ...]:
        """Sum the gradients, in place, and the numbers of a step (such as its loss) over all processes.

        Raises:
            HypergenError: another process has ended.
        """
        if self.count == 1:
            return numbers
        from accelerate.utils import gather_object, reduce

        with _all_there():
            for parameter in parameters:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = reduce(own, "sum")
            return tuple(map(sum, zip(*gather_object([tuple(numbers)]), strict=True)))

    def sync_stop(self, signal: int | None, stopped_by: Any) -> tuple[int | None, Any]:
        """Agree on the end: a signal that arrived anywhere, and the first process's reason to stop.

        Raises:
            HypergenError: another process has ended.
        """
        if self.count == 1:
            return signal, stopped_by
        from accelerate.utils import gather_object

        with _all_there():
            gathered = gather_object([(signal, stopped_by)])
        return max((one or 0 for one, _ in gathered)) or None, gathered[0][1]

    def check_equal(self, what: str, value: Any) -> None:
        """Refuse values that differ between processes: they would train on a mixture without a word.

        Raises:
            HypergenError: the value is not the same in all processes, or another process has ended.
        """
        if self.count == 1:
            return
        from accelerate.utils import gather_object

        with _all_there():
            gathered = gather_object([value])
        if others := [rank for rank, one in enumerate(gathered) if one != gathered[0]]:
            raise HypergenError(f"{what}: those of process {others[0]} differ from those of process 0")

    def broadcast(self, value: Any) -> Any:
        """Send the first process's value to all.

        Raises:
            HypergenError: another process has ended.
        """
        if self.count == 1:
            return value
        from accelerate.utils import gather_object

        with _all_there():
            return gather_object([value])[0]

    def finish_other_ranks(self) -> None:
        """End all processes but the first, with exit code 0; it goes on alone."""
        if self.count == 1:
            return
        torch.distributed.destroy_process_group()
        if not self.is_first:
            raise SystemExit(0)


def join_processes(device: str) -> Processes:
    """Join the processes that a launcher started together; without a launcher there is one."""
    if not is_distributed():
        if (line := single_process_hint()) is not None:
            warn(line)
        return Processes()
    from accelerate import PartialState

    on_cpu = device == "cpu" or torch.accelerator.current_accelerator(check_available=True) is None
    state = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
    return Processes(state.process_index, state.num_processes)


@contextmanager
def _all_there() -> Iterator[None]:
    """Turn a lost connection into one line."""
    try:
        yield
    except RuntimeError as error:  # gloo and nccl raise it when a connection closes
        raise HypergenError("another process of this training has ended; --resume continues") from error
