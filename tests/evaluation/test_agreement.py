"""Where two models differ, against whole logits and by hand. Alone: pytest tests/evaluation/test_agreement.py"""

import math

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding.loop import generate
from hypergen.errors import InputError
from hypergen.evaluation import agreement
from hypergen.evaluation.agreement import (
    agreement_values,
    bf16_agreement,
    choice_ranks,
    override_values,
    rank_shift_values,
    ranks,
    top_tokens,
)
from tests.evaluation.fixed import Fixed
from tests.toy.adapter import numbers, toy


@pytest.fixture(scope="module")
def models():
    """Two untrained toys and sequences that both can read."""
    base, other = toy(seed=1), toy(seed=2)
    return base.model, other.model, base.encode(numbers(6, base.settings))


def sorted_ids(model, tokens):
    """Plain Python: for each position the ids from likely to unlikely, lower ids first where equal."""
    with torch.no_grad():
        rows = model(tokens)[:, :-1].tolist()
    return [[sorted(range(len(at)), key=lambda index: (-at[index], index)) for at in row] for row in rows]


def test_against_sorted_logits(models):
    base, other, tokens = models
    order, top = sorted_ids(base, tokens), top_tokens(other, tokens, batch_size=4)
    assert top.tolist() == [[at[0] for at in row] for row in sorted_ids(other, tokens)]
    assert ranks(base, tokens, top, batch_size=4).tolist() == [
        [1 + at.index(asked) for at, asked in zip(row, ids, strict=True)]
        for row, ids in zip(order, top.tolist(), strict=True)
    ]


def test_a_model_agrees_with_itself(models):
    base, other, tokens = models
    top = top_tokens(base, tokens)
    assert bool((ranks(base, tokens, top) == 1).all())
    assert agreement_values(top, top_tokens(base, tokens))["agreement"].tolist() == [1.0] * 6
    assert float(agreement_values(top, top_tokens(other, tokens))["agreement"].mean()) < 1


def test_equally_likely_tokens_rank_by_id():
    model = Fixed([[1.0, 5.0, 5.0, 1.0]] * 4)
    tokens = torch.zeros(4, 2, dtype=torch.long)
    assert ranks(model, tokens, torch.arange(4)[:, None]).squeeze(1).tolist() == [3, 1, 2, 4]
    assert top_tokens(model, tokens).tolist() == [[1]] * 4


def test_a_model_s_own_greedy_choices_rank_first_and_padding_does_not_count(models):
    base, other, tokens = models
    prompts = tokens[:, :4]
    end = int(generate(base, prompts, 3, DecodingConfig(stop_at_end=False))[0, 2])  # so that a row ends early
    completions = generate(base, prompts, 8, DecodingConfig(), end_tokens=(end,))
    own, others = (choice_ranks(model, prompts, completions, (end,)) for model in (base, other))
    lengths = [row.index(end) if end in row else 8 for row in completions.tolist()]
    assert min(lengths) < 8
    assert [row.tolist() for row in own] == [[1] * length for length in lengths]
    assert [len(row) for row in others] == lengths
    whole = ranks(other, torch.cat([prompts, completions], 1), torch.cat([prompts, completions], 1)[:, 1:])[:, 3:]
    assert all(row.equal(full[: len(row)]) for row, full in zip(others, whole, strict=True))
    assert bool((torch.cat(others) > 1).any())


def test_values_by_hand():
    top, base_top = torch.tensor([[1, 2, 3, 4], [1, 1, 1, 1]]), torch.tensor([[1, 2, 0, 0], [1, 1, 1, 1]])
    assert agreement_values(top, base_top)["agreement"].tolist() == [0.5, 1.0]
    assert rank_shift_values(torch.tensor([[1, 2, 9], [1, 1, 1]]))["rank_shift"].tolist() == [4.0, 1.0]
    found = override_values([torch.tensor([1, 2, 11, 1]), torch.tensor([1, 10]), torch.tensor([1]), torch.tensor([])])
    assert found["override"][:3].tolist() == [0.5, 0.5, 0.0] and found["override"][3].isnan()
    assert found["override_deep"][:2].tolist() == [0.5, 0.0]
    assert all(map(math.isnan, found["override_deep"][2:].tolist()))


def test_refusals(models):
    base, _, tokens = models
    with pytest.raises(InputError, match=r"ids of shape \(6, 16\): must be \(6, 15\)"):
        ranks(base, tokens, tokens)
    with pytest.raises(InputError, match=r"shapes \(6, 15\) and \(2, 15\)"):
        agreement_values(tokens[:, 1:], tokens[:2, 1:])


def test_bf16_agreement_counts_the_positions_where_both_find_the_same_token(models, monkeypatch):
    base, other, tokens = models
    share, num_positions = bf16_agreement(base, list(tokens))
    assert num_positions == 6 * 15 and 0.9 < share <= 1
    assert {weight.dtype for weight in base.parameters()} == {torch.float32}
    monkeypatch.setattr(agreement, "bf16_copy", lambda _: other)
    share, _ = bf16_agreement(base, [tokens[0], tokens[1, :7]])
    equal = [top_tokens(base, row) == top_tokens(other, row) for row in (tokens[:1], tokens[1:2, :7])]
    assert share == sum(int(same.sum()) for same in equal) / (15 + 6) < 0.5
    assert bf16_agreement(base, []) == (0.0, 0)


def test_bf16_agreement_counts_sequences(models, phases):
    base, _, tokens = models
    bf16_agreement(base, list(tokens))
    assert phases() == {}
    bf16_agreement(base, list(tokens), label="compare")
    assert phases() == {"compare": "6/6"}


def test_masked_values_by_hand():
    top, base_top = torch.tensor([[1, 2, 3, 4], [1, 1, 1, 1]]), torch.tensor([[1, 2, 0, 0], [1, 1, 1, 2]])
    loss_mask = torch.tensor([[False, True, True, True, False], [True, False, False, False, True]])
    assert agreement_values(top, base_top, loss_mask)["agreement"].mean() == 2 / 4
    shifts = rank_shift_values(torch.tensor([[1, 2, 9, 50], [70, 80, 90, 4]]), loss_mask)
    assert shifts["rank_shift"].mean() == (1 + 2 + 9 + 4) / 4


def test_choices_after_prompts_of_different_lengths_rank_as_alone(models):
    base, other, tokens = models
    prompts = [tokens[0, :3], tokens[1, :7], tokens[2, :5]]
    completions = generate(base, prompts, 6, DecodingConfig(stop_at_end=False))
    together = choice_ranks(other, prompts, completions)
    for prompt, completion, found in zip(prompts, completions, together, strict=True):
        assert found.equal(choice_ranks(other, prompt[None], completion[None])[0])
