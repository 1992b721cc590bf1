"""BLEU against sacrebleu itself, MAUVE against its authors' function. Alone: pytest tests/text/test_metrics.py"""

import random

import pytest
import sacrebleu
import torch
from sacrebleu.metrics import BLEU

from hypergen.errors import InputError
from hypergen.runtime import dependencies
from hypergen.text.adapter import METRICS
from hypergen.text.metrics import References, mauve, self_bleu_signature, self_bleu_values
from hypergen.text.word_list import NO_LIST
from tests.text import tiny

WORDS = ["the", "a", "cat,", "dog.", "sat", "ran", "on", "in", "mat", "'tis", '"and"', "or", "U.S.", "3.5", "don't"]


def random_texts(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randrange(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(10))
def test_bleu_against_sacrebleu(seed):
    texts, pool = [*random_texts(8, seed), "cat", "the cat sat on the mat  \n"], random_texts(6, seed + 100)
    theirs = BLEU(effective_order=True)
    expected = [theirs.sentence_score(text, texts[:at] + texts[at + 1 :]).score for at, text in enumerate(texts)]
    assert self_bleu_values(texts).tolist() == pytest.approx(expected, abs=1e-9)
    against = [theirs.sentence_score(text, pool).score for text in texts]
    assert References(pool).bleu_values(texts).tolist() == pytest.approx(against, abs=1e-9)


def test_the_signature_is_sacrebleu_s():
    theirs = BLEU(effective_order=True)
    theirs.sentence_score("a b", ["a", "b", "c"])
    assert self_bleu_signature(4) == f"self:excluded|pool:4|{theirs.get_signature().format()}"
    assert References(["a", "b", "c"]).signature() == f"pool:3|{theirs.get_signature().format()}"
    assert f"nrefs:3|case:mixed|eff:yes|tok:13a|smooth:exp|version:{sacrebleu.__version__}" in self_bleu_signature(4)


def test_bleu_by_hand():
    """Of `a b c d`: 3 of 4 words, 2 of 3 pairs, 1 of 2 triples are in `a b c x`, 0 of 1 quadruples (smoothed: 1/2)."""
    by_hand = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    assert References(["a b c x"]).bleu_values(["a b c d"]).tolist() == [pytest.approx(by_hand)]
    assert self_bleu_values(["a b c d", "a b c d", "e f g h"]).tolist() == [pytest.approx(100), pytest.approx(100), 0]


def test_nothing_to_count_is_nan():
    assert self_bleu_values(["a b", " "])[1].isnan()
    assert self_bleu_values(["a b"]).isnan().all()
    assert References([]).bleu_values(["a"]).isnan().all()


@pytest.fixture(scope="module")
def sequences():
    """Sequences of a tiny base without special tokens: training, originals, and prompts and completions."""
    modality = tiny.modality()
    tokens = torch.randint(3, 250, (24, 16), generator=torch.Generator().manual_seed(0))
    return modality, tokens[:8], tokens[8:16], (tokens[16:, :4], tokens[16:, 4:])


def without(monkeypatch, *missing):
    monkeypatch.setattr(dependencies, "is_installed", lambda module: module not in missing)


def test_decoded_completions_are_compared(sequences, monkeypatch):
    without(monkeypatch, "mauve")
    modality, training, originals, (prompts, completions) = sequences
    reference_metrics = modality.reference_metrics(training, originals)
    found, texts = reference_metrics.compute(prompts, completions), modality.decode(completions)
    assert found["self_bleu"].equal(self_bleu_values(texts))
    assert found["dataset_bleu"].equal(References(modality.decode(training)).bleu_values(texts))
    quoted = reference_metrics.compute(prompts, training)["dataset_bleu"]
    assert float(quoted.min()) == pytest.approx(100) and float(found["dataset_bleu"].mean()) < 90
    assert list(found) == ["self_bleu", "dataset_bleu"]
    assert reference_metrics.describe(8).keys() <= METRICS.keys()
    assert reference_metrics.describe(8) == {
        "known_words": NO_LIST,
        "self_bleu": self_bleu_signature(8),
        "dataset_bleu": References(["a"] * 8).signature(),
        "mauve": "not measured: needs mauve (pip install 'mauve-text>=0.4')",
    }


def test_padding_counts_as_nothing(sequences, monkeypatch):
    without(monkeypatch, "mauve")
    modality, training, originals, (prompts, completions) = sequences
    reference_metrics = modality.reference_metrics(training, originals)
    padded = torch.cat([completions, completions.new_full((8, 5), modality.end_tokens[0])], 1)
    plain, filled = (reference_metrics.compute(prompts, rows) for rows in (completions, padded))
    assert all(plain[name].equal(filled[name]) for name in plain)


def test_without_libraries_there_are_only_reasons(sequences, monkeypatch):
    without(monkeypatch, "mauve", "sacrebleu")
    modality, training, originals, (prompts, completions) = sequences
    reference_metrics = modality.reference_metrics(training, originals)
    assert reference_metrics.compute(prompts, completions) == {}
    assert reference_metrics.describe(8)["self_bleu"] == "not measured: needs sacrebleu (pip install 'sacrebleu>=2.5')"
    with pytest.raises(InputError, match=r"^BLEU: needs sacrebleu \(pip install 'sacrebleu>=2\.5'\)$"):
        self_bleu_values(["a", "b"])
    with pytest.raises(InputError, match=r"^MAUVE: needs mauve \(pip install 'mauve-text>=0\.4'\)$"):
        mauve(modality.model, originals, originals)


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")  # of faiss
def test_mauve_against_its_authors(sequences):
    theirs = pytest.importorskip("mauve").compute_mauve
    modality, *_ = sequences
    generator = torch.Generator().manual_seed(1)
    originals, generated = torch.randint(3, 250, (40, 12), generator=generator), torch.randint(3, 20, (40, 15))
    with torch.no_grad():
        states = [modality.model.hidden(tokens[:, :12])[:, 11].numpy() for tokens in (originals, generated)]
    expected = float(theirs(p_features=states[0], q_features=states[1], seed=3).mauve)
    assert mauve(modality.model, originals, generated, seed=3) == pytest.approx(expected, abs=1e-9)
    assert mauve(modality.model, originals, originals) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")  # of faiss
def test_mauve_s_features_do_not_change_with_the_model():
    pytest.importorskip("mauve")
    modality = tiny.modality()
    tokens = torch.randint(3, 250, (40, 12), generator=torch.Generator().manual_seed(1))
    reference_metrics = modality.reference_metrics(tokens, tokens.flip(1))
    before = reference_metrics.compute(tokens[:, :4], tokens[:, 4:])["mauve"]
    with torch.no_grad():
        for weight in modality.model.parameters():
            weight.mul_(-0.1)
    assert reference_metrics.compute(tokens[:, :4], tokens[:, 4:])["mauve"] == before
    assert "mauve" not in reference_metrics.compute(
        tokens.flip(1)[:, :4], tokens.flip(1)[:, 4:9]
    )  # the originals themselves
    assert (
        "40 against 40 texts" in reference_metrics.describe(40)["mauve"]
        and "4 clusters" in reference_metrics.describe(40)["mauve"]
    )


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")  # of faiss
def test_what_takes_long_shows_progress(phases):
    References(["a b", "c"])
    assert phases() == {"dataset BLEU: count the training texts": "2/2"}
    pytest.importorskip("mauve")
    tokens = torch.randint(3, 250, (20, 12), generator=torch.Generator().manual_seed(1))
    mauve(tiny.modality().model, tokens, tokens.flip(1))
    assert phases() == {"MAUVE: features": "40/40"}
