"""The decoding loop against its definition: recomputed prefixes, plain Python filters, transformers' own.

Alone: pytest tests/test_generation.py
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from hypergen import generation
from hypergen.citation import CitationIndex
from hypergen.config import DecodingConfig
from hypergen.errors import InputError, Interrupted
from hypergen.generation import generate
from hypergen.sampling import Filters, argmax, candidates, penalize_repetition, topk
from hypergen.strategies import STRATEGIES, filters
from tests.toy.model import ToyModel

NUM_TOKENS, CONTEXT = 18, 40
GREEDY = DecodingConfig()
SAMPLED = DecodingConfig(strategy="temperature", seed=3)
BOTH = pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


class Chain(nn.Module):
    """The next token's logits depend on the last token alone: one row each of a table (V', V)."""

    def __init__(self, table, context_length=1000):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(table))
        self.num_tokens, self.context_length, self.takes_padding = self.table.shape[1], context_length, False

    def start(self, prompt, max_new_tokens, pads=None):
        return self.step(prompt[:, -1], None)

    def step(self, token, state):
        return self.table[token], None

    def use_native(self, wanted):
        pass

    def select(self, state, rows):
        return None


class Watched(ToyModel):
    """Writes down how many rows and tokens each call sees."""

    def __init__(self, **shape):
        super().__init__(**shape)
        self.seen, self.kept = [], []

    def start(self, prompt, max_new_tokens, pads=None):
        self.seen.append(tuple(prompt.shape))
        return super().start(prompt, max_new_tokens)

    def step(self, token, state):
        self.seen.append((len(token), 1))
        return super().step(token, state)

    def select(self, state, rows):
        self.kept.append(len(rows))
        return super().select(state, rows)


def toy(kind=ToyModel, seed=0):
    return kind(num_tokens=NUM_TOKENS, context_length=CONTEXT, seed=seed).eval()


def random_prompts(count, length=4, seed=0):
    return torch.randint(NUM_TOKENS, (count, length), generator=torch.Generator().manual_seed(seed))


def random_logits(count=200, num_tokens=50, seed=0):
    """Flat and peaked rows."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, num_tokens, generator=draw) * torch.rand(count, 1, generator=draw) * 8


@torch.no_grad()
def recomputed(model, prompt, max_new_tokens):
    """Greedy completions (B, S) without any cache."""
    tokens = prompt
    for _ in range(max_new_tokens):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    return tokens[:, prompt.shape[1] :]


def cut(completions, end):
    """Lists of ids up to and with the first end token."""
    return [row[: row.index(end) + 1] if end in row else row for row in completions.tolist()]


# Greedy.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length", [1, 6])
def test_greedy_equals_argmax_of_recomputed_prefixes(seed, length):
    model, prompts = toy(seed=seed), random_prompts(5, length, seed)
    assert generate(model, prompts, 20).equal(recomputed(model, prompts, 20))


@pytest.mark.parametrize("temperature", [1e-9, 0.1, 0.7, 1.0, 3.0, 1e9])
def test_temperature_never_changes_greedy(temperature):
    model, prompts = toy(), random_prompts(5)
    changed = DecodingConfig(temperature=temperature, top_k=3, top_p=0.5, min_p=0.5, seed=9)
    assert generate(model, prompts, 20, changed).equal(generate(model, prompts, 20))


def test_greedy_takes_the_first_of_equals():
    assert generate(Chain(torch.zeros(5, 5)), torch.tensor([[3]]), 4).tolist() == [[0, 0, 0, 0]]


# Rows and batches.


@BOTH
@pytest.mark.parametrize("batch_size", [1, 2, 5, 7])
def test_batch_size_does_not_matter(config, batch_size):
    model, prompts = toy(), random_prompts(7)
    together = generate(model, prompts, 15, config, batch_size=32)
    assert generate(model, prompts, 15, config, batch_size=batch_size).equal(together)


@BOTH
def test_neighbours_do_not_matter(config):
    model, prompts = toy(), random_prompts(6)
    others = random_prompts(6, seed=1)
    others[2] = prompts[2]
    assert generate(model, others, 15, config)[2].equal(generate(model, prompts, 15, config)[2])
    ragged = [torch.tensor([1]), torch.tensor([2, 3]), prompts[2]]
    assert generate(model, ragged, 15, config)[2].equal(generate(model, prompts, 15, config)[2])


