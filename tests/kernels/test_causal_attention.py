"""Causal attention against torch's kernel: values and gradients, grouped heads, when it is used."""

import pytest
import torch
from torch.nn import functional as F

from hypergen.kernels.causal_attention import LONGEST, causal_attention, is_faster


def parts(length, heads=6, groups=6, width=8, dtype=torch.bfloat16):
    draw = torch.Generator().manual_seed(length)
    shapes = [(2, heads, length, width), (2, groups, length, width), (2, groups, length, width)]
    return [torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in shapes]


def result_and_gradients(attend, tensors):
    mixed = attend(*tensors)
    mixed.backward(torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1)).to(mixed.dtype))
    found = [mixed.detach().float(), *(tensor.grad.float() for tensor in tensors)]
    for tensor in tensors:
        tensor.grad = None
    return found


def by_torch(queries, keys, values):
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=0.3, enable_gqa=True)


@pytest.mark.parametrize("length", [2, 31, 64, 65, 200, 256])
@pytest.mark.parametrize("groups", [6, 2])
def test_is_as_near_to_fp32_as_torchs_kernel(length, groups):
    tensors = parts(length, groups=groups)
    assert is_faster(tensors[0])
    ours = result_and_gradients(lambda *three: causal_attention(*three, 0.3), tensors)
    theirs = result_and_gradients(by_torch, tensors)
    exact = [tensor.detach().float().requires_grad_() for tensor in tensors]
    reference = result_and_gradients(by_torch, exact)
    for own, other, true in zip(ours, theirs, reference, strict=True):
        assert (own - true).norm() <= 1.5 * (other - true).norm() + 1e-3 * true.norm()


def test_fp32_is_torchs_own():
    tensors = parts(64, groups=2, dtype=torch.float32)
    assert torch.equal(causal_attention(*tensors, 0.3), by_torch(*tensors))


def test_no_token_sees_a_later_one():
    queries, keys, values = parts(100)
    before = causal_attention(queries, keys, values, 0.3).detach()
    with torch.no_grad():
        keys[:, :, 70:] += 1
        values[:, :, 70:] += 1
    after = causal_attention(queries, keys, values, 0.3).detach()
    assert torch.equal(before[:, :, :70], after[:, :, :70]) and not torch.equal(before[:, :, 70:], after[:, :, 70:])


def test_autocast_makes_fp32_tensors_bf16():
    tensors = parts(64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_faster(tensors[0])
        mixed = causal_attention(*tensors, 0.3)
    assert mixed.dtype == torch.bfloat16
    mixed.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.dtype == torch.float32 for tensor in tensors)


def test_only_a_training_step_in_bf16_of_some_length_uses_it():
    with torch.no_grad():
        assert not is_faster(parts(64)[0])
    assert not is_faster(parts(64, dtype=torch.float32)[0])
    assert not is_faster(torch.empty(1, 1, 1, 8, dtype=torch.bfloat16))
    assert not is_faster(torch.empty(1, 1, LONGEST + 1, 8, dtype=torch.bfloat16))
    assert is_faster(torch.empty(1, 1, LONGEST, 8, dtype=torch.bfloat16))
