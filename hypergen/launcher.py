"""What started this process: a person, or a launcher that started several at once. Told by the environment alone.

`torchrun` and `accelerate launch` set RANK, LOCAL_RANK and WORLD_SIZE; below `accelerate launch --cpu` it is mpirun
that numbers the processes, if there are several. Imports only the standard library.
Does not know: how processes talk to each other (`processes`).
"""

from __future__ import annotations

import os

MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of several implementations


def are_several() -> bool:
    """Whether a launcher started this process as one of several."""
    if "LOCAL_RANK" in os.environ:
        return _number("WORLD_SIZE") > 1
    return _below_accelerate_on_cpu() and any(_number(name) > 1 for name in MPI_SIZES)  # MPI's tasks may be strangers


def remark() -> str | None:
    """A line for who asked for several processes and got one."""
    if are_several() or not _below_accelerate_on_cpu() or "MASTER_ADDR" not in os.environ:
        return None
    return (
        "accelerate launch --cpu starts one process unless it is given --mpirun_hostfile; "
        "torchrun --nproc-per-node N -m hypergen and accelerate launch --multi_gpu start several, also on a cpu"
    )


def _below_accelerate_on_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def _number(name: str) -> int:
    value = os.environ.get(name, "1")
    return int(value) if value.isdecimal() else 1
