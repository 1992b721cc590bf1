"""Sampling against definitions in plain Python, transformers' own filters, and the distribution itself.

Alone: pytest tests/decoding/test_sampling.py
"""

import math
from dataclasses import dataclass

import pytest
import torch
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from hypergen.config import DecodingConfig
from hypergen.decoding import sampling
from hypergen.decoding.loop import generate
from hypergen.decoding.sampling import Filters, candidates, penalize_repetition, sample_tokens
from hypergen.runtime.console import warn_once
from hypergen.runtime.seeding import seeded_generator
from tests.decoding.models import SAMPLED, Chain, random_logits, random_prompts, toy

# The draw.


def test_equal_prompts_get_different_samples():
    completions = generate(toy(), random_prompts(1).repeat(8, 1), 15, SAMPLED)
    assert len(completions.unique(dim=0)) == 8


def test_sampling_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    generate(toy(), random_prompts(2), 5, SAMPLED)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(
    "config, kept",
    [
        (DecodingConfig(strategy="temperature", seed=1), 8),
        (DecodingConfig(strategy="temperature", temperature=0.5, seed=2), 8),
        (DecodingConfig(strategy="top-k", top_k=3, seed=3), 3),
    ],
)
def test_frequencies_match_the_distribution(config, kept):
    """Chi-square of 20,000 draws, over rows and over steps, at a thousandth."""
    logits = torch.tensor([1.0, -0.5, 0.2, 2.0, -2.0, 0.0, 1.5, -1.0])
    model = Chain(logits.repeat(8, 1))
    drawn = generate(model, torch.zeros(2000, 1, dtype=torch.long), 10, config, batch_size=2000)
    top = logits.topk(kept)
    expected = (top.values.double() / (config.temperature or 1.0)).softmax(0) * drawn.numel()
    counts = drawn.flatten().bincount(minlength=8)
    assert counts[top.indices].sum() == drawn.numel()
    statistic = ((counts[top.indices] - expected) ** 2 / expected).sum()
    assert statistic < {8: 24.32, 3: 13.82}[kept]


def test_a_token_without_probability_is_never_drawn():
    logits = torch.full((6, 6), -torch.inf)
    logits[:, [1, 4]] = 0.0
    drawn = generate(Chain(logits), torch.zeros(500, 1, dtype=torch.long), 8, SAMPLED, batch_size=500)
    assert drawn.unique().tolist() == [1, 4]


@pytest.mark.parametrize("number, expected", [(0.0, 1), (1 - 2**-53, 4)])
def test_the_smallest_and_the_largest_number_draw_a_possible_token(number, expected, monkeypatch):
    """However the probabilities of the rows are rounded."""
    logits = torch.full((300, 6), -torch.inf)
    logits[:, [1, 2, 4]] = random_logits(300, 3)
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.full((size,), number, dtype=torch.float64))
    drawn = generate(Chain(logits), torch.arange(300)[:, None], 1, SAMPLED)
    assert drawn.unique().tolist() == [expected]


@pytest.mark.parametrize("temperature", [1e-6, 1e-39, 1e-300])
def test_a_vanishing_temperature_is_greedy(temperature):
    """No logit overflows on the way."""
    model, prompts = toy(), random_prompts(4)
    cold = DecodingConfig(strategy="temperature", temperature=temperature)
    assert generate(model, prompts, 12, cold).equal(generate(model, prompts, 12))


# In native code.


def generators(count):
    return [seeded_generator(0, "row", row) for row in range(count)]


@dataclass(frozen=True, kw_only=True)
class MoreFilters(Filters):
    """A filter that native code does not have."""

    typical_p: float | None = None


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("given", [{"typical_p": 0.9}, {"typical_p": 0.9, "top_p": 0.9}, {"top_p": 0.9}])
def test_a_filter_that_is_not_applied_is_an_error_and_not_a_wrong_answer(given, native):
    with pytest.raises(TypeError, match="typical_p"):
        sample_tokens(random_logits(3), MoreFilters(**given), generators(3), native=native)


def test_a_filter_that_only_torch_has_is_never_left_to_native_code(monkeypatch):
    monkeypatch.setattr(sampling, "TORCH_ONLY", frozenset({"typical_p"}))
    assert MoreFilters(typical_p=0.9).native_keywords is None
    assert MoreFilters(top_p=0.9).native_keywords == Filters(top_p=0.9).native_keywords
    assert not MoreFilters(typical_p=0.9).keep_everything and MoreFilters(top_p=1.0, min_p=0.0).keep_everything


