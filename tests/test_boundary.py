"""The boundary cache changes the time of last-layers training and nothing else. Alone: pytest tests/test_boundary.py"""

import errno
import os
import shutil

import pytest
import torch

from hypergen import boundary
from hypergen.boundary import BoundaryCache
from hypergen.errors import DiskError, InputError
from hypergen.hyperfit import Plan, hyperfit
from tests.toy.model import ToyModel

SHAPE = {"num_tokens": 18, "context_length": 12, "width": 16, "num_layers": 3, "num_heads": 2}
FROM_FILE = torch.from_file
LOSS_TOLERANCE = 1e-5  # cached and uncached forward differ in batch order at most


class WrongBoundary(ToyModel):
    """Continues from the boundary with something else than what it saw there."""

    def boundary(self, tokens, num_last):
        return super().boundary(tokens, num_last) * (1 if num_last == 1 else 1.01)

    def hidden(self, tokens):
        return ToyModel.from_boundary(self, ToyModel.boundary(self, tokens, 1), 1)


class NoBoundary(ToyModel):
    def boundary(self, tokens, num_last):
        raise InputError("cannot be cut")

    hidden = WrongBoundary.hidden


class NanBoundary(NoBoundary):
    def boundary(self, tokens, num_last):
        return ToyModel.boundary(self, tokens, num_last) * torch.nan


class BrokenBoundary(NoBoundary):
    def boundary(self, tokens, num_last):
        raise KeyError("a defect")


def sequences(count=10):
    tokens = torch.randint(18, (count, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = torch.arange(count)
    return tokens


def train(model, last_layers):
    losses = []
    training = Plan(steps=15, batch_size=4, learning_rate=1e-2, seed=0, last_layers=last_layers)
    result = hyperfit(model, sequences(), training, on_epoch=lambda epoch, loss: losses.append(loss))
    return losses, result.cached


def train_uncached(monkeypatch, last_layers):
    with monkeypatch.context() as patch:
        patch.setattr(BoundaryCache, "build", staticmethod(lambda *_: None))
        losses, cached = train(ToyModel(**SHAPE), last_layers)
    assert not cached
    return losses


@pytest.mark.parametrize("last_layers", [1, 2])
def test_cached_training_gives_the_losses_of_uncached(last_layers, monkeypatch):
    losses, cached = train(ToyModel(**SHAPE), last_layers)
    assert cached
    assert losses == pytest.approx(train_uncached(monkeypatch, last_layers), rel=LOSS_TOLERANCE)
    assert losses[-1] < 0.9 * losses[0]


def test_cached_states_are_the_inputs_of_the_last_blocks():
    model, inputs = ToyModel(**SHAPE), sequences()
    with torch.no_grad():
        cache = BoundaryCache.build(model, inputs, 1, batch_size=3)
        torch.testing.assert_close(cache.states, model.blocks[1](model.blocks[0](model._embed(inputs, 0))))
    assert len(cache.states) == len(inputs)


def test_lower_blocks_run_once_for_all_epochs():
    """10 sequences in 3 batches, and twice one batch for the guard, which compares with the whole forward."""
    model, calls = ToyModel(**SHAPE), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    train(model, 2)
    assert len(calls) == 3 + 2


def test_blocks_in_files_run_one_after_the_other_over_all_sequences():
    model, inputs, calls = ToyModel(**SHAPE | {"num_layers": 4}), sequences(), []
    with torch.no_grad():
        expected = BoundaryCache.build(model, inputs, 1, batch_size=4).states
        model.offloaded = True
        for number, block in enumerate(model.blocks):
            block.register_forward_hook(lambda *_, number=number: calls.append(number))
        assert BoundaryCache.build(model, inputs, 1, batch_size=4).states.equal(expected)
    guard = [0, 1, 2, 3]
    assert calls == [*guard, *guard, 0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("last_layers", [0, 3])
def test_nothing_to_cache(last_layers, capsys):
    assert BoundaryCache.build(ToyModel(**SHAPE), sequences(), last_layers, 4) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [WrongBoundary, NoBoundary, NanBoundary])
def test_guard_falls_back_to_the_whole_forward(kind, monkeypatch, capsys):
    losses, cached = train(kind(**SHAPE), 2)
    assert not cached
    assert losses == pytest.approx(train_uncached(monkeypatch, 2), rel=LOSS_TOLERANCE)
    assert "boundary cache: the truncated forward differs; training without it" in capsys.readouterr().err


def test_a_defect_is_not_hidden():
    with pytest.raises(KeyError, match="a defect"):
        train(BrokenBoundary(**SHAPE), 2)


def test_a_cache_beyond_memory_goes_into_a_file_without_a_name(monkeypatch, tmp_path):
    in_memory = train(ToyModel(**SHAPE), 1)
    monkeypatch.setattr(boundary, "SHARE_OF_MEMORY", 0.0)
    monkeypatch.setattr(boundary.tempfile, "tempdir", str(tmp_path))
    mapped = []
    monkeypatch.setattr(boundary.torch, "from_file", lambda *a, **n: mapped.append(a[0]) or FROM_FILE(*a, **n))
    assert train(ToyModel(**SHAPE), 1) == in_memory
    assert len(mapped) == 1 and not list(tmp_path.iterdir())


def test_no_room_for_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(boundary, "SHARE_OF_MEMORY", 0.0)
    monkeypatch.setattr(boundary.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(boundary.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DiskError, match=r"needs 7,040 bytes, 0 are free; set TMPDIR"):
        train(ToyModel(**SHAPE), 1)
    assert not list(tmp_path.iterdir())


def test_a_mapped_cache_takes_its_room_on_the_disk_before_it_is_written(monkeypatch):
    """A mapping over a hole would end in SIGBUS when the disk is full."""
    monkeypatch.setattr("hypergen.boundary.SHARE_OF_MEMORY", 0.0)

    def full(file, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        DiskError, match=r"the boundary cache needs [\d,]+ bytes \(No space left on device\); set TMPDIR"
    ):
        BoundaryCache.build(ToyModel(**SHAPE), sequences(), 1, batch_size=3)
