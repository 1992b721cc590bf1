"""Bad options, configuration files and libraries (matrix D4): one clear line and exit 2, or a defined
result; nothing is written, no traceback, no cost. Alone: pytest tests/faults/test_settings.py"""

import contextlib
import re
import subprocess
import sys

import pytest
import torch

import hypergen
from hypergen.cli import main as cli
from hypergen.config import DecodingConfig, EvaluateConfig, FitConfig, PretrainConfig
from hypergen.errors import InputError
from hypergen.runtime.dependencies import require_versions
from hypergen.text.config import Settings
from tests.faults.measured import LINUX, refusal

pytestmark = pytest.mark.usefixtures("offline")

BAD_VALUES = {
    "--epochs 0": "--epochs 0: must be a whole number, 1 or more",
    "--epochs 1.5": "--epochs '1.5': must be a whole number",
    "--learning-rate -1": "--learning-rate -1.0: must be a finite number above 0",
    "--learning-rate nan": "--learning-rate nan: must be a finite number above 0",
    "--learning-rate inf": "--learning-rate inf: must be a finite number above 0",
    "--target-loss -0.1": "--target-loss -0.1: must be finite, 0 nats per token or more",
    "--batch-size 0": "--batch-size 0: must be a whole number, 1 or more",
    "--last-layers -1": "--last-layers -1: must be a whole number, 0 or more",
    "--seed 18446744073709551616": "--seed 18446744073709551616: must be below 2^63",
    "--skip-bad -1": "--skip-bad -1: must be a whole number, 0 or more",
    "--sequence-length 1": "--sequence-length 1: must be a whole number, 2 or more",
    "--precision fp8": "fp8",
    "--device tape": "--device 'tape': must be auto, cpu, cuda, cuda:N or mps",
    "--epoch 3": "--epoch: unknown option of fit; did you mean --epochs?",
    "--image-size 32": "--image-size: not an option of modality 'text'",
}


@pytest.mark.parametrize("arguments", BAD_VALUES)
def test_d4_bad_value(arguments, refused_fit):
    assert BAD_VALUES[arguments] in refused_fit(*arguments.split())


def test_d4_more_last_layers_than_the_model_has(refused_fit):
    assert "--last-layers 9: the model has 4 blocks" in refused_fit("--last-layers", "9", model_needed=True)


BAD_DECODING = {
    "--block-citations 1": "--block-citations 1: must be a whole number, 2 or more",
    "--top-p 0": "--top-p 0.0: must be above 0 and at most 1",
    "--top-p 1.1": "--top-p 1.1: must be above 0 and at most 1",
    "--min-p 2": "--min-p 2.0: must be between 0 and 1",
    "--top-k 0": "--top-k 0: must be a whole number, 1 or more",
    "--temperature 0": "--temperature 0.0: must be a finite number above 0",
    "--temperature -1": "--temperature -1.0: must be a finite number above 0",
    "--repetition-penalty 0": "--repetition-penalty 0.0: must be a finite number above 0",
    "--max-new-tokens 0": "--max-new-tokens 0: must be a whole number, 1 or more",
    "--count 0": "--count 0: must be a whole number, 1 or more",
}


@pytest.mark.parametrize("arguments", BAD_DECODING)
def test_d4_bad_decoding(arguments, refused, text_base, monkeypatch):
    monkeypatch.setattr("hypergen.text.adapter.load", None)
    assert BAD_DECODING[arguments] in refused("generate", text_base, "--prompt", "a", *arguments.split())


def test_d4_limits_that_are_allowed():
    assert DecodingConfig(strategy="top-p", top_p=1.0, min_p=0, block_citations=0, seed=2**63 - 1).top_p == 1.0


def test_d4_a_batch_larger_than_the_set_is_the_whole_set(text_base, text_data):
    options = {"sequence_length": 16, "prompt_length": 4, "num_samples": 8, "epochs": 2, "learning_rate": 1e-3}
    run = hypergen.fit(model=text_base, data=text_data, output="run", device="cpu", batch_size=999, **options)
    assert run.record["training"]["steps"] == run.record["training"]["epochs"]


