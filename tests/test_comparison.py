"""One table on one footing. Alone: pytest tests/test_comparison.py"""

import math

import pytest
import torch

from hypergen.comparison import Comparison, new_tokens, unseen
from hypergen.config import DecodingConfig
from hypergen.errors import InputError
from hypergen.report import markdown
from tests.toy.config import Settings
from tests.toy.modality import numbers, toy

GREEDY = DecodingConfig(stop_at_end=False)


def comparison(num_new=12, seed=0):
    modality = toy()
    tokens = modality.encode(numbers(40, Settings()))
    training, held_out = tokens[:30], tokens[30:]
    return Comparison(modality, training, held_out, modality.prompts(held_out), num_new, seed)


def mean(compare, name, measure):
    return next(one for one in compare.records if one["name"] == name)["values"][measure]["mean"]


def test_every_row_has_the_same_prompts_and_length():
    compare = comparison()
    compare.add("greedy", GREEDY)
    compare.add("top-p", DecodingConfig(strategy="top-p", stop_at_end=False))
    compare.add_original()
    assert list(compare.columns) == ["greedy", "top-p", "original"]
    assert {tuple(column.shape) for column in compare.columns.values()} == {(10, 12)}
    assert compare.columns["original"].equal(compare.held_out[:, 4:])
    assert compare.figure().count("<tr>") == 11


def test_overlap_stands_beside_diversity_in_every_row():
    compare = comparison()
    compare.add("greedy", GREEDY, describe_model=True)
    compare.add_original()
    for record in compare.records:
        assert {"ttr", "rep_2", "rep_3", "rep_4", "steady", "overlap_mean", "overlap_over_10"} <= record[
            "values"
        ].keys()
    assert {"loss", "entropy", "top1_probability"} <= compare.records[0]["values"].keys()
    assert "loss" not in compare.records[1]["values"]
    assert "overlap" in markdown(compare.records).lower()


def test_perplexity_is_that_of_the_mean_loss_and_so_is_its_interval():
    compare = comparison()
    values = compare.add("greedy", GREEDY, describe_model=True)
    found, loss = compare.records[0]["values"]["perplexity"], values["loss"].tolist()
    assert found["mean"] == pytest.approx(math.exp(sum(loss) / len(loss)))
    draws = torch.randint(10, (1000, 10), generator=torch.Generator().manual_seed(0))  # the definition, on exp of means
    means = sorted(math.exp(sum(loss[i] for i in draw) / 10) for draw in draws.tolist())
    assert means[23] <= found["low"] <= means[26] and means[973] <= found["high"] <= means[976]


def test_a_quotation_is_seen():
    compare = comparison()
    compare.held_out = torch.cat([compare.held_out[:, :4], compare.training[:10, 4:]], 1)
    compare.add_original("quoted")
    values = compare.records[0]["values"]
    assert (values["overlap_mean"]["mean"], values["overlap_over_10"]["mean"]) == (12, 1)
    assert values["overlap_max"] == {"mean": 12}


def test_intervals_hold_the_mean_and_depend_on_the_seed_alone():
    first, again, other = comparison(), comparison(), comparison(seed=1)
    for one in (first, again, other):
        one.add("top-p", DecodingConfig(strategy="top-p", stop_at_end=False))
    assert first.records == again.records != other.records
    ttr = first.records[0]["values"]["ttr"]
    assert ttr["low"] <= ttr["mean"] <= ttr["high"] and mean(first, "top-p", "ttr") == mean(other, "top-p", "ttr")


def test_no_original_where_the_examples_are_too_short():
    compare = comparison(num_new=13)
    compare.add("greedy", GREEDY)
    compare.add_original()
    assert [one["name"] for one in compare.records] == ["greedy"]


@pytest.mark.parametrize("left, fixed, expected", [(200, True, 200), (200, False, 96), (12, False, 12)])
def test_how_many_new_tokens(left, fixed, expected):
    assert new_tokens(torch.zeros(2, left + 4), torch.zeros(2, 4), fixed) == expected


def test_unseen_keeps_order_and_drops_what_is_trained_on():
    training = torch.tensor([[1, 2, 3], [4, 5, 6]])
    held_out = torch.tensor([[7, 8, 9], [4, 5, 6], [1, 2, 4]])
    assert unseen(held_out, training).tolist() == [[7, 8, 9], [1, 2, 4]]
    with pytest.raises(InputError, match="all 2 sequences are trained on"):
        unseen(training.flip(0), training)


def test_a_look_repeats_the_numbers_of_the_whole_table():
    compare = comparison()
    compare.add("base greedy", GREEDY, describe_model=True)
    before = compare.look_before()
    assert before == pytest.approx(compare.glance())
    values = compare.records[0]["values"]
    assert before["ttr"] == pytest.approx(values["ttr"]["mean"])
    assert before["held_out_loss"] == pytest.approx(values["loss"]["mean"])


def test_a_row_is_judged_by_the_base_where_there_is_one():
    compare = comparison()
    compare.base = compare.modality.model
    compare.add("base greedy", GREEDY, describe_model=True)
    compare.add("other greedy", GREEDY, model=toy(seed=1).model, describe_model=True)
    base, other = (record["values"] for record in compare.records)
    assert "override" not in base and "agreement" not in base
    assert 0 < other["override"]["mean"] <= 1 and other["rank_shift"]["mean"] > 1 > other["agreement"]["mean"]


def test_no_citation_of_the_training_set_passes():
    """A set of tuples, which shares nothing with the index."""
    compare = comparison()
    compare.training = torch.cat([compare.held_out, compare.training])
    compare.add("free", GREEDY)
    compare.training = torch.cat([torch.cat([compare.prompts, compare.columns["free"]], 1), compare.training])
    compare.add("blocked", DecodingConfig(block_citations=5, stop_at_end=False))
    known = {tuple(row[n : n + 5]) for row in compare.training.tolist() for n in range(len(row) - 4)}

    def quotations(name):
        rows = torch.cat([compare.prompts, compare.columns[name]], 1).tolist()
        first = compare.prompts.shape[1] - 4  # the first window with a new token
        return [row[n : n + 5] for row in rows for n in range(first, len(row) - 4) if tuple(row[n : n + 5]) in known]

    assert quotations("free") and not quotations("blocked")
