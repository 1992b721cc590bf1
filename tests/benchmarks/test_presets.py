"""The presets of the suite. Alone: pytest tests/benchmarks/test_presets.py"""

from hypergen import registry
from tests.benchmarks.scripts import load

presets = load("presets")


def test_every_preset_names_a_modality_there_is():
    for bases, seeds in presets.PRESETS.values():
        assert len(seeds) >= 1 and len({base.name for base in bases}) == len(bases)
        assert all(base.options["modality"] in registry.MODALITIES for base in bases)
