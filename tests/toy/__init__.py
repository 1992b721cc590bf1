"""A third modality, integers, that all tests of the core use: `monkeypatch.setitem(registry.MODALITIES, "toy",
"tests.toy")` registers it. An item is a list of ints that count on by a fixed step, modulo a small number.

Nothing here is known to `hypergen`: what the toy cannot do without a change in the core, no modality can.
"""
