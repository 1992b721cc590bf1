"""Small runs of the toy and of a random text model, for the commands that read a run."""

import pytest

import hypergen
from tests.conftest import QUICK_TOY


@pytest.fixture(scope="package")
def toy_run(toy_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return str(hypergen.fit(model=toy_base, output=str(folder), **QUICK_TOY | {"epochs": 8}).folder)


@pytest.fixture(scope="package")
def text_run(text_base, text_data, tmp_path_factory):
    options = {"sequence_length": 16, "prompt_length": 4, "num_samples": 16, "epochs": 2, "learning_rate": 1e-3}
    folder = tmp_path_factory.mktemp("runs") / "text"
    hypergen.fit(model=text_base, data=text_data, output=str(folder), device="cpu", held_out_samples=6, **options)
    return str(folder)
