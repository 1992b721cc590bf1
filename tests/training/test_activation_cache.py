"""The activation cache changes the time of last-layers training and nothing else.

Alone: pytest tests/training/test_activation_cache.py
"""

import errno
import os
import shutil

import pytest
import torch

from hypergen.errors import DiskError, InputError
from hypergen.training import activation_cache
from hypergen.training.activation_cache import ActivationCache
from tests.toy.model import ToyModel
from tests.training.plans import new_plan, random_mask, sequences, toy
from tests.training.plans import train as train_by_plan

FROM_FILE = torch.from_file
LOSS_TOLERANCE = 1e-5  # cached and uncached forward differ in batch order at most


class WrongCut(ToyModel):
    """Continues with something else than it returned before its last blocks."""

    def hidden_before(self, tokens, num_last):
        return super().hidden_before(tokens, num_last) * (1 if num_last == 1 else 1.01)

    def hidden(self, tokens):
        return ToyModel.forward_from(self, ToyModel.hidden_before(self, tokens, 1), 1)


class NoCut(ToyModel):
    def hidden_before(self, tokens, num_last):
        raise InputError("cannot be cut")

    hidden = WrongCut.hidden


class NanCut(NoCut):
    def hidden_before(self, tokens, num_last):
        return ToyModel.hidden_before(self, tokens, num_last) * torch.nan


class BrokenCut(NoCut):
    def hidden_before(self, tokens, num_last):
        raise KeyError("a defect")


def train(model, last_layers, loss_mask=None):
    """The losses of all epochs, and whether activations were cached."""
    plan = new_plan(steps=15, learning_rate=1e-2, last_layers=last_layers)
    result, losses = train_by_plan(model, sequences(10), plan, loss_mask)
    return list(losses.values()), result.cached


def train_uncached(monkeypatch, last_layers, loss_mask=None):
    with monkeypatch.context() as patch:
        patch.setattr(ActivationCache, "build", staticmethod(lambda *_, **__: None))
        losses, cached = train(toy(), last_layers, loss_mask)
    assert not cached
    return losses


@pytest.mark.parametrize("last_layers", [1, 2])
def test_cached_training_gives_the_losses_of_uncached(last_layers, monkeypatch):
    losses, cached = train(toy(), last_layers)
    assert cached
    assert losses == pytest.approx(train_uncached(monkeypatch, last_layers), rel=LOSS_TOLERANCE)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("last_layers", [1, 2])
def test_a_masked_training_is_the_same_with_and_without_the_cache(last_layers, monkeypatch):
    loss_mask = random_mask(sequences(10))
    losses, cached = train(toy(), last_layers, loss_mask)
    assert cached
    assert losses == pytest.approx(train_uncached(monkeypatch, last_layers, loss_mask), rel=LOSS_TOLERANCE)
    assert losses != train(toy(), last_layers)[0]


def test_cached_states_are_the_inputs_of_the_last_blocks():
    model, inputs = toy(), sequences(10)
    with torch.no_grad():
        cache = ActivationCache.build(model, inputs, 1, batch_size=3)
        torch.testing.assert_close(cache.states, model.blocks[1](model.blocks[0](model._embed(inputs, 0))))
    assert len(cache.states) == len(inputs)


def test_lower_blocks_run_once_for_all_epochs():
    """10 sequences in 3 batches, and twice one batch for the check, which compares with the whole forward."""
    model, calls = toy(), []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    train(model, 2)
    assert len(calls) == 3 + 2


def test_blocks_in_files_run_one_after_the_other_over_all_sequences():
    model, inputs, calls = toy(num_layers=4), sequences(10), []
    with torch.no_grad():
        expected = ActivationCache.build(model, inputs, 1, batch_size=4).states
        model.cache_stages = lambda num_last: range(len(model.blocks) - 1, num_last - 1, -1)
        for number, block in enumerate(model.blocks):
            block.register_forward_hook(lambda *_, number=number: calls.append(number))
        assert ActivationCache.build(model, inputs, 1, batch_size=4).states.equal(expected)
    check = [0, 1, 2, 3]
    assert calls == [*check, *check, 0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("last_layers", [0, 3])
def test_nothing_to_cache(last_layers, capsys):
    assert ActivationCache.build(toy(), sequences(10), last_layers, 4) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [WrongCut, NoCut, NanCut])
def test_it_falls_back_to_the_whole_forward(kind, monkeypatch, capsys):
    losses, cached = train(toy(kind), 2)
    assert not cached
    assert losses == pytest.approx(train_uncached(monkeypatch, 2), rel=LOSS_TOLERANCE)
    assert "hypergen: activation cache: the truncated forward differs; training without it" in capsys.readouterr().err


def test_a_defect_is_not_hidden():
    with pytest.raises(KeyError, match="a defect"):
        train(toy(BrokenCut), 2)


def test_a_cache_beyond_memory_goes_into_a_file_without_a_name(monkeypatch, tmp_path):
    in_memory = train(toy(), 1)
    monkeypatch.setattr(activation_cache, "SHARE_OF_MEMORY", 0.0)
    monkeypatch.setattr(activation_cache.tempfile, "tempdir", str(tmp_path))
    mapped = []
    monkeypatch.setattr(activation_cache.torch, "from_file", lambda *a, **n: mapped.append(a[0]) or FROM_FILE(*a, **n))
    assert train(toy(), 1) == in_memory
    assert len(mapped) == 1 and not list(tmp_path.iterdir())


def test_no_room_for_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(activation_cache, "SHARE_OF_MEMORY", 0.0)
    monkeypatch.setattr(activation_cache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(activation_cache.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DiskError, match=r"needs 7,040 bytes, 0 are free; set TMPDIR"):
        train(toy(), 1)
    assert not list(tmp_path.iterdir())


def test_a_mapped_cache_takes_its_room_on_the_disk_before_it_is_written(monkeypatch):
    """A mapping over a hole would end in SIGBUS when the disk is full."""
    monkeypatch.setattr(activation_cache, "SHARE_OF_MEMORY", 0.0)

    def full(file, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        DiskError, match=r"the activation cache needs [\d,]+ bytes \(No space left on device\); set TMPDIR"
    ):
        ActivationCache.build(toy(), sequences(10), 1, batch_size=3)
