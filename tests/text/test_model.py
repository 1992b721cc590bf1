"""pytest tests/text/test_model.py: the wrapper gives what the wrapped model gives, for every promised architecture."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from hypergen import lean
from hypergen.errors import InputError
from hypergen.text.model import TextModel
from tests import contract
from tests.text import tiny


def _tokens(rows: int = 3, length: int = 24) -> torch.Tensor:
    return torch.randint(0, tiny.NUM_TOKENS, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES)
def pair(request):
    causal = tiny.causal(request.param)
    return TextModel(copy.deepcopy(causal)).eval(), causal


def test_contract(pair):
    contract.check_model(pair[0], _tokens())


def test_contract_of_a_cache_beyond_the_processors(pair, monkeypatch):
    monkeypatch.setattr(lean, "LARGE_CACHE", 0)
    monkeypatch.setattr(lean, "RECENT", 5)  # so that several move within one completion
    contract.check_model(pair[0], _tokens())


def test_common_architectures_are_packed(pair):
    model, causal = pair
    assert model.takes_padding == (causal.config.model_type in ("llama", "qwen2", "gpt2"))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_packed_copy_follows_the_weights(kind):
    model, tokens = TextModel(tiny.causal(kind)).eval(), _tokens()
    before, _ = model.start(tokens, 1)
    with torch.no_grad():
        for weight in model.blocks[0].parameters():
            weight.mul_(1.5)
        expected = model(tokens)[:, -1]
    after, _ = model.start(tokens, 1)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {"attention_bias": True, "mlp_bias": True},
    ],
    ids=str,
)
def test_departures_from_a_family_still_decode_right(changes):
    contract.check_model(TextModel(tiny.causal("llama", **changes)), _tokens())


def test_a_large_model_is_not_copied(monkeypatch):
    monkeypatch.setattr(lean, "MOST_BYTES", 1000)
    model = TextModel(tiny.causal("llama"))
    assert not model.takes_padding
    with pytest.raises(InputError, match="cannot start from padded prompts"):
        model.start(_tokens(), 1, torch.zeros(3, dtype=torch.long))


def test_logits_are_those_of_the_wrapped_model(pair):
    model, causal = pair
    with torch.no_grad():
        assert torch.equal(model(_tokens()), causal(input_ids=_tokens()).logits)
    assert (model.num_tokens, model.context_length) == (tiny.NUM_TOKENS, tiny.CONTEXT)
    assert not model._full_logits and model._cache_argument in (
        "cache",
        "past_key_values",
    )  # none of these needs a fallback


def test_greedy_ids_are_those_of_transformers_generate(pair):
    model, causal = pair
    prompt = _tokens(4, 9)
    expected = causal.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False, eos_token_id=None
    )
    logits, state = model.start(prompt, 40)
    ids = [logits.argmax(-1)]
    for _ in range(39):
        logits, state = model.step(ids[-1], state)
        ids.append(logits.argmax(-1))
    assert torch.stack(ids, 1).tolist() == expected[:, 9:].tolist()
    assert len(set(ids[-1].tolist() + ids[-5].tolist())) > 1  # the ids do vary


def test_selecting_leaves_the_first_state_usable(pair):
    model, _ = pair
    tokens = _tokens(3, 20)
    _, state = model.start(tokens[:, :18], 2)
    chosen = model.select(state, torch.tensor([2]))
    kept, _ = model.step(tokens[:, 18], state)
    again, _ = model.step(tokens[2:, 18], chosen)
    torch.testing.assert_close(kept[2:], again, rtol=1e-4, atol=1e-4)


def test_a_completion_longer_than_announced(pair):
    model, _ = pair
    tokens = _tokens(2, 30)
    with torch.no_grad():
        expected = model(tokens)
        _, state = model.start(tokens[:, :5], 2)
        for position in range(5, 30):
            logits, state = model.step(tokens[:, position], state)
    torch.testing.assert_close(logits, expected[:, -1], rtol=1e-4, atol=1e-4)


def test_boundary_leaves_gradients_to_the_upper_blocks_only(pair):
    model, _ = pair
    states = model.boundary(_tokens(), 2).detach()
    for weight in model.parameters():
        weight.grad = None
    model.head(model.from_boundary(states, 2)).square().mean().backward()
    for number, block in enumerate(model.blocks):
        has_gradient = [weight.grad is not None for weight in block.parameters()]
        assert all(has_gradient) if number >= 2 else not any(has_gradient)
    after = model.hidden(_tokens())  # the blocks work as before
    torch.testing.assert_close(model.from_boundary(model.boundary(_tokens(), 2), 2), after, rtol=1e-4, atol=1e-4)


def test_tail_is_the_norm_and_an_untied_head(pair):
    model, causal = pair
    tied = causal.get_output_embeddings().weight is causal.get_input_embeddings().weight
    heads = [module for module in model.tail if module is model.causal.get_output_embeddings()]
    assert len(heads) == (0 if tied else 1)
    norms = [module for module in model.tail if "norm" in type(module).__name__.lower()]
    assert len(norms) == 1 or causal.config.model_type == "opt"


def test_nothing_random_is_left(pair):
    model = pair[0].train()
    with torch.no_grad():
        assert torch.equal(model(_tokens()), model(_tokens()))
        assert torch.equal(model(_tokens()), model.eval()(_tokens()))
    assert all(module.p == 0 for module in model.modules() if isinstance(module, nn.Dropout))


def test_too_many_last_layers():
    model = TextModel(tiny.causal("llama"))
    for number in (0, 5):
        with pytest.raises(InputError, match=f"--last-layers {number}: LlamaForCausalLM has 4 blocks"):
            model.boundary(_tokens(), number)


def test_scaled_logits():
    for kind, change in (("cohere", {"logit_scale": 0.3}), ("granite", {"logits_scaling": 3.0})):
        causal = tiny.causal(kind, **change)
        model = TextModel(copy.deepcopy(causal))
        with torch.no_grad():
            torch.testing.assert_close(model(_tokens()), causal(input_ids=_tokens()).logits, rtol=1e-5, atol=1e-5)
        assert not model._full_logits


def test_an_unknown_head_falls_back_to_full_logits():
    causal = tiny.causal("bert", is_decoder=True)  # a dense layer, a norm and a bias come before and after its head
    model = TextModel(causal).eval()
    tokens = _tokens()
    with torch.no_grad():
        assert model.hidden(tokens).shape[-1] == tiny.NUM_TOKENS
        torch.testing.assert_close(model(tokens), causal(input_ids=tokens).logits)
        contract.check_cache(model, tokens[:, :6], 6)


def test_an_architecture_without_cache_computes_the_prefix_again():
    config = AutoConfig.for_model("openai-gpt", n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=60)
    with torch.random.fork_rng(devices=[]):
        model = TextModel(AutoModelForCausalLM.from_config(config, dtype=torch.float32)).eval()
    tokens = _tokens() % 60
    with torch.no_grad():
        contract.check_cache(model, tokens[:, :6], 6)
        contract.check_select(model, tokens)


def test_a_model_that_sees_later_tokens_is_refused():
    with pytest.raises(InputError, match="looks at later tokens"):
        TextModel(tiny.causal("roberta", vocab_size=60))
