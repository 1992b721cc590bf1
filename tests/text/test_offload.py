"""Blocks in files give the numbers of blocks in memory, one at a time. Alone: pytest tests/text/test_offload.py"""

from __future__ import annotations

import copy
import gc
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.utils import OffloadedWeightsLoader
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hypergen
from hypergen import testing as contract
from hypergen.cli import main as cli
from hypergen.errors import InputError
from hypergen.storage.metrics_log import read_metrics
from hypergen.text import adapter, checkpoint, offload
from hypergen.text.config import Settings
from hypergen.training import activation_cache
from hypergen.training.activation_cache import ActivationCache
from tests.text import tiny

SETTINGS = Settings(sequence_length=16, prompt_length=4, offload=True)
FITTED = {
    **{"num_samples": 6, "epochs": 2, "batch_size": 4, "last_layers": 1, "learning_rate": 1e-3, "device": "cpu"},
    **{"held_out_samples": 4, "max_new_tokens": 5, "sequence_length": 16, "prompt_length": 4, "measure_every": 1},
}
MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": tiny.CONTEXT}


def saved(folder, kind, **changes):
    """A random 16-bit model in shards of a fraction of a block."""
    causal = tiny.causal(kind, **changes).to(torch.bfloat16)
    causal.save_pretrained(folder, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def sharded(request, tmp_path_factory):
    """An untied and a tied model."""
    folder = saved(tmp_path_factory.mktemp(request.param), request.param)
    assert len(list(folder.glob("*.safetensors"))) > 5
    return folder


def resident(model):
    return [number for number, block in enumerate(model.blocks) if not offload.is_offloaded(block)]


def tokens(rows=10, length=16):
    return tiny.tokens(rows, length)


def load_offloaded(folder, resident_blocks=1):
    return tiny.load(folder, replace(SETTINGS, resident_blocks=resident_blocks))


@pytest.mark.parametrize("kind", tiny.ARCHITECTURES)
def test_contract(kind, tmp_path):
    contract.check_model(load_offloaded(saved(tmp_path, kind)).model, tokens(3, 24))


def test_experts_that_transformers_merges_go_through_a_folder_that_vanishes(tmp_path, monkeypatch):
    monkeypatch.setattr(offload.tempfile, "tempdir", str(tmp_path))
    folder = saved(tmp_path / "base", "mixtral", **MIXTURE)
    there, here = load_offloaded(folder), tiny.load(folder)
    assert there.model(tokens()).equal(here.model(tokens()))
    assert len(list(tmp_path.iterdir())) == 2
    there.save(tmp_path / "again")
    assert tiny.load(tmp_path / "again").model(tokens()).equal(here.model(tokens()))
    del there
    gc.collect()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "base"]


def test_a_fit_gives_the_same_bytes(sharded, tmp_path, text_data):
    runs = {}
    for name, offloaded in (("there", True), ("here", False)):
        options = FITTED | {"model": str(sharded), "data": text_data, "output": str(tmp_path / name)}
        runs[name] = hypergen.fit(modality="text", offload=offloaded, **options)
    there, here = runs["there"], runs["here"]
    assert there.modality.model.offloaded and there.record["training"]["cached"]
    assert there.records == here.records
    losses = [[row["loss"] for row in read_metrics(run.folder)] for run in runs.values()]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    reloaded = [AutoModelForCausalLM.from_pretrained(run.folder).state_dict() for run in runs.values()]
    assert reloaded[0].keys() == reloaded[1].keys()
    assert all(weight.equal(reloaded[1][name]) for name, weight in reloaded[0].items())
    again = hypergen.load(there.folder, device="cpu")
    assert again.modality.model.offloaded and resident(again.modality.model) != [0, 1, 2, 3]
    assert again.generate("The", max_new_tokens=4) == here.generate("The", max_new_tokens=4)


@pytest.mark.parametrize("last_layers", [1, 2])
def test_one_frozen_block_is_in_memory(sharded, last_layers):
    model, seen = load_offloaded(sharded, last_layers).model, []
    trained = list(range(4 - last_layers, 4))
    for block in model.blocks:
        block.register_forward_hook(lambda *_: seen.append(resident(model)))
    with torch.no_grad():
        cache = ActivationCache.build(model, tokens(), last_layers, batch_size=4)
    assert {tuple(numbers) for numbers in seen} == {(number, *trained) for number in range(4 - last_layers)}
    here = tiny.load(sharded).model
    with torch.no_grad():
        assert cache.states.equal(ActivationCache.build(here, tokens(), last_layers, batch_size=4).states)


