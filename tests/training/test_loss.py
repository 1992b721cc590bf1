"""The chunked head against plain autograd. Alone: pytest tests/training/test_loss.py"""

import pytest
import torch
from torch.nn import functional

from hypergen.training import loss as loss_module
from hypergen.training.loss import backward
from tests.toy.model import ToyModel
from tests.training.plans import LENGTH, TiedToy, new_plan, sequences, toy, train


@pytest.mark.parametrize("kind", [ToyModel, TiedToy])
@pytest.mark.parametrize("chunk", [1, 7, LENGTH - 1, 10_000])
def test_backward_equals_plain_autograd(kind, chunk, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", chunk)
    model, tokens = toy(kind), sequences(5)
    expected = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    loss = backward(model, model.hidden(tokens[:, :-1]), tokens[:, 1:])
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-7, msg=name)


def test_logits_exist_for_one_chunk_at_a_time(monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", 9)
    model, head, shapes = toy(), ToyModel.head, []

    def watched(hidden):
        shapes.append(hidden.shape)
        return head(model, hidden)

    model.head = watched
    train(model, sequences(10), new_plan(steps=3))
    positions = [shape[:-1].numel() for shape in shapes]
    assert max(positions) == 9
    assert sum(positions) == 10 * (LENGTH - 1)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_shares_of_a_batch_add_up(share):
    """Loss and gradient of a part are weighted by its share of the batch."""
    model, tokens = toy(), sequences(4)
    whole = backward(model, model.hidden(tokens[:, :-1]), tokens[:, 1:])
    expected = model.output.weight.grad * share
    model.zero_grad()
    loss = backward(model, model.hidden(tokens[:, :-1]), tokens[:, 1:], share=share)
    assert loss == pytest.approx(share * whole, rel=1e-6)
    torch.testing.assert_close(model.output.weight.grad, expected)


def test_chunks_on_a_cpu_fit_its_caches():
    """Unless the vocabulary is so large that a chunk would be too few positions for a product."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [loss_module._chunk_size(num_tokens, cpu) for num_tokens in (18, 4096, 262_144)] == [2048, 256, 64]
    assert loss_module._chunk_size(262_144, cuda) == 2048
