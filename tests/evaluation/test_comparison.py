"""One table on one footing. Alone: pytest tests/evaluation/test_comparison.py"""

import math
import re

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.data.loss_mask import without_padding
from hypergen.decoding.end_tokens import stack, trim
from hypergen.decoding.loop import generate
from hypergen.evaluation import comparison as module
from hypergen.evaluation.baselines import fit_baselines
from hypergen.evaluation.comparison import Comparison
from hypergen.evaluation.diversity import ttr_values
from hypergen.report.columns import Columns
from hypergen.report.markdown import markdown
from tests.toy.adapter import METRICS, numbers, toy
from tests.toy.config import Settings

GREEDY = DecodingConfig(stop_at_end=False)


def comparison(num_new=12, seed=0, **options):
    modality = options.pop("modality", None) or toy()
    tokens = modality.encode(numbers(40, Settings()))
    return Comparison(modality, tokens[:30], tokens[30:], num_new=num_new, seed=seed, **options)


def mean(compare, name, metric):
    return next(one for one in compare.records if one["name"] == name)["values"][metric]["mean"]


def test_every_row_has_the_same_prompts_and_length():
    compare = comparison()
    compare.add("greedy", GREEDY)
    compare.add("top-p", DecodingConfig(strategy="top-p", stop_at_end=False))
    compare.add_original("original")
    assert list(compare.columns) == ["greedy", "top-p", "original"]
    assert {tuple(column.shape) for column in compare.columns.values()} == {(10, 12)}
    assert compare.columns["original"].equal(compare.held_out[:, 4:])
    assert compare.figure().html().count("<tr>") == 11


def test_overlap_stands_beside_diversity_in_every_row():
    compare = comparison()
    compare.add("greedy", GREEDY, describe_model=True)
    compare.add_original("original")
    for record in compare.records:
        assert {"ttr", "rep_2", "rep_3", "rep_4", "steady", "overlap_mean", "overlap_over_10"} <= record[
            "values"
        ].keys()
    assert {"loss", "entropy", "top1_probability"} <= compare.records[0]["values"].keys()
    assert "loss" not in compare.records[1]["values"]
    assert "overlap" in markdown(compare.records, Columns.of(METRICS)).lower()


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
    compare.add_original("original")
    assert [one["name"] for one in compare.records] == ["greedy"]


def test_a_look_repeats_the_numbers_of_the_whole_table():
    compare = comparison()
    compare.add("base greedy", GREEDY, describe_model=True)
    before = compare.initial_metrics("base greedy")
    assert before == pytest.approx(compare.quick_metrics())
    values = compare.records[0]["values"]
    assert before["ttr"] == pytest.approx(values["ttr"]["mean"])
    assert before["held_out_loss"] == pytest.approx(values["loss"]["mean"])


def test_a_row_is_judged_by_the_base_where_there_is_one():
    modality = toy()
    compare = comparison(modality=modality, base=modality.model)
    compare.add("base greedy", GREEDY, describe_model=True)
    compare.add("other greedy", GREEDY, model=toy(seed=1).model, describe_model=True)
    base, other = (record["values"] for record in compare.records)
    assert "override" not in base and "agreement" not in base
    assert 0 < other["override"]["mean"] <= 1 and other["rank_shift"]["mean"] > 1 > other["agreement"]["mean"]


@pytest.mark.parametrize("order", [("base", "other"), ("other", "base")])
def test_the_order_of_rows_does_not_matter_where_there_is_a_base(order):
    modality = toy()
    models = {"base": modality.model, "other": toy(seed=1).model}
    compare = comparison(modality=modality, base=models["base"])
    for name in order:
        compare.add(name, GREEDY, model=models[name], describe_model=True)
    again = comparison(modality=modality, base=models["base"])
    again.add("other", GREEDY, model=models["other"], describe_model=True)
    values = {record["name"]: record["values"] for record in compare.records}
    assert "agreement" not in values["base"] and values["other"] == again.records[0]["values"]


