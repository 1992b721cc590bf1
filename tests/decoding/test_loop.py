"""The decoding loop against its definition: recomputed prefixes, rows that end, batches that do not matter.

Alone: pytest tests/decoding/test_loop.py
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding import loop
from hypergen.decoding.loop import bf16_copy, generate
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.errors import InputError, Interrupted
from tests.decoding.models import BOTH, CONTEXT, Chain, Watched, cut, random_prompts, toy
from tests.training import plans


@torch.no_grad()
def recomputed(model, prompt, max_new_tokens):
    """Greedy completions (B, S) without any cache."""
    tokens = prompt
    for _ in range(max_new_tokens):
        tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    return tokens[:, prompt.shape[1] :]


# Greedy.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length", [1, 6])
def test_greedy_equals_argmax_of_recomputed_prefixes(seed, length):
    model, prompts = toy(seed=seed), random_prompts(5, length, seed)
    assert generate(model, prompts, 20).equal(recomputed(model, prompts, 20))


def test_a_seed_never_changes_greedy():
    model, prompts = toy(), random_prompts(5)
    assert generate(model, prompts, 20, DecodingConfig(seed=9)).equal(generate(model, prompts, 20))


@BOTH
def test_tokens_are_shown_as_they_come(config):
    """Every token once, in batches; what is shown last is what is returned."""
    model, prompts, seen = toy(), random_prompts(3), []
    ids = generate(model, prompts, 6, config, on_tokens=lambda completions: seen.append(completions.clone()))
    assert [tuple(one.shape) for one in seen] == [(3, length) for length in range(1, 7)]
    assert all(one.equal(ids[:, : one.shape[1]]) for one in seen)
    assert generate(model, prompts, 6, config).equal(ids)


def test_a_search_shows_nothing_on_the_way():
    seen = []
    generate(toy(), random_prompts(2), 4, DecodingConfig(strategy="beam"), on_tokens=seen.append)
    assert seen == []


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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_the_model_is_left_in_its_mode_when_decoding_is_stopped(training, strategy):
    model = toy().train(training)

    def check_stop():
        assert not model.training
        raise Interrupted(2, "stopped")

    with pytest.raises(Interrupted):
        generate(model, random_prompts(2), 9, DecodingConfig(strategy=strategy), check_stop=check_stop)
    assert model.training == training


@pytest.mark.parametrize("strategy", ["greedy", "top-p", "fsd", "beam"])
def test_native_steps_are_asked_for_where_the_options_say_so(strategy):
    model = toy(Watched)
    for native in (True, False):
        generate(model, random_prompts(2), 3, DecodingConfig(strategy=strategy, native=native))
    assert model.native == [True, False]


def test_equal_prompts_are_computed_once():
    model, prompt = toy(Watched), random_prompts(1)
    together = generate(model, prompt.repeat(5, 1), 6)
    assert model.seen == [(1, 4), *[(5, 1)] * 5] and model.kept == [5]
    assert together.equal(generate(model, prompt, 6).repeat(5, 1))


class Padded(Watched):
    """Takes padding, and ignores none of it: only the loop's bookkeeping is looked at."""

    supports_left_padding = True

    def prefill(self, prompt, max_new_tokens, num_padding=None, *, native=False):
        self.kept.append(None if num_padding is None else num_padding.tolist())
        return super().prefill(prompt, max_new_tokens, native=native)


@pytest.mark.parametrize("strategy, num_prefills", [("greedy", 1), ("top-k", 1), ("fsd", 3), ("beam", 3)])
def test_lengths_are_mixed_where_model_and_strategy_allow_padding(strategy, num_prefills):
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([5, 6])]
    model = toy(Padded)
    generate(model, prompts, 3, DecodingConfig(strategy=strategy, num_beams=2 if strategy == "beam" else None))
    assert len(model.native) == num_prefills
    if num_prefills == 1:
        assert model.seen[0] == (3, 3) and model.kept[0] == [2, 1, 0]
    plain = toy(Watched)
    generate(plain, prompts, 3, DecodingConfig(strategy=strategy))
    assert len(plain.native) == 3


