"""The table of strategies, and the step that they share. Alone: pytest tests/decoding/test_strategies.py"""

from typing import get_args

import pytest
import torch

from hypergen import config
from hypergen.config import DecodingConfig, StrategyName
from hypergen.decoding.loop import generate
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.decoding.sampling import Filters
from hypergen.decoding.strategies import STRATEGIES, Strategy, TokenSelector, filters
from tests.decoding.models import Chain, random_logits, random_prompts, toy

SAMPLING = [name for name, strategy in STRATEGIES.items() if strategy.filters is not None]


def test_every_name_has_an_entry_and_departs_from_greedy_in_one_way():
    assert set(STRATEGIES) == set(get_args(StrategyName))
    assert STRATEGIES["greedy"] == Strategy()
    for name, strategy in STRATEGIES.items():
        ways = [strategy.filters, strategy.rule, strategy.search]
        assert sum(way is not None for way in ways) == (name != "greedy")


def test_config_knows_which_strategies_sample():
    assert tuple(SAMPLING) == config.SAMPLING


def test_strategies_and_what_the_user_sets():
    assert filters(DecodingConfig()) is None
    assert filters(DecodingConfig(strategy="top-p")) == Filters(temperature=0.7, top_k=50, top_p=0.9)
    assert filters(DecodingConfig(strategy="top-p", top_p=0.4)) == Filters(temperature=0.7, top_k=50, top_p=0.4)
    assert filters(DecodingConfig(strategy="min-p", temperature=2.0)) == Filters(temperature=2.0, min_p=0.1)
    assert filters(DecodingConfig(strategy="min-p", min_p=0.0)) == Filters(min_p=0.0)
    assert filters(DecodingConfig(strategy="top-k", top_p=0.5)) == Filters(top_k=50, top_p=0.5)


@pytest.mark.parametrize("strategy", SAMPLING)
def test_same_seed_same_ids(strategy):
    model, prompts = toy(), random_prompts(4)
    first, second, other = (
        generate(model, prompts, 15, DecodingConfig(strategy=strategy, temperature=2.0, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first.equal(second)
    assert not first.equal(other)


def test_a_rule_is_an_entry_of_the_table(monkeypatch):
    """Nothing else of the library has to know it: the least likely of the tokens that are allowed."""
    monkeypatch.setitem(STRATEGIES, "greedy", Strategy(rule=lambda config: lambda logits, context: logits.argmin(-1)))
    logits = torch.tensor([3.0, -1.0, 2.0, 0.0]).repeat(4, 1)
    assert generate(Chain(logits), torch.tensor([[0], [2]]), 3).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_search_is_an_entry_of_the_table(monkeypatch):
    """It gets prompts of one length, and scores without citations."""
    seen = []

    def search(decoder, prompts, max_new_tokens, *, config, score, end_tokens, check_stop):
        logits, _ = decoder.prefill(prompts, max_new_tokens, native=config.native)
        seen.append((tuple(prompts.shape), score(logits, prompts), end_tokens))
        return prompts.new_full((len(prompts), 2), 5)

    monkeypatch.setitem(STRATEGIES, "beam", Strategy(search=search, allows_padding=False))
    citations = CitationIndex(torch.tensor([[0, 3]]), 2)
    config = DecodingConfig(strategy="beam", block_citations=2)
    prompts = [torch.tensor([0]), torch.tensor([1, 0])]
    model = Chain(torch.zeros(6, 6))
    given = generate(model, prompts, 4, config, citations=citations, end_tokens=[1])
    assert given.tolist() == [[5, 5], [5, 5]]
    assert [(shape, end) for shape, _, end in seen] == [((1, 1), (1,)), ((1, 2), (1,))]
    for _, scores, _ in seen:
        assert scores[0].isinf().tolist() == [token == 3 for token in range(6)]
        torch.testing.assert_close(scores[0, [0, 1, 2, 4, 5]], torch.full((5,), 1 / 6).log())


@pytest.mark.parametrize("name", SAMPLING)
def test_rows_keep_their_own_generators_when_others_leave(name):
    """The numbers of a row depend on its place in the whole job alone."""
    config, logits = DecodingConfig(strategy=name, temperature=2.0, seed=1), random_logits(4)
    context = torch.zeros(4, 1, dtype=torch.long)
    together, apart = (TokenSelector(config, None, [7, 8, 9, 10]) for _ in range(2))
    first, rows = together(logits, context), torch.tensor([1, 3])
    assert apart(logits, context).equal(first)
    apart.select_rows(rows)
    assert apart(logits[rows], context[rows]).equal(together(logits, context)[rows])
    alone = TokenSelector(config, None, [9])
    assert alone(logits[2:3], context[:1]).equal(first[2:3])