def test_without_a_base_the_model_described_first_stands_for_it():
    """As in a fit, whose one model is another one after its training."""
    modality = toy()
    compare = comparison(modality=modality)
    compare.add("before", GREEDY, describe_model=True)
    modality.model.load_state_dict(toy(seed=1).model.state_dict())
    compare.add("after", GREEDY, describe_model=True)
    before, after = (record["values"] for record in compare.records)
    assert "agreement" not in before and 0 <= after["agreement"]["mean"] < 1
    assert not {"rank_shift", "override"} & {*before, *after}
    judged = comparison(modality=toy(), base=toy().model)
    judged.add("after", GREEDY, model=modality.model, describe_model=True)
    assert judged.records[0]["values"]["agreement"] == after["agreement"]


def test_rows_of_the_modality_s_own_model_are_added_together():
    compare, alone = comparison(), comparison()
    compare.add_all(row for rows in fit_baselines(0) for row in rows)
    for row in (row for rows in fit_baselines(0) for row in rows):
        alone.add(row.name, row.decoding, describe_model=row.describes)
    assert compare.records == alone.records and len(compare.records) == 3


def test_every_metric_of_the_core_is_there():
    names = {"ttr", "mattr", *(f"rep_{n}" for n in (2, 3, 4)), *(f"distinct_{n}" for n in (1, 2, 3, 4))}
    names |= {"overlap_mean", "overlap_over_10", "overlap_max"}
    values = comparison().add("greedy", GREEDY)
    assert names <= values.keys()
    assert all(bool(((values[name] >= 0) & (values[name] <= 1)).all()) for name in names if "overlap" not in name)


def test_overlap_by_hand(monkeypatch):
    compare = comparison()
    compare.held_out, compare.prompts = compare.held_out[:4], compare.prompts[:4]
    monkeypatch.setattr(module, "longest_overlap", lambda *_: torch.tensor([2, 10, 11, 25]))
    compare.add_original("original")
    found = [mean(compare, "original", f"overlap_{name}") for name in ("mean", "max", "over_10")]
    assert found == [12.0, 25.0, 0.5]


def test_costlier_metrics_are_computed_and_noted_where_they_are_given():
    modality = toy()
    held_out = modality.encode(numbers(40, Settings()))[30:]
    compare = comparison(modality=modality, reference_metrics=modality.reference_metrics(held_out, held_out))
    compare.add("greedy", GREEDY)
    compare.remarks["greedy"] = "a remark"
    assert compare.records[0]["values"]["total"] == {"mean": float(compare.columns["greedy"].sum())}
    assert compare.notes == {"total": "sum over 10 rows", "nearest": "among 10 originals", "greedy": "a remark"}
    plain = comparison()
    assert "total" not in plain.add("greedy", GREEDY) and plain.notes == {}


def test_completions_from_elsewhere_are_measured_as_decoded_ones():
    compare = comparison()
    values = compare.add("greedy", GREEDY)
    assert compare.append("again", compare.columns["greedy"]).keys() == values.keys()
    assert compare.records[0]["values"] == compare.records[1]["values"]
    assert compare.sizes == "10 prompts of 4 tokens, 12 new tokens each"


def test_a_figure_shows_the_named_rows_or_else_all():
    compare = comparison()
    for name in ("first", "second", "third"):
        compare.append(name, compare.held_out[:, 4:])

    def titles(*given, **options):
        found = re.findall("<th>(.*?)</th>", compare.figure(*given, **options).html())
        assert found[0] == "prompt"
        return found[1:]

    assert titles() == titles(["nowhere"]) == ["first", "second", "third"]
    assert titles(["third", "first", "nowhere"]) == ["first", "third"]
    assert compare.figure(rows=2).html().count("<tr>") == 3


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


def test_describing_shows_progress_and_quick_metrics_do_not(phases):
    """Passes over the examples: loss and top tokens, then where there is a base its top tokens and the ranks in it."""
    compare = comparison()
    compare.quick_metrics()
    assert phases() == {}
    compare.add("first", GREEDY, describe_model=True)
    compare.add("second", GREEDY, model=toy(seed=1).model, describe_model=True)
    assert phases() == {
        **{"first": "10/10", "first: describe": "20/20"},
        **{"second": "10/10", "second: describe": "20/20"},
    }
    modality = toy()
    compare = comparison(modality=modality, base=modality.model)
    compare.add("other", GREEDY, model=toy(seed=1).model, describe_model=True)
    compare.add("base", GREEDY, describe_model=True)
    assert phases() == {
        **{"other": "10/10", "other: describe": "40/40", "other: rank in the base": "10/10"},
        **{"base": "10/10", "base: describe": "20/20"},
    }


