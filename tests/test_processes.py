"""One process among several, or alone; two real ones are in `tests/faults`. Alone: pytest tests/test_processes.py"""

import sys

import pytest
import torch
from torch import nn

import hypergen
from hypergen.launcher import are_several
from hypergen.processes import Processes, join


def test_alone_nothing_is_exchanged():
    alone = Processes()
    weight = nn.Parameter(torch.ones(3))
    assert alone.own(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert alone.add_up([weight], 0.5) == 0.5 and weight.grad is None
    assert alone.agree(15, "epochs") == (15, "epochs") and alone.agree(None, None) == (None, None)
    alone.leave()


@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_shares_are_the_batch(count):
    rows = torch.randperm(7)
    shares = [Processes(rank, count).own(rows) for rank in range(count)]
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
    assert not are_several() and join("cpu") == Processes()


def test_accelerate_on_a_cpu_that_started_one_is_told(monkeypatch, capsys):
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert join("cpu") == Processes()
    assert capsys.readouterr().err.startswith("hypergen: accelerate launch --cpu starts one process unless")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert are_several()


def test_pretraining_takes_one(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(hypergen.InputError, match=r"^pretrain: runs in one process; fit takes several$"):
        hypergen.pretrain(modality="toy", data="numbers", output="nowhere")
