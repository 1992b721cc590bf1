"""Native cross-entropy and sharpness against torch's in fp64.

Alone: pytest tests/kernels/test_native_loss.py
"""

import pytest
import torch
from torch.nn import functional

from hypergen.kernels import native_loss
from hypergen.kernels.native_loss import cross_entropy_native, sharpness_native
from tests.kernels.packed import needs_compiler

TYPES = [torch.float32, torch.bfloat16]
pytestmark = needs_compiler


def some_logits(rows=7, num_tokens=1000, spread=4.0, dtype=torch.float32):
    return (torch.randn(rows, num_tokens, generator=torch.Generator().manual_seed(0)) * spread).to(dtype)


def reference(logits, labels, scale):
    wide = logits.double().requires_grad_()
    losses = functional.cross_entropy(wide, labels, ignore_index=-100, reduction="none")
    (losses.sum() * scale).backward()
    return losses.detach(), wide.grad


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("num_tokens", [1, 2, 63, 64, 1000, 1024, 2051])
@pytest.mark.parametrize("spread", [0.1, 4.0, 30.0])
def test_losses_and_gradient_are_those_of_torch(dtype, num_tokens, spread):
    logits = some_logits(num_tokens=num_tokens, spread=spread, dtype=dtype)
    labels = torch.arange(7) * 997 % num_tokens
    labels[3] = -100
    found, (losses, gradient) = cross_entropy_native(logits, labels, 0.37), reference(logits, labels, 0.37)
    torch.testing.assert_close(found.losses.double(), losses, rtol=2e-6, atol=2e-6)
    rounding = 2**-8 if dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(found.gradient.double(), gradient, rtol=rounding, atol=1e-7)
    assert found.gradient.dtype == dtype
    assert found.predicted.equal(logits.float().argmax(-1))


def test_a_loss_near_zero_is_right_to_the_last_bit_of_one():
    logits = torch.zeros(1, 50)
    logits[0, 7] = 16.0
    found, (losses, _) = cross_entropy_native(logits, torch.tensor([7]), 1.0), reference(logits, torch.tensor([7]), 1.0)
    assert found.losses.item() == pytest.approx(losses.item(), abs=2.5e-7)
    assert 1e-6 < losses.item() < 1e-5


@pytest.mark.parametrize("dtype", TYPES)
def test_an_ignored_label_has_neither_loss_nor_gradient(dtype):
    found = cross_entropy_native(some_logits(dtype=dtype), torch.full((7,), -100), 1.0)
    assert not found.losses.any() and not found.gradient.any()
    assert found.predicted.equal(some_logits(dtype=dtype).float().argmax(-1))


@pytest.mark.parametrize("dtype", TYPES)
def test_of_equal_logits_the_first_is_predicted(dtype):
    logits = torch.zeros(2, 200, dtype=dtype)
    logits[1, [70, 130]] = 1.0
    assert cross_entropy_native(logits, torch.zeros(2, dtype=torch.long), 1.0).predicted.tolist() == [0, 70]


def test_what_is_not_finite_stays_so():
    logits = some_logits(rows=3)
    logits[0, 5], logits[1, 5], logits[2, 5] = torch.nan, torch.inf, -torch.inf
    losses = cross_entropy_native(logits, torch.tensor([1, 1, 5]), 1.0).losses
    assert losses[:2].isnan().all()
    assert losses[2] == torch.inf


def test_excluded_tokens_have_no_gradient():
    logits = some_logits()
    logits[:, 1:] = -torch.inf
    found = cross_entropy_native(logits, torch.zeros(7, dtype=torch.long), 1.0)
    assert not found.losses.any() and not found.gradient.any()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_number_of_threads_changes_no_bit(dtype):
    logits, labels, found = some_logits(dtype=dtype), torch.arange(7), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(cross_entropy_native(logits, labels, 0.1))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*found, strict=True):
        assert one.equal(other)


def test_logits_stay_as_they_are_whatever_their_strides():
    logits = some_logits(rows=1000, num_tokens=7).T
    before = logits.clone()
    found, (_, gradient) = cross_entropy_native(logits, torch.arange(7), 1.0), reference(logits, torch.arange(7), 1.0)
    assert logits.equal(before)
    torch.testing.assert_close(found.gradient.double(), gradient, rtol=2e-6, atol=1e-7)


def test_no_positions_are_no_error():
    assert cross_entropy_native(torch.empty(0, 50), torch.empty(0, dtype=torch.long), 1.0).losses.shape == (0,)


def test_a_label_outside_of_the_vocabulary_is_refused():
    with pytest.raises(IndexError, match="labels 0 to 1000: the vocabulary has 1000 tokens"):
        cross_entropy_native(some_logits(), torch.tensor([0, 1000, 2, 3, 4, 5, 6]), 1.0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("num_tokens", [1, 3, 5, 64, 1000, 2051])
@pytest.mark.parametrize("spread", [0.0, 0.1, 4.0, 30.0])
def test_sharpness_is_that_of_torch(dtype, num_tokens, spread):
    logits = some_logits(num_tokens=num_tokens, spread=spread, dtype=dtype)
    logits[2, num_tokens // 2 + 1 :] = -torch.inf
    labels = torch.zeros(7, dtype=torch.long)
    found, wide = sharpness_native(logits, labels), logits.double()
    probabilities = wide.softmax(-1)
    top = probabilities.topk(min(5, num_tokens)).values.cumsum(-1)
    expected = functional.cross_entropy(wide, labels, reduction="none")
    torch.testing.assert_close(found.losses.double(), expected, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(
        found.entropies.double(), torch.special.entr(probabilities).sum(-1), rtol=1e-5, atol=2e-6
    )
    torch.testing.assert_close(found.top.double()[:, : top.shape[1]], top, rtol=2e-6, atol=2e-6)
    assert (found.top[:, top.shape[1] :] == found.top[:, top.shape[1] - 1 : top.shape[1]]).all()


@pytest.mark.parametrize("label", [-1, 1000])
def test_every_label_of_a_measure_is_in_the_vocabulary(label):
    with pytest.raises(IndexError, match="the vocabulary has 1000 tokens"):
        sharpness_native(some_logits(rows=1), torch.tensor([label]))


@pytest.mark.parametrize("why", ["no library", "another type"])
def test_none_where_there_is_no_native_code(why, monkeypatch):
    if why == "no library":
        monkeypatch.setattr(native_loss, "load_native_library", lambda: None)
    logits = some_logits(dtype=torch.float64 if why == "another type" else torch.float32)
    assert cross_entropy_native(logits, torch.arange(7), 1.0) is None
    assert sharpness_native(logits, torch.arange(7)) is None