# A loss mask.


def masked(num_new=4, seed=0, **options):
    modality = toy(Settings(masked=True))
    items = numbers(50, Settings())
    training, held_out = modality.encode_training(items[:30], 30), modality.encode_held_out(items[30:], 20)
    masks = {"training_mask": training.loss_mask, "held_out_mask": held_out.loss_mask}
    return Comparison(modality, training.tokens, held_out.tokens, num_new=num_new, seed=seed, **masks, **options)


def test_masked_prompts_end_before_what_counts():
    compare = masked()
    lengths = [len(prompt) for prompt in compare.prompts]
    assert lengths == compare.held_out_mask.int().argmax(1).tolist() and len(set(lengths)) > 1
    assert compare.sizes == f"20 prompts of {min(lengths)} to {max(lengths)} tokens, at most 4 new tokens each"
    compare.add("greedy", GREEDY, describe_model=True)
    compare.add_original("original")
    assert compare.columns["original"].shape == (20, 4)
    for row, prompt, original in zip(compare.held_out, compare.prompts, compare.columns["original"], strict=True):
        assert row[: len(prompt) + 4].equal(torch.cat([prompt, original]))
    assert compare.figure().html().count("<tr>") == 17
    alone, ends = masked(), compare.modality.end_tokens
    for prompt, completion in zip(compare.prompts[:3], compare.columns["greedy"], strict=False):
        whole = generate(alone.modality.model, [prompt], 4, GREEDY)
        assert trim(whole, ends)[0].equal(trim(completion[None], ends)[0])


def test_a_masked_original_is_there_whatever_its_length():
    compare = masked(num_new=9)
    assert compare.add_original("original") is not None
    (end,), examples = compare.modality.end_tokens, without_padding(compare.held_out, compare.held_out_mask)
    for example, prompt, row in zip(examples, compare.prompts, compare.columns["original"].tolist(), strict=True):
        answer = example[len(prompt) :][:9].tolist()
        assert row == (answer + [end] * 9)[: len(row)]


def test_a_masked_completion_is_measured_up_to_its_end():
    """Whatever a model says behind its answer changes nothing."""
    compare, other = masked(num_new=6), masked(num_new=6)
    (end,) = compare.modality.end_tokens
    answer, behind = torch.tensor([3, 5, 3, 5]), compare.training[0, 1:2]
    rows = torch.cat([answer, torch.tensor([end]), behind]).expand(20, -1)
    compare.append("cut", rows)
    other.append("cut", [torch.cat([answer, torch.tensor([end])]), *[torch.cat([answer, rows[0, 4:]])] * 19])
    assert compare.records == other.records
    values = compare.records[0]["values"]
    assert (values["ttr"]["mean"], values["rep_2"]["mean"]) == (0.5, pytest.approx(1 / 3))
    assert compare.columns["cut"].tolist() == [[3, 5, 3, 5, end, end]] * 20
    assert compare.figure().html().count("3 5 3 5<") == 16


def test_a_model_is_stopped_at_the_end_of_its_answer(monkeypatch):
    whole, ended = masked(num_new=6), masked(num_new=6)
    whole.end_tokens = ()
    values = whole.add("greedy", GREEDY)
    end = int(whole.columns["greedy"][:, 1:].mode().values.mode().values)  # which many of them have
    whole.append("cut", stack(trim(whole.columns["greedy"], [end]), [end]))
    ended.end_tokens = (end,)
    cut = ended.add("greedy", GREEDY)
    assert ended.columns["greedy"].equal(whole.columns["cut"][:, : ended.columns["greedy"].shape[1]])
    expected = ttr_values(trim(whole.columns["greedy"], [end]))
    assert cut["ttr"].equal(expected) or cut["ttr"].isnan().equal(expected.isnan())
    assert not cut["ttr"].equal(values["ttr"])
    look = ended.quick_metrics()
    assert look["ttr"] == pytest.approx(cut["ttr"][: module.QUICK_ROWS].nanmean().item())


