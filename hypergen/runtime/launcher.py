"""Read from the environment whether a launcher started this process as one of several.

`torchrun` and `accelerate launch` set RANK, LOCAL_RANK and WORLD_SIZE; below `accelerate launch --cpu` it is mpirun
that numbers the processes, if there are several. Imports only the standard library, because it runs before torch does.
"""

from __future__ import annotations

import os

MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of several implementations
MPI_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def is_distributed() -> bool:
    """Tell whether a launcher started this process as one of several."""
    if "LOCAL_RANK" in os.environ:
        return _number("WORLD_SIZE", 1) > 1
    # MPI's tasks may be strangers.
    return _below_accelerate_on_cpu() and any(_number(name, 1) > 1 for name in MPI_SIZES)


def is_first_rank() -> bool:
    """Tell whether this process is the one that writes and warns; the only one of a single process."""
    if not is_distributed():
        return True
    names = ("RANK",) if "LOCAL_RANK" in os.environ else MPI_RANKS
    return all(_number(name, 0) == 0 for name in names)


def single_process_hint() -> str | None:
    """Explain how to start several processes where a launcher was asked for them and started one; None elsewhere."""
    if is_distributed() or not _below_accelerate_on_cpu() or "MASTER_ADDR" not in os.environ:
        return None
    return (
        "accelerate launch --cpu starts one process unless it is given --mpirun_hostfile; "
        "torchrun --nproc-per-node N -m hypergen and accelerate launch --multi_gpu start several, also on a cpu"
    )


def _below_accelerate_on_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else default
