"""Completions against training pictures and originals. Alone: pytest tests/image/test_reference_metrics.py"""

import pytest
import torch

from hypergen.image import reference_metrics
from hypergen.image.adapter import METRICS
from hypergen.image.distribution_metrics import coverage_values, kid
from hypergen.image.features import features
from hypergen.image.pixels import to_pixels
from hypergen.runtime import dependencies
from tests.image.tiny import SIZE, base, pictures


@pytest.fixture(scope="module", params=["vq", "colors"])
def measured(request):
    """A base, training pictures, originals, and the metrics that compare with both."""
    modality = base(request.param)
    training, originals = modality.encode(pictures(6, seed=1)), modality.encode(pictures(7, seed=2))
    return modality, training, originals, modality.reference_metrics(training, originals)


def split(modality, tokens):
    first = modality.prompts(tokens).shape[1]
    return tokens[:, :first], tokens[:, first:]


def test_a_recited_picture_is_no_distance_away(measured):
    modality, training, originals, references = measured
    assert references.compute(*split(modality, training))["nearest_training"].tolist() == [0] * 6
    assert bool((references.compute(*split(modality, originals))["nearest_training"] > 0).all())


def test_the_originals_cover_themselves(measured):
    modality, _, originals, references = measured
    found = references.compute(*split(modality, originals.flip(0)))
    assert (found["precision"].tolist(), found["recall"].tolist()) == ([1] * 7, [1] * 7)
    assert found["kid"].shape == (7,) and list(found) == ["nearest_training", "precision", "recall", "kid"]


def test_the_originals_beside_themselves_say_nothing(measured):
    modality, _, originals, references = measured
    assert list(references.compute(*split(modality, originals))) == ["nearest_training"]


def test_distances_are_those_of_features_scaled_by_the_originals(measured):
    modality, training, originals, references = measured
    found = references.compute(*split(modality, training))
    generated, real = (features(to_pixels(modality.decode(tokens), SIZE)) for tokens in (training, originals))
    scale = real.std(0, correction=0).clamp(min=1e-6)
    generated, real = ((part - real.mean(0)) / scale for part in (generated, real))
    assert found["kid"].mean().item() == pytest.approx(kid(generated, real))
    assert found["recall"].equal(coverage_values(generated, real)["recall"])


def test_only_completed_rows_are_compared():
    """Other upper rows change nothing, where the codec lets no code shine through to its neighbours."""
    modality = base("colors")
    training = modality.encode(pictures(6, seed=1))
    references = modality.reference_metrics(training, training)
    prompts, completions = split(modality, training)
    assert references.compute(prompts.flip(0), completions)["nearest_training"].tolist() == [0] * 6


def test_every_metric_has_a_head_and_a_meaning(measured):
    modality, _, originals, references = measured
    rows = split(modality, originals.flip(0))
    assert {
        *modality.metrics(*rows),
        *references.compute(*rows),
        *references.describe(7),
    } <= METRICS.keys()


def test_descriptions_name_features_sizes_and_why_not_fid(measured):
    notes = measured[-1].describe(6)
    assert notes["kid"].startswith("6 against 7 pictures; features of untrained convolutions")
    assert notes["fid"] == "not measured: 6 against 7 pictures, below 2,048; KID is used"
    assert notes["nearest_training"].startswith("6 training pictures")


def test_fid_is_taken_of_enough_pictures(measured, monkeypatch):
    modality, training, _, references = measured
    monkeypatch.setattr(reference_metrics, "LEAST_FOR_FID", 5)
    monkeypatch.setattr(reference_metrics, "fid", lambda generated, real: 1.5)
    assert references.compute(*split(modality, training))["fid"] == 1.5
    assert "not comparable with Inception FID" in references.describe(6)["fid"]


def test_few_pictures_and_missing_libraries_leave_metrics_out(measured, monkeypatch):
    modality, training, _, references = measured
    prompts, completions = split(modality, training[:3])
    assert list(references.compute(prompts, completions)) == ["nearest_training", "kid"]
    monkeypatch.setattr(dependencies, "is_installed", lambda module: False)
    assert list(references.compute(prompts, completions)) == ["nearest_training"]
    assert references.describe(3)["kid"] == "not measured: needs torchmetrics (pip install 'torchmetrics>=1.8')"


def test_the_references_do_not_change_with_the_model():
    modality = base()
    tokens = modality.encode(pictures(6, seed=1))
    references = modality.reference_metrics(tokens, tokens)
    prompts, completions = split(modality, tokens)
    before = references.compute(prompts, completions)
    weight = next(modality.model.parameters())
    with torch.no_grad():
        weight.add_(1)
        after = references.compute(prompts, completions)
        weight.sub_(1)
    assert all(before[name].equal(after[name]) for name in before)


def test_what_takes_long_shows_progress(phases):
    modality = base("colors")
    training = modality.encode(pictures(6, seed=1))
    phases()
    references = modality.reference_metrics(training, training[:5])
    assert phases() == {"decode pictures": "5/5", "picture features": "5/5"}
    references.compute(*split(modality, training))
    assert phases() == {"decode pictures": "6/6", "nearest training picture": "6/6", "picture features": "6/6"}
