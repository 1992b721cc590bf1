"""No key is kept that a longer sequence would have turned otherwise. Alone: pytest tests/text/test_rotary.py"""

from __future__ import annotations

import copy

import pytest
import torch

from hypergen import testing as contract
from hypergen.text.model import TextModel
from hypergen.text.rotary import RotaryLengths, rotary_lengths
from tests.text import tiny

BORDER, CONTEXT = 16, 24
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
CHANGING = {
    "longrope": ("llama", {"rope_parameters": {**LONG, "original_max_position_embeddings": BORDER}}),
    "phi3": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": BORDER}),
    "dynamic": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": CONTEXT},
    ),
}


def causal_of(name):
    kind, changes = CHANGING[name]
    return tiny.causal(kind, **copy.deepcopy(changes))


@torch.no_grad()
def uncached_ids(causal, prompt, count):
    """Greedy ids with the whole prefix computed at each step, always longer than before."""
    tokens = prompt
    for _ in range(count):
        token = causal(input_ids=tokens, use_cache=False).logits[:, -1].argmax(-1)
        tokens = torch.cat([tokens, token[:, None]], 1)
    return tokens[:, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("length", [1, 9, BORDER - 1, BORDER, BORDER + 1, CONTEXT, CONTEXT + 1, 30])
@pytest.mark.parametrize("name", CHANGING)
def test_cached_ids_are_those_of_the_uncached_model_across_the_change(name, length):
    model, prompt = TextModel(causal_of(name)).eval(), tiny.tokens(3, length)
    assert not model.supports_left_padding
    expected = uncached_ids(causal_of(name), prompt, 30)
    assert tiny.greedy_ids(model, prompt, 30) == expected
    assert tiny.greedy_ids(model, prompt, 30) == expected  # the first decoding left nothing behind


@pytest.mark.parametrize("name", CHANGING)
def test_the_change_matters_here(name):
    """Keys of the shorter sequence would give other ids."""
    model, prompt = TextModel(causal_of(name)).eval(), tiny.tokens(3, 9)
    model._rotary = RotaryLengths()
    assert tiny.greedy_ids(model, prompt, 30) != uncached_ids(causal_of(name), prompt, 30)


@pytest.mark.parametrize("name", CHANGING)
def test_contract_with_the_change_on_the_way(name):
    contract.check_model(TextModel(causal_of(name)), tiny.tokens(3, CONTEXT))


def test_rows_are_kept_across_the_change():
    model, tokens = TextModel(causal_of("longrope")).eval(), tiny.tokens(3, BORDER + 4)
    _, kv_cache = model.prefill(tokens[:, : BORDER - 1], 4)
    kv_cache = model.select_rows(kv_cache, torch.tensor([2, 0, 0]))
    rows = tokens[torch.tensor([2, 0, 0])]
    with torch.no_grad():
        for place in range(BORDER - 1, BORDER + 3):
            logits, kv_cache = model.decode_step(rows[:, place], kv_cache)
            torch.testing.assert_close(logits, model(rows[:, : place + 1])[:, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dynamic_frequencies_are_those_of_the_sequence_not_of_the_longest_so_far():
    fresh, used = (TextModel(causal_of("dynamic")).eval() for _ in range(2))
    tokens = tiny.tokens(3, 40)
    used(tokens)
    for length in (CONTEXT + 2, CONTEXT, 5):
        torch.testing.assert_close(used(tokens[:, :length]), fresh(tokens[:, :length]), rtol=0, atol=0)


def test_lengths_are_read_from_the_configuration():
    assert rotary_lengths(causal_of("longrope").config) == RotaryLengths((BORDER,))
    assert rotary_lengths(causal_of("phi3").config) == RotaryLengths((BORDER,))
    assert rotary_lengths(causal_of("dynamic").config) == RotaryLengths((), CONTEXT)
    for kind in tiny.ARCHITECTURES:
        assert not rotary_lengths(tiny.config(kind)).change
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}
    assert not rotary_lengths(tiny.config("llama", rope_parameters=yarn)).change


def test_an_unknown_type_counts_as_one_that_changes_and_layers_may_have_their_own():
    config = tiny.config("llama")
    config.rope_parameters = {
        "full_attention": {"rope_type": "invented", "original_max_position_embeddings": 7},
        "sliding_attention": {"rope_type": "default"},
    }
    assert rotary_lengths(config) == RotaryLengths((7,))


def test_what_is_changed_by_a_further_token():
    lengths = RotaryLengths((4, 9), last=12)
    assert [lengths.changed(one, one + 1) for one in range(3, 13)] == [
        *(False, True, False, False, False, False, True, False, False, True)
    ]
    assert lengths.changed(3, 5) and not lengths.changed(5, 9)
    assert lengths.are_new(13) and not lengths.are_new(12) and not RotaryLengths().change