def test_a_store_gets_each_batch_and_what_it_returns_is_the_result():
    model, prompts, batches = toy(), random_prompts(5), []
    whole = generate(model, prompts, 6)

    def batch_store(batch, decode):
        batches.append(batch)
        return torch.full((len(batch), 6), 17) if batch[0] else decode()

    given = generate(model, prompts, 6, batch_size=2, batch_store=batch_store)
    assert batches == [[0, 1], [2, 3], [4]]
    assert given[:2].equal(whole[:2]) and (given[2:] == 17).all()


# The end.


@pytest.mark.parametrize("interval", [1, loop.STEPS_BETWEEN_CHECKS])
@pytest.mark.parametrize("seed", range(4))
@BOTH
def test_rows_end_at_the_end_token_and_leave_the_batch(config, seed, interval, monkeypatch):
    monkeypatch.setattr(loop, "STEPS_BETWEEN_CHECKS", interval)
    model, prompts = toy(Watched, seed), random_prompts(16, seed=seed)
    whole = generate(model, prompts, 20, config)
    end = int(whole[:, 3:].flatten().bincount().argmax())  # in many rows, at several places
    expected = cut(whole, end)
    lengths = [len(row) for row in expected]
    assert len(set(lengths)) > 1
    model.seen.clear()
    completions = generate(model, prompts, 20, config, end_tokens=(end,))
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
    completions = generate(Chain(table), torch.tensor([[1], [2], [0]]), 100, config, end_tokens=(3,))
    assert completions.tolist() == [[2, 3, 3], [3, 3, 3], [1, 2, 3]]


@BOTH
def test_without_stopping_there_are_exactly_max_new_tokens(config):
    model, prompts = toy(), random_prompts(4)
    endless = replace(config, stop_at_end=False)
    whole = generate(model, prompts, 12, config)
    end = int(whole[0, 2])
    assert whole.shape == (4, 12)
    assert generate(model, prompts, 12, endless, end_tokens=(end,)).equal(whole)


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
            model, prompts, 30, config, citations=CitationIndex(training, 5), batch_size=batch_size, end_tokens=(0,)
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


# In bf16.


def test_a_bf16_copy_leaves_the_model_and_its_buffers_as_they_were():
    model = plans.toy()
    model.register_buffer("frequencies", torch.arange(3.0))
    before = [weight.clone() for weight in model.parameters()]
    copied = bf16_copy(model)
    assert {weight.dtype for weight in copied.parameters()} == {torch.bfloat16}
    assert copied.frequencies.dtype == torch.float32
    assert all(weight.equal(old) for weight, old in zip(model.parameters(), before, strict=True))


def test_tied_weights_stay_tied_in_the_copy():
    copied = bf16_copy(plans.toy(plans.TiedToy))
    assert copied.output.weight is copied.embedding.weight


def test_decoding_in_bf16_is_greedy_on_the_copy():
    model = plans.toy().eval()
    prompts = plans.sequences(4)[:, :3]
    ids = generate(model, prompts, 6, DecodingConfig(precision="bf16"))
    assert ids.equal(generate(bf16_copy(model), prompts, 6))


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_progress_moves_with_every_step_of_a_batch(strategy, monkeypatch):
    """All parts together are the rows and the tokens, however early a batch ends."""
    counts, found = [], []
    advance = lambda count, *, tokens: (counts.append(count), found.append(tokens))  # noqa: E731
    monkeypatch.setattr(loop, "track", lambda label, total: nullcontext(advance))
    model, prompts = toy(), random_prompts(5)
    ids = generate(model, prompts, 8, DecodingConfig(strategy=strategy), batch_size=3)
    assert len(counts) == 2 * 8 and sum(counts) == pytest.approx(5) and sum(found) == ids.numel() == 40
    assert counts[0] == 3 / 8
    counts.clear(), found.clear()
    end = int(ids[0, 1])
    ids = generate(model, prompts[:1].repeat(3, 1), 8, DecodingConfig(strategy=strategy), end_tokens=(end,))
    assert sum(counts) == pytest.approx(3) and sum(found) == ids.numel()
    counts.clear(), found.clear()
    stored = torch.zeros(5, 8, dtype=torch.long)
    generate(model, prompts, 8, DecodingConfig(strategy=strategy), batch_store=lambda batch, decode: stored[batch])
    assert counts == [5] and found == [40]
