"""Options of text, and what it says about its sources and models. Alone: pytest tests/text/test_config.py"""

import subprocess
import sys

import pytest

from hypergen.data.compressed import SUFFIXES as COMPRESSED
from hypergen.errors import InputError
from hypergen.text.config import PAPER_RECIPE, SOURCES, Settings, recognizes
from hypergen.text.sources import SUFFIXES


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"sequence_length": 1}, "--sequence-length 1: must be a whole number, 2 or more"),
        ({"prompt_length": 0}, "--prompt-length 0: must be a whole number, 1 or more"),
        ({"prompt_length": None}, "--prompt-length None: must be a whole number, 1 or more"),
        ({"hub_rows": 0}, "--hub-rows 0: must be a whole number, 1 or more"),
        ({"resident_blocks": -1}, "--resident-blocks -1: must be a whole number, 0 or more"),
        ({"text_field": 3}, "--text-field 3: must be text without NUL characters"),
        ({"offload": 1}, "--offload 1: must be true or false"),
        ({"pack": 1}, "--pack 1: must be true or false"),
        ({"pad": 1}, "--pad 1: must be true or false"),
        ({"chat": 1}, "--chat 1: must be true or false"),
        ({"pack": True, "pad": True}, "--pack and --pad: give one of them"),
    ],
    ids=str,
)
def test_a_value_that_is_not_allowed_is_named(wrong, line):
    with pytest.raises(InputError) as error:
        Settings(**wrong)
    assert str(error.value) == line


def test_only_the_sequence_length_is_open_and_the_paper_fills_it():
    assert [name for name, value in vars(Settings()).items() if value is None] == list(PAPER_RECIPE)
    assert Settings(**PAPER_RECIPE).sequence_length == 256


def test_any_configuration_may_be_a_language_model():
    assert recognizes({"model_type": "llama"}) and recognizes({})


def test_the_phrase_for_help_names_every_kind_of_source():
    assert all(
        kind in SOURCES for kind in ("stories", *SUFFIXES, *COMPRESSED, "folder", "save_to_disk", "hub:ID[:SPLIT]")
    )


def test_is_importable_without_heavy_libraries():
    heavy = "{'torch', 'numpy', 'transformers', 'tokenizers', 'datasets'}"
    code = f"import sys; import hypergen.text.config; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
