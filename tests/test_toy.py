"""The toy modality keeps the whole contract. Alone: pytest tests/test_toy.py"""

import json

import pytest
import torch
from torch.nn import functional

from hypergen import registry
from hypergen import testing as contract
from hypergen.config import PretrainConfig
from hypergen.errors import InputError
from hypergen.runtime.signals import SignalWatch
from hypergen.training.checkpoints import Checkpoints
from tests.toy import adapter
from tests.toy.adapter import numbers, toy
from tests.toy.config import Settings


def read(source):
    return adapter.read(source=source, settings=Settings(), skip_bad=0)


def encoded(modality, count=5):
    return modality.encode(numbers(count, modality.settings))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_model_keeps_the_contract(seed, num_layers):
    modality = toy(seed=seed, num_layers=num_layers)
    contract.check_model(modality.model, encoded(modality))


def test_codec_keeps_the_contract(tmp_path):
    modality = toy()
    items = numbers(5, Settings())
    contract.check_codec(modality, items)
    contract.check_written(modality, items, tmp_path)


def test_save_and_load(tmp_path):
    modality = toy(seed=4)
    contract.check_saved(modality, adapter, Settings(), numbers(5, Settings()), tmp_path)


def test_same_seed_same_model_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first, second, other = toy(seed=1), toy(seed=1), toy(seed=2)
    assert torch.get_rng_state().equal(before)
    assert first.model.embedding.weight.equal(second.model.embedding.weight)
    assert not first.model.embedding.weight.equal(other.model.embedding.weight)


def test_items_come_back_from_tokens():
    modality = toy()
    items = [[1, 2, 3], [15, 0, 1, 2]]
    tokens = modality.encode(items)
    assert tokens[0].tolist() == [16, 1, 2, 3] + [17] * 12
    assert modality.decode(tokens) == items
    assert modality.metrics(tokens[:, :3], tokens[:, 3:4])["steady"].tolist() == [1.0, 1.0]


def test_registered_by_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(registry.MODALITIES, "toy", "tests.toy")
    settings = registry.settings_class("toy")()
    config = PretrainConfig(modality="toy", data="numbers", output="unused", width=32, num_layers=3, num_heads=2)
    checkpoints = Checkpoints(folder=tmp_path, facts={}, machine={}, resume=False, signals=SignalWatch())
    given = {"settings": settings, "config": config, "checkpoints": checkpoints}
    modality = registry.adapter("toy").build(items=numbers(4, settings), **given)
    assert (modality.name, len(modality.model.blocks)) == ("toy", 3)
    assert adapter.build(items=[], **given).model.output.weight.equal(modality.model.output.weight)


def test_reads_a_file_and_refuses_the_rest(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in [[1, 2], [3]]))
    assert read(str(path)) == [[1, 2], [3]]
    with pytest.raises(InputError, match="nowhere"):
        read("nowhere")
    path.write_text("[99]")
    with pytest.raises(InputError, match="between 0 and 15"):
        read(str(path))


def test_it_learns_fast():
    modality = toy()
    tokens = encoded(modality, 16)
    optimizer = torch.optim.AdamW(modality.model.parameters(), lr=3e-3, weight_decay=0)
    for _ in range(150):
        loss = functional.cross_entropy(modality.model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.35  # the first number of a sequence cannot be known
