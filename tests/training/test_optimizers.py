"""Muon against singular value decompositions and torch's own, and which optimizer trains what.

Alone: pytest tests/training/test_optimizers.py
"""

from copy import deepcopy

import pytest
import torch
from torch import nn

from hypergen.training.optimizers import Muon, new_optimizers, orthogonalize, set_learning_rate
from hypergen.training.parameters import mark_trained
from tests.toy.model import ToyModel
from tests.training.plans import TiedToy, new_plan, toy

SHAPES = [(16, 16), (16, 64), (64, 16), (1, 8), (48, 40)]


def random_matrix(*shape, seed=0, low=0.1):
    """Singular values from `low` to 1 of the largest."""
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ torch.diag(torch.linspace(1, low, len(values))) @ right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
def test_singular_values_end_near_one(shape, scale):
    values = torch.linalg.svdvals(orthogonalize(random_matrix(*shape) * scale))
    assert values.min() > 0.65 and values.max() < 1.25


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_stay(shape):
    """O = U f(S) V^T: seen from the matrix's own vectors, the result is diagonal and positive."""
    matrix = random_matrix(*shape, seed=1)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ orthogonalize(matrix) @ right.T
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), rtol=0, atol=1e-4)
    assert (inner.diagonal() > 0).all()


def test_transpose_commutes():
    matrix = random_matrix(24, 16)
    torch.testing.assert_close(orthogonalize(matrix.T), orthogonalize(matrix).T)


def test_zero_stays_zero():
    assert not orthogonalize(torch.zeros(4, 6)).any()


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_update_has_the_size_of_an_adamw_update(shape):
    """Root mean square 0.2 times the learning rate, whatever the shape or the gradient's size."""
    weight = torch.zeros(shape, requires_grad=True)
    weight.grad = 1e-3 * random_matrix(*shape)
    Muon([weight], lr=0.01).step()
    size = weight.detach().square().mean().sqrt() / (0.2 * 0.01)
    expected = (min(shape) / sum(torch.linalg.svdvals(weight.detach()) > 0)) ** 0.5
    assert 0.65 < size / expected < 1.25


def test_update_descends():
    weight = torch.zeros(8, 8, requires_grad=True)
    weight.grad = random_matrix(8, 8)
    Muon([weight], lr=0.01).step()
    assert (weight * weight.grad).sum() < 0


def test_agrees_with_torch():
    """torch's computes in bf16, so only roughly."""
    start = random_matrix(24, 16, seed=1)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    options = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = Muon([ours], lr=0.02), torch.optim.Muon([theirs], lr=0.02, momentum=0.95, **options)
    for step in range(4):
        ours.grad, theirs.grad = (random_matrix(24, 16, seed=10 + step) for _ in range(2))
        for optimizer in optimizers:
            optimizer.step()
    difference = (ours - theirs).norm() / (theirs - start).norm()
    assert difference < 0.03


def test_state_round_trip():
    def step(optimizer, weight, seed):
        weight.grad = random_matrix(8, 12, seed=seed)
        optimizer.step()

    first = torch.zeros(8, 12, requires_grad=True)
    optimizer = Muon([first], lr=0.1)
    step(optimizer, first, 0)
    second = first.detach().clone().requires_grad_()
    continued, forgetful = Muon([second], lr=0.1), torch.zeros(8, 12, requires_grad=True)
    continued.load_state_dict(deepcopy(optimizer.state_dict()))
    forgetful.data.copy_(first.data)
    step(optimizer, first, 1)
    step(continued, second, 1)
    step(Muon([forgetful], lr=0.1), forgetful, 1)
    assert first.equal(second)
    assert not first.equal(forgetful)


def test_without_gradient_nothing_moves():
    weight = torch.ones(3, 3, requires_grad=True)
    Muon([weight], lr=0.1).step()
    assert weight.equal(torch.ones(3, 3))


def test_bf16_orthogonalizes_coarsely_and_keeps_momentum_and_weights_in_fp32():
    steps = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.nn.Parameter(torch.zeros(24, 16))
        matrix.grad = random_matrix(24, 16)
        optimizer = Muon([matrix], lr=1.0, dtype=dtype)
        optimizer.step()
        assert matrix.dtype == optimizer.state[matrix]["momentum_buffer"].dtype == torch.float32
        steps[dtype] = matrix.detach()
    apart = (steps[torch.float32] - steps[torch.bfloat16]).norm() / steps[torch.float32].norm()
    assert 0 < apart < 0.05


def test_pretraining_warms_up_and_cools_down():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=99.0)
    rates = []
    for step in range(200):
        set_learning_rate(optimizer, new_plan(steps=200, learning_rate=2.0, pretraining=True), step)
        rates.append(optimizer.param_groups[0]["lr"])
    top = rates.index(max(rates))
    assert top == 3 and rates[top] == 2.0  # 2 % of the steps
    assert rates[0] == 0.5 and rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, rel=0.01)  # 5 %


def test_hyperfitting_keeps_its_learning_rate():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    for step in range(10):
        set_learning_rate(optimizer, new_plan(steps=10, learning_rate=2.0), step)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("kind", [ToyModel, TiedToy])
def test_every_trained_parameter_has_one_optimizer(kind):
    """Muon the matrices of the blocks, AdamW embeddings, head, norms and biases; nothing decays."""
    model = toy(kind)
    parameters = mark_trained(model, 0)
    muon, adam = new_optimizers(model, parameters, new_plan(pretraining=True))
    own = [{id(p) for group in optimizer.param_groups for p in group["params"]} for optimizer in (muon, adam)]
    matrices = {id(p) for name, p in parameters.items() if name.startswith("blocks.") and p.ndim == 2}
    assert own == [matrices, {id(p) for p in parameters.values()} - matrices]
    (alone,) = new_optimizers(model, parameters, new_plan())
    assert [p for group in alone.param_groups for p in group["params"]] == list(parameters.values())
    assert {group["weight_decay"] for optimizer in (adam, alone) for group in optimizer.param_groups} == {0.0}


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_muon_orthogonalizes_in_the_precision_of_the_training(precision, dtype):
    model = toy()
    muon, _ = new_optimizers(model, mark_trained(model, 0), new_plan(pretraining=True, precision=precision))
    assert muon.dtype == dtype
