"""A PEFT adapter is merged into its base, or one line says what it lacks.

Alone: pytest tests/text/test_peft_adapter.py
"""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from hypergen import registry
from hypergen.cli import main as cli
from hypergen.errors import InputError
from hypergen.runtime import dependencies
from hypergen.text.config import Settings
from hypergen.text.peft_adapter import PEFT, PeftAdapter, find_adapter
from tests.text import tiny

RANK, SCALE = 2, 4.0
TARGET = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def base(tmp_path):
    tiny.modality().save(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def lora(base, tmp_path):
    """A LoRA of one projection, as `PeftModel.save_pretrained` writes it."""
    folder, generator = tmp_path / "lora", torch.Generator().manual_seed(0)
    folder.mkdir()
    content = {
        "base_model_name_or_path": str(base),
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK * SCALE,
        "target_modules": [TARGET],
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(content))
    shapes = {"lora_A": (RANK, 32), "lora_B": (32, RANK)}
    weights = {
        f"base_model.model.{TARGET}.{name}.weight": torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def added(folder):
    """What the adapter adds to its projection."""
    weights = load_file(folder / "adapter_model.safetensors")
    down, up = (weights[f"base_model.model.{TARGET}.{name}.weight"] for name in ("lora_A", "lora_B"))
    return SCALE * up @ down


@pytest.fixture
def stand_in(monkeypatch):
    """A library that merges this one kind of adapter; the real one has a test of its own."""

    class Merged:
        def __init__(self, causal, folder):
            self.causal, self.folder = causal, folder

        def merge_and_unload(self, safe_merge):
            assert safe_merge
            with torch.no_grad():
                self.causal.get_submodule(TARGET).weight += added(self.folder)
            return self.causal

    peft = ModuleType("peft")
    peft.__spec__ = ModuleSpec("peft", None)
    peft.PeftModel = type(
        "PeftModel",
        (),
        {"from_pretrained": staticmethod(lambda causal, folder, **_: Merged(causal, Path(folder)))},
    )
    monkeypatch.setitem(sys.modules, "peft", peft)
    return peft


def check_merged(base, lora):
    plain, merged = tiny.load(base).model.causal, tiny.load(lora)
    weight = plain.get_submodule(TARGET).weight + added(lora)
    torch.testing.assert_close(merged.model.causal.get_submodule(TARGET).weight, weight)
    others = {name for name, one in plain.named_parameters() if TARGET not in name}
    for name, one in merged.model.causal.named_parameters():
        assert name not in others or one.equal(plain.get_parameter(name))
    assert merged.model.supports_left_padding  # an ordinary model again, which packs its weights
    return merged


def test_an_adapter_is_merged_into_its_base(base, lora, stand_in, tmp_path):
    merged = check_merged(base, lora)
    merged.save(tmp_path / "whole")
    again = tiny.load(tmp_path / "whole")
    assert again.model.causal.get_submodule(TARGET).weight.equal(merged.model.causal.get_submodule(TARGET).weight)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
def test_peft_merges_it_so(base, lora):
    check_merged(base, lora)


def test_its_own_tokenizer_counts(lora, stand_in):
    assert tiny.load(lora).tokenizer.get_vocab() == tiny.tokenizer().get_vocab()
    tiny.tokenizer().save_pretrained(lora)
    path = lora / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "e"}))
    assert tiny.load(lora).tokenizer.eos_token == "e"


def test_a_folder_is_an_adapter_only_without_a_whole_model(base, lora, tmp_path):
    assert find_adapter(str(lora)) == PeftAdapter(lora, str(base))
    assert find_adapter(str(base)) is None and find_adapter("org/name") is None
    (lora / "config.json").write_text("{}")
    assert find_adapter(str(lora)) is None


def test_a_base_beside_the_adapter_is_found(lora, tmp_path):
    path = lora / "adapter_config.json"
    path.write_text(json.dumps({"base_model_name_or_path": "../base"}))
    assert find_adapter(str(lora)).base == str(lora / "../base")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "base_model_name_or_path must name the model that the adapter is of"),
        ('{"base_model_name_or_path": null}', "base_model_name_or_path must name"),
        ("{", "adapter_config.json"),
        ('{"base_model_name_or_path": "/no/such/base"}', "/no/such/base: no such folder"),
    ],
)
def test_a_broken_adapter_is_one_line(content, said, lora, stand_in):
    (lora / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=said) as error:
        tiny.load(lora)
    assert "\n" not in str(error.value)


def test_weights_must_be_safetensors(lora):
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(InputError, match=r"is a PEFT adapter of .*, and has no adapter_model.safetensors$"):
        tiny.load(lora)


def test_one_that_does_not_fit_is_one_line(lora, stand_in, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("size mismatch\nfor everything")

    monkeypatch.setattr(stand_in.PeftModel, "from_pretrained", fail)
    with pytest.raises(InputError, match=r"cannot be merged into its base .* \(size mismatch\)$"):
        tiny.load(lora)


def test_an_adapter_does_not_stay_in_files(lora, stand_in):
    with pytest.raises(InputError, match=r"^--offload: .* is a PEFT adapter, which is merged in memory$"):
        tiny.load(lora, Settings(sequence_length=16, prompt_length=4, offload=True))


def test_the_command_line_knows_it(lora, base, stand_in, capsys):
    assert registry.identify(lora).modality == "text"
    options = ["--prompt", "The ferryman", "--max-new-tokens", "4", "--device", "cpu"]
    assert cli.main(["generate", str(lora), *options]) == 0
    assert capsys.readouterr().out.startswith("--- 1")


def test_without_the_library_one_line_says_what_it_is(lora, monkeypatch, capsys):
    monkeypatch.setattr(dependencies, "is_installed", lambda _: False)
    assert cli.main(["generate", str(lora), "--prompt", "a", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert f"{lora}: is a PEFT adapter of" in said and f"needs peft (pip install '{PEFT}')" in said