def test_every_filter_reaches_native_code(monkeypatch):
    given = []
    monkeypatch.setattr(
        sampling, "sample_tokens_native", lambda logits, uniform, **options: given.append(options) or torch.ones(3)
    )
    filters = Filters(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1)
    assert sample_tokens(random_logits(3), filters, generators(3), native=True).tolist() == [1, 1, 1]
    assert given == [{"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1}]


@pytest.mark.parametrize("filters, native", [(Filters(temperature=2.0), True), (Filters(top_p=0.9), False)])
def test_native_code_is_for_filters_and_only_where_it_is_asked_for(filters, native, monkeypatch):
    monkeypatch.setattr(sampling, "sample_tokens_native", lambda *_, **__: pytest.fail("called"))
    assert sample_tokens(random_logits(3), filters, generators(3), native=native).shape == (3,)


@pytest.mark.parametrize("reason", ["there is no compiler", None])
def test_without_native_code_torch_samples_and_a_reason_is_told_once(reason, monkeypatch, capsys):
    warn_once.cache_clear()
    monkeypatch.setattr(sampling, "sample_tokens_native", lambda *_, **__: None)
    monkeypatch.setattr(sampling, "why_unavailable", lambda: reason)
    filters, expected = Filters(top_p=0.9), sample_tokens(random_logits(3), Filters(top_p=0.9), generators(3))
    for _ in range(2):
        assert sample_tokens(random_logits(3), filters, generators(3), native=True).equal(expected)
    told = f"hypergen: native decoding is unavailable ({reason}); using torch instead\n" if reason else ""
    assert capsys.readouterr().err == told


# Filters.


def masked(logits, kept):
    """(B, V), -inf where the filters remove a token."""
    left, ids = candidates(logits, **kept.keywords)
    return torch.full_like(logits, -torch.inf).scatter(1, ids, left)


def by_definition(row, kept):
    """The ids that the filters leave of one row of logits, from the definitions."""
    scaled = [value / kept.temperature for value in row]
    ids = sorted(range(len(row)), key=lambda token: -scaled[token])[: kept.top_k]
    for name in ("top_p", "min_p"):
        total = math.fsum(math.exp(scaled[token]) for token in ids)
        shares = {token: math.exp(scaled[token]) / total for token in ids}
        if name == "top_p" and kept.top_p not in (None, 1.0):  # all of them, however the shares are rounded
            before = 0.0
            ids = [token for token in ids if (before := before + shares[token]) - shares[token] < kept.top_p]
        if name == "min_p" and kept.min_p is not None:
            ids = [token for token in ids if shares[token] >= kept.min_p * shares[ids[0]]]
    return sorted(ids)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.9])
@pytest.mark.parametrize("top_k", [None, 1, 7, 50, 99])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("min_p", [None, 0.0, 0.03, 1.0])
def test_filters_keep_what_their_definitions_say(temperature, top_k, top_p, min_p):
    kept, logits = Filters(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p), random_logits(20)
    filtered = masked(logits, kept)
    assert [row.isfinite().nonzero().flatten().tolist() for row in filtered] == [
        by_definition(row, kept) for row in logits.double().tolist()
    ]
    expected = (logits / temperature).masked_fill(~filtered.isfinite(), -torch.inf)
    torch.testing.assert_close(filtered.softmax(-1), expected.softmax(-1))


@pytest.mark.parametrize(
    "kept, warper",
    [
        *((Filters(top_k=k), TopKLogitsWarper(k)) for k in (1, 5, 50)),
        *((Filters(top_p=p), TopPLogitsWarper(p)) for p in (0.1, 0.5, 0.9, 0.999)),
        *((Filters(min_p=p), MinPLogitsWarper(p)) for p in (0.01, 0.1, 0.9)),
    ],
    ids=str,
)
def test_filters_agree_with_transformers(kept, warper):
    logits = random_logits()
    expected = warper(None, logits.clone())
    filtered = masked(logits, kept)
    assert filtered.isfinite().equal(expected.isfinite())
    torch.testing.assert_close(filtered.softmax(-1), expected.softmax(-1))


@pytest.mark.parametrize("kept", [Filters(top_p=0.9), Filters(min_p=0.2), Filters(top_p=0.9, min_p=0.2)], ids=str)
@pytest.mark.parametrize("spread", [0.1, 1.0, 9.0])
def test_flat_distributions_over_many_tokens(kept, spread):
    """More tokens are left than those looked at first, or fewer."""
    logits = random_logits(3, 3000) * spread
    filtered = masked(logits, kept)
    assert [row.isfinite().nonzero().flatten().tolist() for row in filtered] == [
        by_definition(row, kept) for row in logits.double().tolist()
    ]


def test_the_nucleus_is_the_smallest_set():
    """Exactly half is enough for one half, and the most likely token always stays."""
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [3.0, 0.0, 0.0]])
    assert masked(logits, Filters(top_p=0.5)).isfinite().sum(1).tolist() == [1, 1]
    assert masked(logits, Filters(top_p=1e-12)).isfinite().sum(1).tolist() == [1, 1]


def test_filters_respect_what_is_blocked_already():
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0]]).masked_fill(torch.tensor([[True, False, False, False]]), -torch.inf)
    assert masked(logits, Filters(top_k=2)).isfinite().tolist() == [[False, True, True, False]]
    assert masked(logits, Filters(top_p=0.5)).isfinite().tolist() == [[False, True, False, False]]


# Repetition penalty.


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_penalty_agrees_with_transformers(penalty):
    logits, context = random_logits(30), torch.randint(50, (30, 20), generator=torch.Generator().manual_seed(1))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(context, logits.clone())
    assert penalize_repetition(logits, context, penalty).equal(expected)


def test_penalty_ignores_ids_without_a_logit():
    """A picture's start token is the id after the last code."""
    logits, context = random_logits(4, 10), torch.tensor([[10, 1, 2], [10, 9, 9], [12, 0, 0], [10, 10, 11]])
    penalized = penalize_repetition(logits, context, 2.0)
    for row, ids in enumerate([[1, 2], [9], [0], []]):
        alone = torch.tensor([ids], dtype=torch.long)
        assert penalized[row].equal(penalize_repetition(logits[row : row + 1], alone, 2.0)[0])
    assert penalized[3].equal(logits[3])


def test_penalty_counts_prompt_and_completion():
    """Constant logits fall below the next one once their token was used; id 4, the start, has none."""
    table = torch.tensor([1.3, 1.2, 1.1, 1.0]).repeat(5, 1)
    assert generate(Chain(table), torch.tensor([[4, 1]]), 3, DecodingConfig(repetition_penalty=2.0)).tolist() == [
        [0, 2, 3]
    ]
    assert generate(Chain(table), torch.tensor([[4, 1]]), 3).tolist() == [[0, 0, 0]]
