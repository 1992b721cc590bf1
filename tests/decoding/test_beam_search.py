"""Beam search against transformers, brute force and greedy. Alone: pytest tests/decoding/test_beam_search.py"""

import itertools

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding.end_tokens import trim
from hypergen.decoding.loop import generate
from hypergen.decoding.ngram_index import CitationIndex
from hypergen.text.model import TextModel
from tests.text import tiny
from tests.toy.model import ToyModel

NUM_TOKENS = 18


def beam(num_beams, **options):
    return DecodingConfig(strategy="beam", num_beams=num_beams, **options)


def toy(seed=0, num_tokens=NUM_TOKENS):
    return ToyModel(num_tokens=num_tokens, context_length=40, seed=seed).eval()


def random_prompts(count, length=4, num_tokens=NUM_TOKENS):
    return torch.randint(num_tokens, (count, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def log_probability(model, prompt, completion):
    whole = torch.cat([prompt, completion])
    steps = model(whole[None, :-1])[0, len(prompt) - 1 :].log_softmax(-1)
    return float(steps.gather(1, completion[:, None]).sum())


@pytest.mark.parametrize("seed", range(3))
def test_one_beam_is_greedy(seed):
    model, prompts = toy(seed), random_prompts(7)
    assert generate(model, prompts, 20, beam(1)).equal(generate(model, prompts, 20))
    end = int(generate(model, prompts, 20)[0, 3])
    ended = [
        trim(generate(model, prompts, 20, config, end_tokens=(end,)), (end,)) for config in (beam(1), DecodingConfig())
    ]
    assert all(one.equal(other) for one, other in zip(*ended, strict=True))


@pytest.mark.parametrize("num_beams", [2, 4, 7])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_equals_transformers(kind, num_beams):
    causal = tiny.causal(kind)
    causal.generation_config.eos_token_id = None
    prompts = random_prompts(5, 6, tiny.NUM_TOKENS)
    theirs = causal.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=20,
        num_beams=num_beams,
        do_sample=False,
    )[:, 6:]
    ours = generate(TextModel(causal), prompts, 20, beam(num_beams, stop_at_end=False), end_tokens=(0,))
    assert ours.equal(theirs)


@pytest.mark.parametrize("penalty", [1.3, 0.8, 5.0])
@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_repetition_penalty_gives_the_ids_of_transformers(kind, num_beams, penalty):
    causal = tiny.causal(kind)
    causal.generation_config.eos_token_id = None
    prompts = random_prompts(6, 6, tiny.NUM_TOKENS)
    options = {"max_new_tokens": 20, "num_beams": num_beams, "do_sample": False, "repetition_penalty": penalty}
    theirs = causal.generate(prompts, attention_mask=torch.ones_like(prompts), **options)[:, 6:]
    config = beam(num_beams, stop_at_end=False, repetition_penalty=penalty)
    assert num_beams == 1 or generate(TextModel(causal), prompts, 20, config).equal(theirs)
    if num_beams == 1:  # which is greedy search there, with the penalty on logits
        greedy = DecodingConfig(stop_at_end=False, repetition_penalty=penalty)
        assert generate(TextModel(causal), prompts, 20, greedy).equal(theirs)


def test_as_many_beams_as_prefixes_find_the_best_of_all():
    model, prompts = toy(num_tokens=5), random_prompts(3, num_tokens=5)
    found = generate(model, prompts, 3, beam(25))
    for prompt, best in zip(prompts, found, strict=True):
        every = [torch.tensor(ids) for ids in itertools.product(range(5), repeat=3)]
        assert best.equal(max(every, key=lambda ids: log_probability(model, prompt, ids)))


def test_more_beams_never_find_less_here():
    model, prompts = toy(1), random_prompts(8)
    means = []
    for num_beams in (1, 4):
        rows = generate(model, prompts, 12, beam(num_beams))
        means.append(sum(log_probability(model, *pair) for pair in zip(prompts, rows, strict=True)))
    assert means[1] > means[0]


def test_batches_and_an_end_token():
    model, prompts = toy(), random_prompts(6)
    end = int(generate(model, prompts, 15, beam(3))[0, 4])
    together = generate(model, prompts, 15, beam(3), end_tokens=(end,))
    assert generate(model, prompts, 15, beam(3), end_tokens=(end,), batch_size=2).equal(together)
    for row in together.tolist():
        assert end not in row or set(row[row.index(end) :]) == {end}


def test_citations_are_blocked():
    model, prompts = toy(), random_prompts(4)
    free = generate(model, prompts, 12, beam(3))
    index = CitationIndex(torch.cat([prompts, free], 1), 3)
    blocked = generate(model, prompts, 12, beam(3, block_citations=3), citations=index)
    known = {tuple(gram) for row in torch.cat([prompts, free], 1).unfold(1, 3, 1).tolist() for gram in row}
    assert not known & {tuple(gram) for row in blocked.unfold(1, 3, 1).tolist() for gram in row}
