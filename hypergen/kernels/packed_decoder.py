"""Keep a packed copy of a module's weights up to date, for a model that decodes through it.

The copy is made when decoding first needs it and again when a weight has changed; it goes when training begins. Its
life cycle is here, once, so that a model only says how its weights are packed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hypergen.kernels.native_library import fallback_message
from hypergen.kernels.native_step import attach_native_step
from hypergen.kernels.packed_model import PackedCache, PackedModel


class PackedDecoder:
    """Hold the packed copy of one module; empty in deep copies and pickles, since oneDNN's layouts cannot be copied."""

    def __init__(self, on_fallback: Callable[[str], None]):
        """Start empty.

        Args:
            on_fallback: takes the message that native steps were asked for and cannot be had.
        """
        self._on_fallback = on_fallback
        self._packed: PackedModel | None = None
        self._version: tuple[tuple[int, int], ...] | None = None
        self._has_tried_native = False

    def get(
        self, module: nn.Module, build: Callable[[], PackedModel | None], *, native: bool = False
    ) -> PackedModel | None:
        """Return the packed copy of the module's weights as they are now; None where they cannot be packed.

        Args:
            module: the owner of the weights.
            build: packs them; called when they have changed since the last time.
            native: attach the native step, which is tried once a copy.
        """
        version = _weights_version(module)
        if self._version != version:
            self.drop()
            self._packed = build()
            self._version = version
        if native and self._packed is not None and not self._has_tried_native:
            self._has_tried_native = True
            self._packed, reason = attach_native_step(self._packed)
            if reason is not None:
                self._on_fallback(fallback_message(reason))
        return self._packed

    def decode_step(self, token: Tensor, kv_cache: PackedCache) -> tuple[Tensor, PackedCache]:
        """Decode one token with the copy that `get` returned last; see `PackedModel.decode_step`."""
        assert self._packed is not None
        return self._packed.decode_step(token, kv_cache)

    @staticmethod
    def select_rows(kv_cache: PackedCache, rows: Tensor) -> PackedCache:
        """Keep these rows (B',) of a cache, repeats allowed; the given one is left as it was."""
        return PackedModel.select_rows(kv_cache, rows)

    def drop(self) -> None:
        """Forget the copy: training is about to change the weights, and needs the memory."""
        self._packed, self._version, self._has_tried_native = None, None, False

    def __getstate__(self) -> dict[str, Any]:
        """Leave the packed copy out of deep copies and pickles."""
        return vars(PackedDecoder(self._on_fallback))


def _weights_version(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Return a value that changes whenever a parameter of the module is changed or replaced."""
    return tuple((parameter.data_ptr(), parameter._version) for parameter in module.parameters())
