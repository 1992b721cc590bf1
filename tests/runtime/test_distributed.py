"""One process among several, or alone; two real ones are in `tests/faults`.

Alone: pytest tests/runtime/test_distributed.py
"""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import hypergen
from hypergen.errors import HypergenError
from hypergen.runtime.distributed import Processes, join_processes
from hypergen.runtime.launcher import is_distributed
from hypergen.training.loss import BatchLoss


def test_alone_nothing_is_exchanged():
    alone = Processes()
    weight = nn.Parameter(torch.ones(3))
    assert alone.shard(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert alone.all_reduce_gradients([weight], (0.5, 3)) == (0.5, 3) and weight.grad is None
    assert alone.sync_stop(15, "epochs") == (15, "epochs") and alone.sync_stop(None, None) == (None, None)
    alone.check_equal("data", object())
    assert alone.broadcast("value") == "value" and alone.is_first
    alone.finish_other_ranks()


@pytest.fixture
def exchange(monkeypatch):
    """Stands for what accelerate exchanges: puts the values of the other processes beside ours."""

    def set_others(*others):
        gathered = SimpleNamespace(gather_object=lambda own: [*own, *others], reduce=lambda own, how: own + 1)
        monkeypatch.setitem(sys.modules, "accelerate.utils", gathered)

    return set_others


TWO = Processes(0, 2)


def test_gradients_losses_and_correct_tokens_are_summed(exchange):
    exchange((0.25, 7))
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    used.grad = torch.full((3,), 2.0)
    assert TWO.all_reduce_gradients([used, unused], BatchLoss(0.5, 4)) == (0.75, 11)
    assert used.grad.tolist() == [3, 3, 3] and unused.grad.tolist() == [1, 1]


@pytest.mark.parametrize(
    "own, other, agreed",
    [
        ((None, None), (None, None), (None, None)),
        ((None, "target_loss"), (None, None), (None, "target_loss")),
        ((None, None), (None, "target_loss"), (None, None)),  # the first process decides
        ((None, None), (15, None), (15, None)),  # a signal may arrive anywhere
        ((2, "epochs"), (15, None), (15, "epochs")),
    ],
)
def test_all_stop_for_the_same_reason(own, other, agreed, exchange):
    exchange(other)
    assert TWO.sync_stop(*own) == agreed


def test_different_values_are_refused_by_process(exchange):
    exchange("same")
    TWO.check_equal("data", "same")
    assert TWO.broadcast("same") == "same"
    exchange("other")
    with pytest.raises(HypergenError, match=r"^data: those of process 1 differ from those of process 0$"):
        TWO.check_equal("data", "same")


def test_a_lost_process_is_one_line(monkeypatch):
    def fail(own):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setitem(sys.modules, "accelerate.utils", SimpleNamespace(gather_object=fail, reduce=None))
    for attempt in (lambda: TWO.broadcast(1), lambda: TWO.check_equal("data", 1), lambda: TWO.sync_stop(None, None)):
        with pytest.raises(HypergenError, match="another process of this training has ended; --resume continues"):
            attempt()


@pytest.mark.parametrize("rank", [0, 1])
def test_after_the_training_the_first_goes_on_alone(rank, monkeypatch):
    ended = []
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: ended.append(rank))
    try:
        Processes(rank, 2).finish_other_ranks()
    except SystemExit as leave:
        assert rank == 1 and leave.code == 0
    else:
        assert rank == 0
    assert ended == [rank]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_shares_are_the_batch(count):
    rows = torch.randperm(7)
    shares = [Processes(rank, count).shard(rows) for rank in range(count)]
    assert sorted(torch.cat(shares).tolist()) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


ALONE = [{}, {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}, {"WORLD_SIZE": "2"}, {"OMPI_COMM_WORLD_SIZE": "2"}]


@pytest.mark.parametrize("told", ALONE)
def test_without_a_launcher_there_is_one(told, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "accelerate", None)  # importing it would fail
    assert not is_distributed() and join_processes("cpu") == Processes()


def test_accelerate_on_a_cpu_that_started_one_is_told(monkeypatch, capsys):
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert join_processes("cpu") == Processes()
    assert capsys.readouterr().err.startswith("hypergen: accelerate launch --cpu starts one process unless")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert is_distributed()


def test_pretraining_takes_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(hypergen.InputError, match=r"^pretrain: runs in one process; fit takes several$"):
        hypergen.pretrain(modality="toy", data="numbers", output="nowhere")
