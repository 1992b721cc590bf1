"""The checks for adapters find what is wrong with one; the toy, text and images pass them in their own tests.

Alone: pytest tests/test_testing.py
"""

import sys
from types import ModuleType

import pytest
import torch

from hypergen import testing
from tests.toy import adapter, config
from tests.toy.adapter import ToyModality, numbers, toy
from tests.toy.config import Settings

ITEMS = numbers(5, Settings())


@pytest.fixture
def package(monkeypatch):
    """A copy of the toy's package, to spoil."""
    copies = {}
    for name, module in {"config": config, "adapter": adapter}.items():
        copies[name] = ModuleType(f"spoilt.{name}")
        vars(copies[name]).update({key: value for key, value in vars(module).items() if not key.startswith("__")})
        monkeypatch.setitem(sys.modules, f"spoilt.{name}", copies[name])
    monkeypatch.setitem(sys.modules, "spoilt", ModuleType("spoilt"))
    return copies


@pytest.mark.parametrize("name", ["hypergen.text", "hypergen.image", "tests.toy", "spoilt"])
def test_whole_packages_pass(name, package):
    testing.check_adapter(name)


def test_what_a_package_lacks_is_named(package):
    del package["config"].SOURCES
    with pytest.raises(AssertionError, match=r"^spoilt.config lacks SOURCES"):
        testing.check_adapter("spoilt")
    package["config"].SOURCES = "numbers"
    del package["adapter"].read_rows, package["adapter"].METRICS
    with pytest.raises(AssertionError, match=r"^spoilt.adapter lacks METRICS, read_rows"):
        testing.check_adapter("spoilt")


def test_a_signature_that_differs_is_named(package):
    package["adapter"].load = lambda source, settings: None
    with pytest.raises(AssertionError, match=r"^load: has "):
        testing.check_adapter("spoilt")


def test_a_codec_that_forgets_its_seed_is_found(monkeypatch):
    whole, seeds = ToyModality.encode_training, iter(range(9))

    def forgetful(self, items, count, seed=0):
        return whole(self, items, count, next(seeds))

    monkeypatch.setattr(ToyModality, "encode_training", forgetful)
    with pytest.raises(AssertionError):
        testing.check_count(toy(), ITEMS)


def test_a_codec_that_makes_up_items_is_found(monkeypatch):
    def repeating(self, items, count, seed=0):
        return adapter.Encoded(self.encode(items)[:1].expand(2, -1))

    monkeypatch.setattr(ToyModality, "encode_training", repeating)
    with pytest.raises(AssertionError, match="an InputError was expected"):
        testing.check_count(toy(), ITEMS)


def test_a_model_that_sees_the_future_is_found(monkeypatch):
    model, tokens = toy().model, toy().encode(ITEMS)
    testing.check_logits(model, tokens)
    honest = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids: honest(ids) + honest(ids).mean(1, keepdim=True))
    with pytest.raises(AssertionError), torch.no_grad():
        testing.check_logits(model, tokens)
