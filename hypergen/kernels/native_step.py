"""Run a decoding step of a packed model in native code: `native.cpp`, through ctypes.

A step of a small model is thirty products whose weights could be read in a fraction of the time that calling torch for
each takes. Here it is one call, on the threads that torch would use. The result for a row depends neither on the rows
beside it nor on the number of threads. Prompts are computed by `PackedModel.prefill`, with torch.

Shape letters: as in `packed_model`, and O outputs of a product.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.kernels.native_library import load_native_library, why_unavailable
from hypergen.kernels.packed_linear import PackedLinear
from hypergen.kernels.packed_model import PackedCache, PackedModel

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of logits; bf16 rounds numbers that stay fp32 in native code
PROMPT, COMPARED = 3, 2  # tokens before and during the comparison of logits
BYTES_A_THREAD = 2**20  # of weights; reading them takes it 40 us, waiting for another one 1 us (measured)
ROWS_AS_LONG_AS_READING = 8  # whose arithmetic takes as long as reading the weights (measured)
ACTIVATIONS = {"silu": 0, "tanh_gelu": 1, "quick_gelu": 2}  # `Activation` in native.cpp


def attach_native_step(model: PackedModel) -> tuple[PackedModel, str | None]:
    """Give a packed model its native step, once a try has shown that the logits are the same.

    Returns:
        The model with the step, or as it was and the reason; without a reason where native code is not to be expected
        (another device or system).
    """
    if model.embedding.device.type != "cpu":
        return model, None
    if (library := load_native_library()) is None:
        return model, why_unavailable()
    with_step = replace(model, native=NativeStep(model, library))
    difference, tolerance = _difference(with_step), TOLERANCES[model.embedding.dtype]
    if difference <= tolerance:
        return with_step, None
    # the comparison is false for NaN, too, which comes here
    return model, f"logits differ by {difference:.1e} of the largest, more than {tolerance:.0e}"


def _difference(model: PackedModel) -> float:
    """Compare native logits with torch's, relative to the largest, after steps of two rows of which one is padded."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.head.weight.shape[1], (COMPARED + PROMPT, 2), generator=generator)
    prompt, num_padding, both = tokens[:PROMPT].T.contiguous(), torch.tensor([0, 1]), []
    for native in (False, True):
        _, kv_cache = model.prefill(prompt, PROMPT + COMPARED, num_padding, native=native)
        for token in tokens[PROMPT:]:
            logits, kv_cache = model.decode_step(token, kv_cache)
        both.append(logits.float())
    return float((both[0] - both[1]).abs().max() / both[0].abs().max())


# The structures of native.cpp, field by field.


class _PackedLinear(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("width_in", ctypes.c_int64),
        ("width_out", ctypes.c_int64),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _PackedLinear) for name in ("qkv", "out", "up", "gate", "down")),
        ("scale", ctypes.c_float),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("embedding", "position_embedding", "rotary")),
        ("blocks", ctypes.POINTER(_Block)),
        ("head", _PackedLinear),
        *((name, ctypes.c_int64) for name in ("num_blocks", "num_tokens", "width")),
        *((name, ctypes.c_int64) for name in ("num_heads", "num_groups", "head_width")),
        *((name, ctypes.c_int64) for name in ("activation", "is_layer_norm")),
        ("epsilon", ctypes.c_float),
    )


