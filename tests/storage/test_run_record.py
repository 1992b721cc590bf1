"""The record of a run and its fingerprints. Alone: pytest tests/storage/test_run_record.py"""

import json
from dataclasses import replace
from importlib import metadata

import pytest
import torch

import hypergen
from hypergen.config import FitConfig, PretrainConfig
from hypergen.storage.run_record import data_fingerprint, fixed_options, lasting_name, run_facts, tensor_sha256
from tests.toy.config import Settings

CONFIG = FitConfig(modality="toy", model="base", data="numbers", epochs=3)
TOKENS = torch.arange(6).reshape(2, 3)


def facts(config=CONFIG, libraries=()):
    return run_facts(config, Settings(), TOKENS, torch.device("cpu"), libraries=libraries)


def test_the_record_holds_options_data_and_machine():
    found = facts()
    assert found["modality"] == "toy" and found["config"]["epochs"] == 3
    assert found["settings"]["prompt_length"] == Settings().prompt_length
    assert found["sequences"] == [2, 3] and found["data_sha256"] == tensor_sha256(TOKENS)
    assert found["machine"]["device"] == "cpu" and found["machine"]["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found


def test_a_loss_mask_is_recorded_where_there_is_one():
    assert not {"loss_mask_sha256", "counted_tokens"} & facts().keys()
    found = run_facts(CONFIG, Settings(), TOKENS, torch.device("cpu"), libraries=(), loss_mask=TOKENS > 1)
    assert found["counted_tokens"] == 3 and found["loss_mask_sha256"] == tensor_sha256(TOKENS > 1)  # 2, 4 and 5


def test_the_adapter_says_which_libraries_count():
    assert facts()["versions"].keys() == {"hypergen", "torch", "safetensors", "python"}
    versions = facts(libraries=["numpy"])["versions"]
    assert versions["numpy"] == metadata.version("numpy") and versions["hypergen"] == hypergen.__version__


def test_the_version_needs_no_distribution_of_this_name(monkeypatch):
    def version(name):
        if name == "hypergen":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    assert facts()["versions"]["hypergen"] == hypergen.__version__


def test_no_secret_is_recorded():
    secret = "hf_" + "a1" * 15
    config = replace(CONFIG, data=f"hub:https://me:password@host/{secret}")
    for record in (facts(config), fixed_options(config, Settings())):
        assert secret not in str(record) and "password" not in str(record)


@pytest.mark.parametrize("change", [{"epochs": 4}, {"seed": 1}, {"data": "others"}, {"learning_rate": 1e-3}])
def test_an_option_that_matters_is_fixed(change):
    assert fixed_options(replace(CONFIG, **change), Settings()) != fixed_options(CONFIG, Settings())


@pytest.mark.parametrize("change", [{"output": "x"}, {"resume": True}, {"device": "cpu"}, {"checkpoint_every": 9}])
def test_an_option_that_changes_no_result_is_free(change):
    assert fixed_options(replace(CONFIG, **change), Settings()) == fixed_options(CONFIG, Settings())


def test_settings_are_fixed_as_well_and_named_by_flag():
    config = PretrainConfig(modality="toy", data="numbers", output="out")
    fixed = fixed_options(config, Settings())
    assert {"--data", "--prompt-length"} <= fixed.keys() and "--output" not in fixed
    assert fixed_options(config, replace(Settings(), prompt_length=7))["--prompt-length"] == 7


def test_other_data_have_another_fingerprint():
    assert data_fingerprint(TOKENS) == data_fingerprint(TOKENS.clone())
    assert data_fingerprint(TOKENS) != data_fingerprint(TOKENS + 1)
    masks = [None, TOKENS > 1, TOKENS > 2]
    assert len({str(data_fingerprint(TOKENS, mask)) for mask in masks}) == 3
    assert tensor_sha256(torch.zeros(0)) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_folder_gets_its_whole_path_and_a_hub_id_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert lasting_name("base") == str(tmp_path.resolve() / "base")
    (tmp_path / "base.gguf").write_text("")
    assert lasting_name("base.gguf") == str(tmp_path.resolve() / "base.gguf")
    assert lasting_name("someone/some-model") == "someone/some-model"
