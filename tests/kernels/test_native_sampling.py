"""Native sampling against torch's: the same ids but for rounding, and what numbers at the edges do.

Alone: pytest tests/kernels/test_native_sampling.py
"""

from dataclasses import asdict

import pytest
import torch

from hypergen.decoding.sampling import Filters, candidates, sample
from hypergen.kernels import native_library
from hypergen.kernels.native_sampling import sample_tokens_native
from tests.kernels.packed import needs_compiler

FILTERS = [
    Filters(top_p=0.9),
    Filters(top_p=0.999),
    Filters(top_p=1e-6),
    Filters(top_k=1),
    Filters(top_k=50),
    Filters(top_k=10_000),
    Filters(min_p=0.05),
    Filters(min_p=1.0),
    Filters(temperature=0.7, top_k=50, top_p=0.9),
    Filters(temperature=3.0, top_p=0.95, min_p=1e-4),
    Filters(temperature=1e-35, top_p=0.9),
]


def native(logits, uniform, filters):
    return sample_tokens_native(logits, uniform, **asdict(filters))


@needs_compiler
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ids_are_those_of_torch(filters, spread, dtype):
    """But for rounding where a number falls between two tokens, and for the order of equals, of which bf16 has many."""
    seeded = torch.Generator().manual_seed(0)
    logits = (torch.randn(200, 1000, generator=seeded) * spread).to(dtype)
    logits[:, ::3] = -torch.inf
    uniform = torch.rand(200, generator=seeded, dtype=torch.float64)
    left, ids = candidates(logits.float(), **filters.keywords)
    expected = ids.gather(1, sample(left, uniform)[:, None])
    given = native(logits, uniform, filters)[:, None]
    if dtype == torch.float32:
        assert (given == expected).double().mean() >= 0.98
    assert (logits.gather(1, given) == logits.gather(1, expected)).double().mean() >= 0.98
    assert (logits.gather(1, given) > -torch.inf).all()


@needs_compiler
def test_the_whole_range_of_numbers_draws_what_is_kept():
    logits = torch.tensor([[0.0, 1.0, 1.0, -5.0, -torch.inf]]).expand(3, -1)
    uniform = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)
    assert native(logits, uniform, Filters(top_p=0.5)).tolist() == [1, 2, 2]
    assert native(logits, uniform, Filters(top_k=3)).tolist() == [1, 2, 0]


@needs_compiler
def test_nan_logits_draw_a_token():
    logits, uniform = torch.full((2, 9), torch.nan), torch.tensor([0.1, 0.9], dtype=torch.float64)
    assert native(logits, uniform, Filters(top_p=0.5)).tolist() == [0, 0]


def test_without_native_code_there_are_no_ids(empty_cache, monkeypatch):
    monkeypatch.setattr(native_library.sys, "platform", "darwin")
    assert native(torch.zeros(1, 5), torch.zeros(1, dtype=torch.float64), Filters(top_p=0.5)) is None


def test_every_filter_has_to_be_named():
    """One more than the kernel knows, or one less, is an error before anything runs."""
    logits, uniform, known = torch.zeros(1, 5), torch.zeros(1, dtype=torch.float64), asdict(Filters(top_p=0.5))
    with pytest.raises(TypeError, match="typical_p"):
        sample_tokens_native(logits, uniform, **known, typical_p=0.9)
    for name in known:
        with pytest.raises(TypeError, match=name):
            sample_tokens_native(logits, uniform, **{key: known[key] for key in known if key != name})