def test_d4_wrong_types_from_python(text_base, tmp_path):
    needed = {"modality": "text", "output": "a"}
    for make, said in {
        lambda: FitConfig(data=3): "--data 3: must be text",
        lambda: FitConfig(model=["a"]): "--model",
        lambda: FitConfig(output="a\0b"): "--output",
        lambda: PretrainConfig(data=None, **needed): "--data None",
        lambda: EvaluateConfig(baseline=1): "--baseline 1",
        lambda: FitConfig(allow_pickle_weights="yes"): "--allow-pickle-weights 'yes': must be true or false",
        lambda: Settings(text_field=3): "--text-field 3",
        lambda: hypergen.fit(model=text_base, epoch=3): "epoch: not an option of modality 'text'",
    }.items():
        with pytest.raises(InputError) as error:
            make()
        assert said in str(error.value)
    assert FitConfig(output=tmp_path).output == str(tmp_path)


BAD_CONFIGS = {
    "cut.json": (b'{"epochs": 3', "is not JSON (Expecting ',' delimiter at character 13)"),
    "list.json": (b"[1]", "is an array, not an object"),
    "deep.json": (b"[" * 100_000, "is nested deeper than 64"),
    "twice.json": (b'{"epochs": 3, "epochs": 4}', "has a key twice"),
    "latin.json": (b'{"data": "caf\xe9"}', "not UTF-8 at byte 13"),
    "nul.json": (b'{"data": "\0"}', "has a NUL byte at byte 10"),
    "unknown.json": (b'{"epoch": 3}', "--epoch: unknown option of fit"),
    "type.json": (b'{"target_loss": "low"}', "--target-loss 'low': must be a number"),
    "nested.json": (b'{"target_loss": {"a": 1}}', "target_loss must be one value or a list"),
    "value.json": (b'{"learning_rate": NaN}', "--learning-rate nan: must be a finite number above 0"),
    "bad.toml": (b"epochs: 3", "is not TOML"),
    "deep.toml": (b"a = " + b"[" * 100_000, "is not TOML"),
    "latin.toml": (b'data = "caf\xe9"', "is not TOML"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_d4_bad_config_file(name, refused_fit, tmp_path):
    content, said = BAD_CONFIGS[name]
    (tmp_path / name).write_bytes(content)
    assert said in refused_fit("--config", name)


def test_d4_a_config_file_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"epochs": 3}')
    assert cli.parse(["fit", "--config", "a.json"]).fit.epochs == 3


@LINUX
@pytest.mark.parametrize("reader, name", [("config", "a.json"), ("config", "a.toml"), ("record", "hypergen.json")])
def test_d4_a_huge_config_file(reader, name, tmp_path):
    with (tmp_path / name).open("wb") as file:
        file.truncate(2**30)
    assert "is larger than 16 MiB" in refusal(reader, tmp_path / name)


def test_d4_bf16_on_a_processor_without_it_is_told(monkeypatch, capsys):
    from hypergen.runtime.devices import pick_device

    for units, lines in (({"avx2": True}, 1), ({"avx512_bf16": True}, 0), ({"bf16": True}, 0)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda units=units: units)
        pick_device("cpu", "bf16")
        pick_device("cpu", "fp32")
        assert capsys.readouterr().err.count("has no bf16 units") == lines


@pytest.mark.parametrize("library, installed", [("torch", "2.10.1+cpu"), ("transformers", "4.57.0"), ("torch", None)])
def test_libraries_that_are_too_old(library, installed):
    """At the first import of a name and on the command line, in one line, before the library is imported."""
    prepare = (
        "from importlib import metadata\nfind = metadata.version\n"
        f"def version(name):\n    if name != {library!r}: return find(name)\n"
        f"    if {installed!r}: return {installed!r}\n"
        "    raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\nimport sys\n"
    )
    command = (
        prepare
        + "from hypergen.cli.main import main; code = main(['fit']); assert 'torch' not in sys.modules\nexit(code)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(rf"hypergen: {library} \d+\.\d+ or newer is needed.* \(pip install .*\)\n", done.stderr)
    done = subprocess.run([sys.executable, "-c", prepare + "from hypergen import fit"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(f"hypergen.errors.InputError: {library} ")
    with contextlib.suppress(InputError):
        require_versions()