@BOTH
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_ragged_prompts_come_back_in_order(config, batch_size):
    model = toy()
    prompts = [random_prompts(1, length, seed)[0] for seed, length in enumerate([5, 1, 3, 5, 1, 8, 3, 3])]
    completions = generate(model, prompts, 10, config, batch_size=batch_size)
    for index, prompt in enumerate(prompts):
        padded = [torch.tensor([0])] * index + [prompt]  # the same row of a job of other prompts
        assert completions[index].equal(generate(model, padded, 10, config)[index])


def test_prompts_may_be_lists():
    model, prompts = toy(), random_prompts(2)
    assert generate(model, prompts.tolist(), 5).equal(generate(model, prompts, 5))


@BOTH
def test_the_prefix_is_never_recomputed(config):
    model = toy(Watched)
    generate(model, [*random_prompts(3, 6), *random_prompts(2, 2)], 9, config)
    assert model.seen == [(2, 2), *[(2, 1)] * 8, (3, 6), *[(3, 1)] * 8]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode(training):
    model = toy().train(training)
    modes = []
    model.blocks[0].register_forward_pre_hook(lambda block, _: modes.append(block.training))
    model.norm.register_forward_pre_hook(lambda norm, _: modes.append(norm.training))
    completions = generate(model, random_prompts(2), 3)
    assert not any(modes) and modes
    assert model.training == training
    assert not completions.requires_grad and completions.dtype == torch.long


# The end.


@pytest.mark.parametrize("interval", [1, generation.STEPS_BETWEEN_CHECKS])
@pytest.mark.parametrize("seed", range(4))
@BOTH
def test_rows_end_at_the_end_token_and_leave_the_batch(config, seed, interval, monkeypatch):
    monkeypatch.setattr(generation, "STEPS_BETWEEN_CHECKS", interval)
    model, prompts = toy(Watched, seed), random_prompts(16, seed=seed)
    whole = generate(model, prompts, 20, config)
    end = int(whole[:, 3:].flatten().bincount().argmax())  # in many rows, at several places
    expected = cut(whole, end)
    lengths = [len(row) for row in expected]
    assert len(set(lengths)) > 1
    model.seen.clear()
    completions = generate(model, prompts, 20, config, end_token=end)
    assert completions.shape == (16, max(lengths))
    assert completions.tolist() == [row + [end] * (max(lengths) - len(row)) for row in expected]
    assert model.kept == sorted(set(model.kept), reverse=True) and (model.kept or interval > 1)
    for step, (rows, _) in enumerate(model.seen[1:], 1):
        alive = sum(length > step for length in lengths)
        last_check = (step - 1) // interval * interval
        checked = sum(length > last_check + 1 for length in lengths)
        assert alive <= rows < max(checked / 0.75, checked + 1)


@BOTH
def test_steps_after_the_last_row_ended_leave_no_trace(config):
    table = torch.full((4, 4), -50.0)
    table[0, 1] = table[1, 2] = table[2, 3] = table[3, 0] = 50.0
    completions = generate(Chain(table), torch.tensor([[1], [2], [0]]), 100, config, end_token=3)
    assert completions.tolist() == [[2, 3, 3], [3, 3, 3], [1, 2, 3]]


@BOTH
def test_without_stopping_there_are_exactly_max_new_tokens(config):
    model, prompts = toy(), random_prompts(4)
    endless = replace(config, stop_at_end=False)
    whole = generate(model, prompts, 12, config)
    end = int(whole[0, 2])
    assert whole.shape == (4, 12)
    assert generate(model, prompts, 12, endless, end_token=end).equal(whole)


# Sampling.


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "greedy"])
def test_same_seed_same_ids(strategy):
    model, prompts = toy(), random_prompts(4)
    first, second, other = (
        generate(model, prompts, 15, DecodingConfig(strategy=strategy, temperature=2.0, seed=seed))
        for seed in (1, 1, 2)
    )
    assert first.equal(second)
    assert not first.equal(other)


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


# Filters.


