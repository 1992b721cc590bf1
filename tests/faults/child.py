"""What runs in the processes that are killed: one command of the toy modality, with one fault.

A fork server imports this once (and computes nothing), so that a case costs milliseconds and may die as it likes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rich.table  # noqa: F401 (imported here, once, because a case may need it)
import torch
import torch._dynamo

from hypergen import api, registry
from hypergen.cli import main as cli
from hypergen.evaluation import comparison
from hypergen.image import vq_training
from hypergen.runtime import devices
from hypergen.storage import run_folder
from hypergen.training import checkpoints, loop
from tests.faults.inject import Fault, install
from tests.toy.model import ToyModel

REAL_OPEN = open  # for what is no part of the run
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.child"])
PLACES = {
    "train": (loop, "backward"),
    "build": (ToyModel, "hidden_before"),
    "compare": (comparison.Comparison, "add"),
    "decode": (ToyModel, "decode_step"),
    "checkpoint": (checkpoints.Checkpoints, "save"),
    "publish": (api, "write_run"),
    "codec": (vq_training, "decibels"),
}


@dataclass(frozen=True)
class Case:
    """A process: its command line and what happens to it."""

    arguments: Sequence[str]
    fault: Fault | None = None
    place: str = ""
    """Where `signals` arrive: one of PLACES, at its call number `call`."""
    call: int = 1
    signals: Sequence[int] = ()
    threads: int = 1
    umask: int = 0o022
    torch_version: str = ""
    final_state: str = ""
    """File that the state at the end of the training is copied to."""
    act: Callable[[], None] | None = None
    """Something else to do in the process first."""


@dataclass(frozen=True)
class Outcome:
    code: int
    """As a shell has it, -9 for SIGKILL."""
    told: str
    """Standard output and error."""
    points: int
    """Uses of the disk."""


def start(case: Case, log: Path) -> Any:
    """The process, begun."""
    process = FORKS.Process(target=_run, args=(case, str(log)))
    process.start()
    return process


def ended(process: Any, log: Path, timeout: float = 120) -> Outcome:
    process.join(timeout)
    assert process.exitcode is not None, f"still running: {log.read_text()}"
    told = log.read_text() if log.is_file() else ""
    points = [int(line.split()[1]) for line in told.splitlines() if line.startswith("points: ")]
    return Outcome(process.exitcode, told, points[-1] if points else 0)


def execute(case: Case, log: Path) -> Outcome:
    return ended(start(case, log), log)


def _run(case: Case, log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.umask(case.umask)
    torch.set_num_threads(case.threads)
    registry.MODALITIES["toy"] = "tests.toy"
    if case.torch_version:
        real = devices.describe_machine
        api.describe_machine = lambda device: real(device) | {"torch": case.torch_version}
    if case.final_state:
        _keep_final_state(case.final_state)
    if case.place:
        _signal_at(*PLACES[case.place], case.call, case.signals)
    if case.act is not None:
        case.act()
    fault = case.fault and replace(case.fault)
    if fault:
        install(fault)
    code = cli.main(list(case.arguments))
    if fault:
        fault.at = 0
        print(f"points: {fault.seen}", flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def join_processes(rank: int, count: int, port: int) -> None:
    """What a launcher tells each of several processes on one machine."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()}, MASTER_ADDR="127.0.0.1", OMP_NUM_THREADS="1")


def join_by_mpi(rank: int, count: int, port: int) -> None:
    """What mpirun below `accelerate launch --cpu` tells."""
    told = {"RANK": rank, "SIZE": count, "LOCAL_RANK": rank, "LOCAL_SIZE": count}
    os.environ.update({f"OMPI_COMM_WORLD_{name}": str(value) for name, value in told.items()})
    os.environ.update(ACCELERATE_USE_CPU="True", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")


def _keep_final_state(path: str) -> None:
    real = run_folder.finish

    def finish(folder: Path, write: Any) -> None:
        newest = max((folder / "checkpoints").glob("step-*"), key=lambda step: int(step.name[5:]))
        with REAL_OPEN(newest / "state.safetensors", "rb") as source, REAL_OPEN(path, "wb") as target:
            target.write(source.read())
        real(folder, write)

    run_folder.finish = finish


def _signal_at(owner: Any, name: str, call: int, signals: Sequence[int]) -> None:
    real, left = getattr(owner, name), [call]

    def use(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        if owner is ToyModel and name == "hidden_before" and (torch.is_grad_enabled() or not arguments[0].training):
            return result  # of a forward pass, not of the cache
        left[0] -= 1
        if left[0] == 0:
            for number in signals:
                os.kill(os.getpid(), number) if number == signal.SIGKILL else signal.raise_signal(number)
        return result

    setattr(owner, name, use)
