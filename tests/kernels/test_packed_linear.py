"""A packed product is x @ weight + bias in every layout. Alone: pytest tests/kernels/test_packed_linear.py"""

import math

import pytest
import torch

from hypergen.kernels import packed_linear
from hypergen.kernels.packed_linear import PackedLinear

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def operands(width_in, width_out, dtype):
    draw = torch.Generator().manual_seed(width_in)
    weight = torch.randn(width_in, width_out, generator=draw) / math.sqrt(width_in)
    return weight.to(dtype), torch.randn(width_out, generator=draw).to(dtype), draw


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(24, 56), (56, 24), (32, 32)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows_to_prepack", [1, 4, math.inf])
def test_equals_the_plain_product(shape, with_bias, dtype, rows_to_prepack):
    weight, bias, draw = operands(*shape, dtype)
    product = PackedLinear(weight, bias if with_bias else None)
    if rows_to_prepack < product.rows_to_prepack < math.inf or rows_to_prepack == math.inf:
        product.rows_to_prepack = rows_to_prepack
    for count in (1, 3, 4, 40):
        rows = torch.randn(count, shape[0], generator=draw).to(dtype)
        expected = rows.double() @ weight.double() + (bias.double() if with_bias else 0.0)
        given = product(rows).double()
        assert (given - expected).abs().max() <= TOLERANCES[dtype] * expected.abs().max()


def test_the_longer_side_comes_last_in_memory():
    tall, wide = torch.randn(9, 4), torch.randn(4, 9)
    assert PackedLinear(tall).weight.T.is_contiguous() and PackedLinear(tall).weight.equal(tall)
    assert PackedLinear(wide.T.contiguous().T).weight.is_contiguous() and PackedLinear(wide).weight.equal(wide)


def test_the_prepacked_layout_is_made_when_it_is_first_needed():
    if not packed_linear._has_prepacking():
        pytest.skip("this build of torch has no such layout")
    product = PackedLinear(torch.randn(8, 8))
    product(torch.randn(1, 8))
    assert product.prepacked is None
    product(torch.randn(packed_linear.OTHER_ROWS_TO_PREPACK, 8))
    assert product.prepacked is not None


def test_without_onednn_the_plain_layout_serves_all_rows(monkeypatch):
    monkeypatch.setattr(packed_linear, "_has_prepacking", lambda: False)
    weight = torch.randn(8, 8)
    product, rows = PackedLinear(weight), torch.randn(64, 8)
    assert product(rows).equal(rows @ weight) and product.prepacked is None


def test_gradients_do_not_flow_into_a_packed_weight():
    weight = torch.randn(4, 4, requires_grad=True)
    product = PackedLinear(weight, torch.randn(4, requires_grad=True))
    assert not product.weight.requires_grad and not product.bias.requires_grad