class NativeStep:
    """Decode with a copy of a packed model's weights, laid out for native code; a `StepBackend`."""

    def __init__(self, model: PackedModel, library: ctypes.CDLL):
        """Copy the weights of `model` into the panels that `library` reads."""
        self._library = library
        self._lanes = self._library.lanes()
        self._panel = 2 * self._lanes
        self._tensors: list[Tensor] = []  # the memory that the structures point to
        self._is_bf16 = model.embedding.dtype == torch.bfloat16
        blocks = []
        for block in model.blocks:
            gate, up = _PackedLinear(), slice(None)
            if model.is_gated:
                half = block.up.weight.shape[1] // 2
                gate, up = self._linear(block.up, slice(half)), slice(half, None)
            qkv, out, down = (self._linear(part) for part in (block.qkv, block.out, block.down))
            blocks.append(_Block(qkv, out, self._linear(block.up, up), gate, down, block.scale))
        self._blocks = (_Block * len(blocks))(*blocks)
        self._nbytes = model.nbytes
        self._num_logits = model.head.weight.shape[1]
        self._model = _Model(
            embedding=self._pointer(model.embedding),
            position_embedding=self._pointer(model.position_embedding),
            rotary=self._pointer(None if model.rotary is None else model.rotary.float()),
            blocks=self._blocks,
            head=self._linear(model.head),
            num_blocks=len(blocks),
            num_tokens=len(model.embedding),
            width=model.embedding.shape[1],
            num_heads=model.num_heads,
            num_groups=model.num_groups,
            head_width=model.head_width,
            activation=ACTIVATIONS[model.activation],
            is_layer_norm=model.norm == "layer",
            epsilon=model.epsilon,
        )

    def arrange(self, parts: Tensor, capacity: int) -> Tensor:
        """Lay out keys and values (2, B, G, P, E) for `__call__`: -> (2, B, G, C, E), C of `capacity` or a little more.

        As many keys as a processor's register holds lie together, number by number, so that it scores them at once.
        """
        capacity += -capacity % self._lanes
        length, lanes = parts.shape[3], self._lanes
        arranged = parts.new_empty(*parts.shape[:3], capacity, parts.shape[4])
        arranged[1, :, :, :length] = parts[1]
        groups = arranged[0].view(*parts.shape[1:3], capacity // lanes, parts.shape[4], lanes)
        filled, rest = parts[0].split([length - length % lanes, length % lanes], 2)
        groups[:, :, : length // lanes] = filled.unflatten(2, (-1, lanes)).mT
        if length % lanes:
            groups[:, :, length // lanes, :, : length % lanes] = rest.mT
        return arranged

    def __call__(self, token: Tensor, kv_cache: PackedCache) -> Tensor:
        """Decode one token: (B,) ids and a cache from `arrange` that has the capacity -> logits (B, V) in fp32.

        Raises:
            IndexError: an id is not in the vocabulary.
        """
        rows, token = len(token), token.long().contiguous()
        logits = torch.empty(rows, self._num_logits)
        caches = (ctypes.c_void_p * len(kv_cache.recent_kv))(*(part.data_ptr() for part in kv_cache.recent_kv))
        is_refused = self._library.decode_step(
            ctypes.byref(self._model),
            self._is_bf16,
            token.data_ptr(),
            None if kv_cache.num_padding is None else kv_cache.num_padding.data_ptr(),
            caches,
            rows,
            kv_cache.length,
            kv_cache.recent_kv[0].shape[3],
            logits.data_ptr(),
            self._num_threads(rows),
        )
        if is_refused:
            raise IndexError(f"token ids {token.tolist()}: must be 0 to {self._model.num_tokens - 1}")
        return logits

    def _num_threads(self, rows: int) -> int:
        """Count the threads that have something to do: they wait for each other five times a block."""
        useful = 1 + self._nbytes * (1 + rows // ROWS_AS_LONG_AS_READING) // BYTES_A_THREAD
        return min(torch.get_num_threads(), useful)

    def _linear(self, product: PackedLinear, columns: slice = slice(None)) -> _PackedLinear:
        """Copy these columns of a product into panels (O / panel, I, panel)."""
        weight, bias = product.weight[:, columns], None if product.bias is None else product.bias[columns].float()
        padded = F.pad(weight, (0, -weight.shape[1] % self._panel))
        panels = padded.unflatten(1, (-1, self._panel)).transpose(0, 1)
        return _PackedLinear(self._pointer(panels), self._pointer(bias), *weight.shape)

    def _pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._tensors.append(tensor.detach().contiguous())
        return self._tensors[-1].data_ptr()
