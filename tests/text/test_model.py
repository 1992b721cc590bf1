"""The wrapper gives the numbers of the wrapped model, for every promised architecture.

Alone: pytest tests/text/test_model.py
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hypergen import testing as contract
from hypergen.errors import InputError
from hypergen.text.model import TextModel
from tests.text import tiny


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def pair(request):
    causal = tiny.causal(request.param)
    return TextModel(copy.deepcopy(causal)).eval(), causal


def test_contract(pair):
    contract.check_model(pair[0], tiny.tokens())


def test_logits_are_those_of_the_wrapped_model(pair):
    model, causal = pair
    with torch.no_grad():
        assert torch.equal(model(tiny.tokens()), causal(input_ids=tiny.tokens()).logits)
    assert (model.num_tokens, model.context_length) == (tiny.NUM_TOKENS, tiny.CONTEXT)
    assert not model._full_logits and model._cache_argument is not None  # none of these needs a fallback


def test_greedy_ids_are_those_of_transformers_generate(pair):
    model, causal = pair
    prompt = tiny.tokens(4, 9)
    ids = tiny.greedy_ids(model, prompt, 40)
    assert ids == tiny.transformers_ids(causal, prompt, 40)
    assert len({row[place] for row in ids for place in (-1, -5)}) > 1  # the ids do vary


def test_selecting_leaves_the_first_cache_usable(pair):
    model, _ = pair
    tokens = tiny.tokens(3, 20)
    _, kv_cache = model.prefill(tokens[:, :18], 2)
    chosen = model.select_rows(kv_cache, torch.tensor([2]))
    kept, _ = model.decode_step(tokens[:, 18], kv_cache)
    again, _ = model.decode_step(tokens[2:, 18], chosen)
    torch.testing.assert_close(kept[2:], again, rtol=1e-4, atol=1e-4)


def test_a_completion_longer_than_announced(pair):
    model, _ = pair
    tokens = tiny.tokens(2, 30)
    with torch.no_grad():
        expected = model(tokens)
        _, kv_cache = model.prefill(tokens[:, :5], 2)
        for position in range(5, 30):
            logits, kv_cache = model.decode_step(tokens[:, position], kv_cache)
    torch.testing.assert_close(logits, expected[:, -1], rtol=1e-4, atol=1e-4)


def test_boundary_leaves_gradients_to_the_upper_blocks_only(pair):
    model, _ = pair
    hidden = model.hidden_before(tiny.tokens(), 2).detach()
    for weight in model.parameters():
        weight.grad = None
    model.head(model.forward_from(hidden, 2)).square().mean().backward()
    for number, block in enumerate(model.blocks):
        has_gradient = [weight.grad is not None for weight in block.parameters()]
        assert all(has_gradient) if number >= 2 else not any(has_gradient)
    after = model.hidden(tiny.tokens())  # the blocks work as before
    torch.testing.assert_close(
        model.forward_from(model.hidden_before(tiny.tokens(), 2), 2), after, rtol=1e-4, atol=1e-4
    )


def test_too_many_last_layers_and_none():
    model = TextModel(tiny.causal("llama"))
    for number, reason in ((0, "there is no block to continue from"), (5, "the model has 4 blocks")):
        for refused in (model.hidden_before, model.forward_from):
            with pytest.raises(InputError, match=f"^--last-layers {number}: {reason}"):
                refused(tiny.tokens(), number)


def test_a_model_in_memory_has_one_stage():
    assert list(TextModel(tiny.causal("llama")).cache_stages(2)) == [2]


def test_an_architecture_whose_last_block_reads_the_embedding_cannot_be_cut():
    model, seen = TextModel(tiny.causal("llama")), {}
    model.blocks[0].register_forward_pre_hook(lambda _block, inputs: seen.update(embedded=inputs[0]))
    model.blocks[3].register_forward_hook(lambda _block, _inputs, hidden: hidden + seen["embedded"])
    for refused in (model.hidden_before, model.forward_from):
        with pytest.raises(InputError, match=r"^--last-layers 2: LlamaForCausalLM cannot run its last blocks alone$"):
            refused(tiny.tokens(2), 2)


def test_a_copy_decodes_on_its_own():
    model = TextModel(tiny.causal("llama")).eval()
    prompt = tiny.tokens(2, 9)
    before = tiny.greedy_ids(model, prompt, 9)  # packs the weights
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.mul_(1.5)
    assert tiny.greedy_ids(copied, prompt, 9) != before == tiny.greedy_ids(model, prompt, 9)


def test_construction_leaves_training_mode():
    model = TextModel(tiny.causal("llama"))
    assert model.training and model.causal.training
    with pytest.raises(InputError):
        TextModel(tiny.causal("roberta", vocab_size=60))


def test_native_steps_are_asked_for_at_prefill():
    """One decoding does not change another: the cache knows which way it goes."""
    model, prompt = TextModel(tiny.causal("llama")).eval(), tiny.tokens(2, 9)
    plain, native = (model.prefill(prompt, 4, native=way)[1] for way in (False, True))
    assert not plain.is_native
    following = tiny.tokens(2, 10)[:, 9]
    slow, _ = model.decode_step(following, plain)
    fast, _ = model.decode_step(following, native)
    torch.testing.assert_close(slow, fast, rtol=1e-4, atol=1e-4)


def test_an_unknown_head_falls_back_to_full_logits():
    causal = tiny.causal("bert", is_decoder=True)  # a dense layer, a norm and a bias come before and after its head
    model = TextModel(causal).eval()
    tokens = tiny.tokens()
    with torch.no_grad():
        assert model.hidden(tokens).shape[-1] == tiny.NUM_TOKENS
        torch.testing.assert_close(model(tokens), causal(input_ids=tokens).logits)
        contract.check_cache(model, tokens[:, :6], 6)


def test_an_architecture_without_cache_computes_the_prefix_again():
    config = AutoConfig.for_model("openai-gpt", n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=60)
    with torch.random.fork_rng(devices=[]):
        model = TextModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()
    tokens = tiny.tokens() % 60
    with torch.no_grad():
        contract.check_cache(model, tokens[:, :6], 6)
        contract.check_select(model, tokens)


def test_a_model_that_sees_later_tokens_is_refused():
    with pytest.raises(InputError, match="looks at later tokens"):
        TextModel(tiny.causal("roberta", vocab_size=60))
