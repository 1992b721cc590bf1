"""Sample token ids in native code: one pass over the logits, where torch takes thirty operations.

The filters are plain keywords, so that a filter which the native code lacks is a TypeError and not a wrong answer.

Shape letters: B batch, V vocabulary.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from hypergen.kernels.native_library import load_native_library

LOGIT_BYTES_A_THREAD = 2**17  # sampling from them takes a thread 100 us (measured)
LOWEST_TEMPERATURE = 1e-30  # below it differences of logits would overflow


class _Filters(ctypes.Structure):
    """`Filters` of native.cpp, field by field."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_tokens", "top_k")),
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p")),
    )


def sample_tokens_native(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> Tensor | None:
    """Filter and sample in one call: logits (B, V) and numbers from 0 to 1 (B,) -> ids (B,).

    Equal to `decoding.sampling.candidates` and `sample`, but for rounding.

    Args:
        logits: in fp32 or bf16.
        uniform: fp64, one number a row.
        temperature: divides the logits.
        top_k: keep so many tokens; None: all.
        top_p: keep the smallest set with this probability; None: all.
        min_p: keep tokens this likely relative to the likeliest; None: all.

    Returns:
        The ids; None where there is no native code.
    """
    if logits.device.type != "cpu" or (library := load_native_library()) is None:
        return None
    logits = logits.float().contiguous()
    rows, num_tokens = logits.shape
    filters = _Filters(
        num_tokens=num_tokens,
        top_k=min(top_k or 0, num_tokens),
        temperature=max(temperature, LOWEST_TEMPERATURE),
        top_p=top_p or 1.0,
        min_p=min_p or 0.0,
    )
    tokens = torch.empty(rows, dtype=torch.long)
    threads = min(torch.get_num_threads(), 1 + logits.nbytes // LOGIT_BYTES_A_THREAD, rows)
    library.sample_tokens(
        logits.data_ptr(), ctypes.byref(filters), uniform.data_ptr(), rows, tokens.data_ptr(), threads
    )
    return tokens