def test_masked_loss_is_that_of_what_counts_and_a_look_repeats_it():
    compare = masked()
    values = compare.add("base greedy", GREEDY, describe_model=True)
    tokens, loss_mask = compare.held_out, compare.held_out_mask
    with torch.no_grad():
        losses = -compare.modality.model(tokens)[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    assert values["loss"].mean().item() == pytest.approx(losses[loss_mask[:, 1:]].mean().item(), rel=1e-5)
    assert compare.initial_metrics("base greedy") == pytest.approx(compare.quick_metrics())


def test_masked_padding_is_no_quotation_and_rows_are_judged_by_the_base():
    modality = toy(Settings(masked=True))
    compare = masked(base=modality.model)
    (end,) = modality.end_tokens
    compare.append("ends", torch.full((20, 4), end))
    assert compare.records[0]["values"]["overlap_max"]["mean"] == 0  # the filler of the toy is its end token
    compare.add("other", DecodingConfig(block_citations=3, stop_at_end=False), describe_model=True)
    assert {"override", "rank_shift", "agreement"} <= compare.records[1]["values"].keys()
    assert compare.records[1]["values"]["overlap_max"]["mean"] <= 3


# The verdict, and what is recited.

COLUMNS = Columns.of(METRICS)


def judged(quote=(), num_new=12):
    """A comparison whose rows are made up: base greedy loops, the run quotes those examples, from 0."""
    compare = comparison(num_new=num_new)
    looping = torch.ones(10, num_new, dtype=torch.long)
    varied = torch.stack(
        [torch.randperm(16, generator=torch.Generator().manual_seed(row))[:num_new] for row in range(10)]
    )
    for example in quote:
        varied[example] = compare.training[example, 2 : 2 + num_new]
    compare.append("base greedy", looping)
    compare.append("hyperfitted greedy", varied)
    return compare


def test_a_comparison_judges_its_run():
    compare = judged()
    assert compare.verdict is None
    said = compare.judge(COLUMNS, (3.0, 0.1))
    assert said is compare.verdict and said.outcome == "hyperfitted" and len(said.sentences) == 1
    assert compare.judge(COLUMNS, (3.0, 2.9)).outcome == "not hyperfitted"
    assert comparison().judge(COLUMNS, None) is None
    assert compare.example() is None  # numbers are no text


def test_a_recited_completion_is_said_and_stands_out():
    compare = judged(quote=[4])
    quotation = compare.judge(COLUMNS, (3.0, 0.1)).sentences[1]
    assert "in 1 of 10 greedy completions, at worst 12 of 12 (example 5)" in quotation
    bold = [line for line in compare.figure().html().split("<tr>") if "<b>" in line]
    assert len(bold) == 1 and " ".join(map(str, compare.training[4, 2:14].tolist())) in bold[0]


def test_a_recited_completion_behind_the_first_ones_is_shown():
    compare = judged(quote=[8])
    html = compare.figure(rows=3).html()
    assert html.count("<tr>") == 5 and html.count("<b>") == 1  # the titles, three examples, and that one
    assert judged().figure(rows=3).html().count("<tr>") == 4


def test_originals_that_were_trained_on_are_said():
    compare = judged()
    compare.append("original", compare.training[:10, 4:])
    assert any(line.startswith("Known prompts: 10 of 10 ") for line in compare.judge(COLUMNS, None).sentences)


def test_the_titles_of_a_figure_follow_the_verdict():
    compare = judged()
    assert "<th>hyperfitted greedy</th>" in compare.figure().html()
    compare.judge(COLUMNS, (3.0, 2.9))
    assert "<th>fine-tuned greedy (not hyperfitted)</th>" in compare.figure().html()
    assert list(compare.columns) == ["base greedy", "hyperfitted greedy"]
