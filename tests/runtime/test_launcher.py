"""The environment of every launcher says who this process is. Alone: pytest tests/runtime/test_launcher.py"""

import pytest

from hypergen.runtime.launcher import MPI_RANKS, MPI_SIZES, is_distributed, is_first_rank, single_process_hint

NAMES = ("LOCAL_RANK", "WORLD_SIZE", "RANK", "ACCELERATE_USE_CPU", "MASTER_ADDR", *MPI_RANKS, *MPI_SIZES)
ACCELERATE_CPU = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def told(monkeypatch):
    """Sets what a launcher sets; nothing else is left of it."""

    def tell(values):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    tell({})
    return tell


ALONE = [
    {},
    {"WORLD_SIZE": "1", "LOCAL_RANK": "0", "RANK": "0"},
    {"WORLD_SIZE": "2", "RANK": "1"},  # of something else: no launcher leaves out LOCAL_RANK
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},  # a batch job that MPI started
    {"WORLD_SIZE": "two", "LOCAL_RANK": "0"},
    ACCELERATE_CPU,
]


@pytest.mark.parametrize("values", ALONE)
def test_a_process_alone_is_the_first(values, told):
    told(values)
    assert not is_distributed() and is_first_rank()


@pytest.mark.parametrize("rank", [0, 1, 7])
def test_torchrun_and_accelerate_number_by_rank(rank, told):
    told({"WORLD_SIZE": "8", "LOCAL_RANK": "0", "RANK": str(rank)})  # the first one of another machine, maybe
    assert is_distributed() and is_first_rank() == (rank == 0)


@pytest.mark.parametrize("size, number", list(zip(MPI_SIZES, MPI_RANKS, strict=True)))
@pytest.mark.parametrize("rank", [0, 1])
def test_mpirun_numbers_below_accelerate_on_a_cpu(rank, size, number, told):
    told(ACCELERATE_CPU | {size: "2", number: str(rank)})
    assert is_distributed() and is_first_rank() == (rank == 0)


def test_a_hint_only_where_several_were_asked_for_and_one_came(told):
    told(ACCELERATE_CPU)
    assert "torchrun --nproc-per-node N -m hypergen" in single_process_hint()
    told(ACCELERATE_CPU | {"PMI_SIZE": "2"})
    assert single_process_hint() is None
    told({"ACCELERATE_USE_CPU": "true"})
    assert single_process_hint() is None
    told({})
    assert single_process_hint() is None
