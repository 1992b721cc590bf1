"""The chunked head against plain autograd. Alone: pytest tests/training/test_loss.py"""

import pytest
import torch
from torch.nn import functional

from hypergen.training import loss as loss_module
from hypergen.training.loss import backward
from hypergen.training.precision import FrozenCasts, autocast
from tests.toy.model import ToyModel
from tests.training.plans import LENGTH, TiedToy, new_plan, random_mask, sequences, toy, train


@pytest.fixture(params=["native", "torch"], autouse=True)
def way(request, monkeypatch):
    """Each test runs with the native cross-entropy, where there is one, and with torch's."""
    if request.param == "torch":
        monkeypatch.setattr(loss_module, "cross_entropy_native", lambda *arguments: None)
    return request.param


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
    assert loss.loss == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_ignored_targets_count_in_neither_loss_nor_accuracy(chunk, monkeypatch):
    monkeypatch.setattr(loss_module, "CHUNK", chunk)
    model, tokens = toy(), sequences(5)
    targets = tokens[:, 1:].masked_fill(~random_mask(tokens)[:, 1:], loss_module.IGNORED)
    count = int((targets != loss_module.IGNORED).sum())
    logits = model(tokens[:, :-1])
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    found = backward(model, model.hidden(tokens[:, :-1]), targets, share=targets.numel() / count)
    assert found.loss == pytest.approx(expected.item(), rel=1e-5)
    assert found.num_correct == int((logits.argmax(-1) == targets).sum())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)


def plain_chunks(model, hidden, targets, precision, chunk_size):
    """The loss by autograd alone, chunk by chunk, and nothing counted."""
    positions, labels = hidden.detach().flatten(0, 1), targets.flatten()
    gradients, total = [], torch.zeros(())
    for chunk, chunk_labels in zip(positions.split(chunk_size), labels.split(chunk_size), strict=True):
        chunk.requires_grad_()
        with autocast(precision, hidden.device):
            logits = model.head(chunk)
        loss = functional.cross_entropy(logits.float(), chunk_labels, reduction="sum") / labels.numel()
        loss.backward()
        gradients.append(chunk.grad)
        total += loss.detach()
    hidden.backward(torch.cat(gradients).view_as(hidden))
    return total.item()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", [7, 10_000])
def test_loss_and_gradient_are_those_of_autograd_in_either_precision(precision, chunk, way, monkeypatch):
    """To the bit where torch computes them."""
    monkeypatch.setattr(loss_module, "CHUNK", chunk)
    plain, counted, tokens = toy(), toy(), sequences(5)
    expected = plain_chunks(plain, plain.hidden(tokens[:, :-1]), tokens[:, 1:], precision, chunk)
    found = backward(counted, counted.hidden(tokens[:, :-1]), tokens[:, 1:], precision)
    assert found.loss == pytest.approx(expected, rel=1e-6)
    rounding = 0 if way == "torch" else 2e-3 if precision == "bf16" else 1e-6
    for one, other in zip(plain.parameters(), counted.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_predictions_that_are_right_are_counted(precision, chunk, monkeypatch):
    """Of equal logits the first one is the prediction, as in decoding; 16 bits make many equal."""
    monkeypatch.setattr(loss_module, "CHUNK", chunk)
    model, tokens = toy(), sequences(18)
    with torch.no_grad(), autocast(precision, torch.device("cpu")):
        logits = model(tokens[:, :-1]).float()
    expected = int((logits.argmax(-1) == tokens[:, 1:]).sum())
    with autocast(precision, torch.device("cpu")):
        hidden = model.hidden(tokens[:, :-1])
    assert backward(model, hidden, tokens[:, 1:], precision).num_correct == expected > 0


def test_a_tie_is_decided_for_the_first_token():
    model, tokens = toy(), sequences(4)
    model.head = lambda hidden: ToyModel.head(model, hidden) * 0
    found = backward(model, model.hidden(tokens[:, :-1]), tokens[:, 1:])
    assert found.num_correct == int((tokens[:, 1:] == 0).sum())


def test_the_device_is_waited_for_once(monkeypatch):
    waits = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "cpu"):
        original = getattr(torch.Tensor, name)
        waiting = lambda tensor, *rest, name=name, original=original: waits.append(name) or original(tensor, *rest)  # noqa: E731
        monkeypatch.setattr(torch.Tensor, name, waiting)
    monkeypatch.setattr(loss_module, "CHUNK", 9)
    model, tokens = toy(), sequences(5)
    backward(model, model.hidden(tokens[:, :-1]), tokens[:, 1:])
    assert waits == ["tolist"]


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
    part = backward(model, model.hidden(tokens[:, :-1]), tokens[:, 1:], share=share)
    assert part.loss == pytest.approx(share * whole.loss, rel=1e-6)
    assert part.num_correct == whole.num_correct  # a count, which adds up as it is
    torch.testing.assert_close(model.output.weight.grad, expected)


def test_chunks_on_a_cpu_fit_its_caches():
    """Unless the vocabulary is so large that a chunk would be too few positions for a product."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    sizes = lambda precision: [loss_module._chunk_size(count, cpu, precision) for count in (18, 4096, 262_144)]  # noqa: E731
    assert sizes("fp32") == [2048, 256, 64]
    assert sizes("bf16") == [2048, 2048, 128]
    assert loss_module._chunk_size(262_144, cuda, "bf16") == 2048


@pytest.mark.parametrize("is_frozen", [True, False])
def test_kept_casts_change_no_bit(is_frozen):
    """Neither those of a frozen head, which are kept, nor of a trained one, which are made anew."""
    casts, found = FrozenCasts(), []
    for kept in (None, casts, casts):
        model, tokens = toy(), sequences(5)
        model.output.weight.requires_grad_(not is_frozen)
        loss = backward(model, model.hidden(tokens[:, :-1]), tokens[:, 1:], "bf16", casts=kept)
        found.append([loss.loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    for other in found[1:]:
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(found[0], other, strict=True))
