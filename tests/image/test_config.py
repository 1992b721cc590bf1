"""The options of pictures, importable without torch. Alone: pytest tests/image/test_config.py"""

import json
import subprocess
import sys

import pytest

from hypergen.errors import InputError
from hypergen.image import config
from hypergen.image.config import Settings, recognizes


@pytest.mark.parametrize(
    "options",
    [{"prompt_fraction": 1}, {"prompt_fraction": -0.1}, {"prompt_fraction": float("nan")}, {"prompt_fraction": "1"},
     {"prompt_fraction": True}, {"codec": "jpeg"}, {"image_size": 0}, {"image_size": 2.5}, {"mirror": 1},
     {"codec_steps": 0}, {"codec_steps": None}, {"codec_steps": 1.5}],
)  # fmt: skip
def test_settings_are_checked(options):
    with pytest.raises(InputError, match=r"^--"):
        Settings(**options)


def test_only_imagegpt_is_recognized(tmp_path):
    assert recognizes({"model_type": "imagegpt"})
    assert not any(map(recognizes, [{}, {"model_type": "gpt2"}, {"model_type": None}, {"_class_name": "VQModel"}]))


def test_there_is_nothing_to_set_for_a_model_without_a_card():
    assert config.PAPER_RECIPE == {} and "cifar10" in config.SOURCES and "hub:" in config.SOURCES


def test_the_options_can_be_listed_without_torch_or_pictures():
    code = "import sys, json, hypergen.image.config; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = {name.split(".")[0] for name in json.loads(found.stdout)}
    assert not loaded & {"torch", "PIL", "numpy", "diffusers", "transformers", "einops"}