def test_strategies_and_what_the_user_sets():
    assert filters(DecodingConfig(temperature=0.3)) is None
    assert filters(DecodingConfig(strategy="top-p")) == Filters(temperature=0.7, top_k=50, top_p=0.9)
    assert filters(DecodingConfig(strategy="top-p", top_p=0.4)) == Filters(temperature=0.7, top_k=50, top_p=0.4)
    assert filters(DecodingConfig(strategy="min-p", temperature=2.0)) == Filters(temperature=2.0, min_p=0.1)
    assert filters(DecodingConfig(strategy="min-p", min_p=0.0)) == Filters(min_p=0.0)
    assert filters(DecodingConfig(strategy="top-k", top_p=0.5)) == Filters(top_k=50, top_p=0.5)


def masked(logits, kept):
    """(B, V), -inf where the filters remove a token."""
    left, ids = candidates(logits, kept)
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


@pytest.mark.parametrize("num_tokens", [1, 50, 64, 128, 4096, 20_000, 20_001])
def test_searches_of_a_vocabulary(num_tokens):
    """As torch's own, the first of equals included."""
    logits = random_logits(9, num_tokens)
    assert argmax(logits).equal(logits.argmax(-1))
    assert argmax(logits.round()).equal(logits.round().argmax(-1))
    values, ids = topk(logits, min(5, num_tokens))
    expected = logits.topk(min(5, num_tokens))
    assert values.equal(expected.values) and ids.equal(expected.indices)


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


# Citations.


def grams(rows, length):
    return {tuple(row[place : place + length]) for row in rows for place in range(len(row) - length + 1)}


def quotes(prompts, completions, training, length=5):
    """How many n-grams that end inside a completion are in the training set."""
    known = grams(training.tolist(), length)
    count = 0
    for prompt, completion in zip(prompts.tolist(), completions.tolist(), strict=True):
        tail = prompt[max(0, len(prompt) - length + 1) :]
        count += len(grams([tail + completion], length) & known)
    return count


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", ["greedy", "temperature", "top-p", "top-k", "min-p"])
def test_no_training_5_gram_is_completed(strategy, seed):
    """The training set is what the model says anyway, so that it would quote at every step."""
    model, prompts = toy(seed=seed), random_prompts(6, seed=seed)
    free = DecodingConfig(strategy=strategy, seed=seed)
    config = replace(free, block_citations=5)
    said = generate(model, prompts, 30, free)
    training = torch.cat([prompts, said], 1)
    assert quotes(prompts, said, training) > 100
    for batch_size in (2, 32):
        completions = generate(
            model, prompts, 30, config, citations=CitationIndex(training, 5), batch_size=batch_size, end_token=0
        )
        assert quotes(prompts, completions[:, :1], training) == 0  # the prompt is part of the window
        ended = [torch.tensor(row) for row in cut(completions, 0)]
        assert sum(quotes(prompts[i : i + 1], row[None], training) for i, row in enumerate(ended)) == 0


def test_blocking_without_training_tokens_is_refused():
    with pytest.raises(InputError, match=r"^--block-citations 5: the training tokens are needed"):
        generate(toy(), random_prompts(1), 3, DecodingConfig(block_citations=5))


# Refusals.


@pytest.mark.parametrize(
    "prompts, max_new_tokens, message",
    [
        ([], 3, "no prompts: at least one is needed"),
        (torch.zeros(0, 4, dtype=torch.long), 3, "no prompts: at least one is needed"),
        ([[1], []], 3, "prompt 2: has no tokens"),
        ([[1], [1] * 38], 3, "prompt 2: 38 tokens and 3 new ones exceed the context of 40"),
        ([[1]], 40, "prompt 1: 1 tokens and 40 new ones exceed the context of 40"),
        ([[1]], 0, "--max-new-tokens 0: must be 1 or more"),
        ([[1]], -1, "--max-new-tokens -1: must be 1 or more"),
    ],
)
def test_refused_before_the_model_runs(prompts, max_new_tokens, message):
    model = toy(Watched)
    with pytest.raises(InputError) as error:
        generate(model, prompts, max_new_tokens)
    assert str(error.value) == message
    assert not model.seen


def test_the_whole_context_can_be_used():
    assert generate(toy(), random_prompts(1, CONTEXT - 1), 1).shape == (1, 1)


def test_a_signal_is_polled_at_every_token():
    polls = []

    def check_stop():
        polls.append(1)
        if len(polls) == 4:
            raise Interrupted(2, "stopped")

    model = toy(Watched)
    with pytest.raises(Interrupted):
        generate(model, random_prompts(2), 9, check_stop=check_stop)
    assert len(model.seen) == 4
