"""What the tests of the suite share: its scripts, a plan for the toy, and one finished suite."""

import pytest

from tests.benchmarks.scripts import load
from tests.conftest import QUICK_TOY

OPTIONS = {name: value for name, value in QUICK_TOY.items() if name not in ("data", "held_out_samples", "device")}


@pytest.fixture(scope="session")
def cross_domain():
    return load("cross_domain")


@pytest.fixture(scope="session")
def toy_options(toy_base):
    """Keywords of `hypergen.fit` that all trainings share."""
    return {"modality": "toy", "model": toy_base, **OPTIONS}


@pytest.fixture(scope="session")
def base(toy_options):
    options = {"options": toy_options, "other_data": "numbers", "other_layers": 1}
    return load("presets").BasePlan(name="toy", **options, count=8)


@pytest.fixture(scope="session")
def folder(cross_domain, base, tmp_path_factory):
    """A finished suite of two seeds: `records` and `work`."""
    folder = tmp_path_factory.mktemp("suite")
    cross_domain.suite([base], [0, 1], {}, folder / "records", folder / "work", "cpu")
    return folder