def test_a_block_is_read_once_for_all_sequences(sharded, monkeypatch):
    model, read = load_offloaded(sharded).model, []
    with torch.no_grad():
        model.hidden_before(tokens(), 1)  # the cut is looked at once, too
        monkeypatch.setattr(activation_cache, "_is_exact", lambda *_: True)
        original = OffloadedWeightsLoader.__getitem__
        monkeypatch.setattr(
            OffloadedWeightsLoader, "__getitem__", lambda self, name: read.append(name) or original(self, name)
        )
        ActivationCache.build(model, tokens(), 1, batch_size=2)
    assert len(read) == len(set(read)) == sum(len(list(block.parameters())) for block in model.blocks[:3])


def test_weights_keep_their_numbers_through_conversions(sharded):
    model = load_offloaded(sharded, 0).model
    expected = model(tokens())
    assert model.to("cpu").double().float().train().eval()(tokens()).equal(expected)
    assert copy.deepcopy(model)(tokens()).equal(expected)


def test_a_model_saved_without_training(sharded, tmp_path):
    load_offloaded(sharded, 0).save(tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert max(sizes) < sum(sizes) / 4  # written in parts of about a block
    assert tiny.load(tmp_path).model(tokens()).equal(load_offloaded(sharded, 0).model(tokens()))


def test_broken_files(sharded, tmp_path):
    folder = Path(shutil.copytree(sharded, tmp_path / "base"))
    model = load_offloaded(folder).model
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        file.rename(file.with_suffix(".moved"))
    with pytest.raises(InputError, match=r"base: weight .* of a block can no longer be read"):
        model(tokens())
    for file in files:
        weights = load_file(file.with_suffix(".moved"))
        broken = {name: weight * torch.nan if ".0." in name else weight for name, weight in weights.items()}
        save_file(broken, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"base: weight .* of a block has values that are not finite"):
        load_offloaded(folder)


@pytest.fixture
def no_load(monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(checkpoint, "_from_pretrained", load)


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["--last-layers", "0"], "--offload: --last-layers 0 trains every block, so none can stay in a file"),
        ([], "--offload: --last-layers 0 trains every block"),
        (["--last-layers", "4"], "--offload: --last-layers or --resident-blocks 4 leaves none of the 4 blocks"),
        (["--last-layers", "1", "--allow-pickle-weights"], "--offload: reads safetensors only"),
    ],
)
def test_refused_before_a_model_is_loaded(refused_fit, no_load, arguments, line):
    assert line in refused_fit("--offload", *arguments, model_needed=True)


def test_refused_by_other_verbs_modalities_and_processes(refused, monkeypatch, no_load, text_base):
    assert "--offload: not an option of modality 'image'" in refused("fit", "--modality", "image", "--offload")
    with pytest.raises(InputError, match="--offload 1: must be true or false"):
        Settings(offload=1)
    said = refused("pretrain", "--modality", "text", "--data", "stories", "--output", "new", "--offload")
    assert "--offload: only fit and generate read it" in said
    monkeypatch.setattr(adapter, "is_distributed", lambda: True)
    with pytest.raises(InputError, match="--offload: runs in one process"):
        load_offloaded(text_base)


def test_refused_with_pickled_weights_only(sharded, tmp_path, no_load):
    folder = Path(shutil.copytree(sharded, tmp_path / "base"))
    for file in folder.glob("model*"):
        file.rename(file.with_name(f"pytorch_{file.name}.bin"))
    with pytest.raises(InputError, match="has only pickled weights"):
        load_offloaded(folder)


def test_generate_reads_a_base_block_by_block(sharded, capsys):
    arguments = ["generate", str(sharded), "--prompt", "The", "--max-new-tokens", "3", "--device", "cpu", "--json"]
    assert cli.main([*arguments, "--offload"]) == 0
    there = capsys.readouterr()
    assert cli.main(arguments) == 0
    assert there.out == capsys.readouterr().out and "meta" not in there.err


def test_resident_blocks_without_a_fit(sharded):
    for count in (0, 1, 2):  # and one from a file, which ran last
        assert resident(load_offloaded(sharded, count).model) == list(range(3 - count, 4))
    with pytest.raises(InputError, match="--last-layers or --resident-blocks 4 leaves none of the 4 blocks"):
        load_offloaded(sharded, 4)


def test_every_cut_is_a_stage(sharded):
    model = load_offloaded(sharded).model
    assert list(model.cache_stages(1)) == [3, 2, 1] and list(model.cache_stages(3)) == [3]


def test_any_weight_is_read_by_its_name(sharded):
    there, here = load_offloaded(sharded).model, tiny.load(sharded).model
    assert not all(block in resident(there) for block in range(len(there.blocks)))
    before = resident(there)
    for name, weight in here.causal.named_parameters(remove_duplicate=False):
        assert (
            offload.read_weight(there.causal, name).equal(weight) and offload.read_weight(here.causal, name) is weight
        )
    assert resident(there) == before
