"""Whether a training computes in fp32 or in bf16; trained weights are fp32 either way.

`auto` times a step of each on the machine at hand: bf16 products are two to four times as fast where there are units
for them, and slower where there are none. The choice depends on a clock, so a training that must give the same bits
on every machine names its precision; one that is resumed keeps what its checkpoint says.
Decoding is in fp32 unless asked otherwise; `in_bf16` makes the copy that it then uses.
Does not know: what a step does, optimizers, files.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.agreement import top_tokens
from hypergen.config import Precision

BF16_UNITS = ("avx512_bf16", "amx_bf16", "avx10_2", "avx_ne_convert", "bf16", "sve_bf16")  # a CPU's names for them
TRIED = 2  # steps of each precision, the first to warm up
WORTH_STEPS = 40  # a shorter training is over before a trial has paid
WORTH_SECONDS = 0.02  # a shorter step goes into calls, not into products
WORTH_RATIO = 1.15  # less than that is noise


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """The compute precision; weights stay as they are."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def has_bf16_units(device: torch.device) -> bool:
    """Whether bf16 products are computed and not imitated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(map(torch.cpu.get_capabilities().get, BF16_UNITS))


def choose(step: Callable[[Precision], object], device: torch.device, num_steps: int) -> Precision:
    """The faster precision for a training of `num_steps` steps on this device, found by trial and told on stderr.

    Args:
        step: runs one step in a precision, leaves weights as they were, and returns when all of it is computed.
    """
    if not has_bf16_units(device) or num_steps < WORTH_STEPS:
        return "fp32"
    try:
        slow = min(_seconds(step, "fp32") for _ in range(TRIED))
        if slow < WORTH_SECONDS:
            return "fp32"
        fast = min(_seconds(step, "bf16") for _ in range(TRIED))
    except torch.OutOfMemoryError:
        return "bf16"  # which needs less; the training itself goes on in smaller parts
    precision: Precision = "bf16" if slow >= WORTH_RATIO * fast else "fp32"
    told = f"a step takes {1000 * slow:.0f} ms in fp32, {1000 * fast:.0f} ms in bf16: computing in {precision}"
    print(f"hypergen: {told} (weights are fp32; --precision fixes it)", file=sys.stderr)
    return precision


def in_bf16(model: Any) -> Any:
    """A copy of a TokenModel whose parameters are bf16; buffers, such as rotary frequencies, stay as they are."""
    weights = {id(weight): nn.Parameter(weight.detach().bfloat16(), False) for weight in model.parameters()}
    return copy.deepcopy(model, weights)


def agreement(model: Any, sequences: Sequence[Tensor]) -> tuple[float, int]:
    """At what share of the places in these sequences (T,) the model and its bf16 copy find the same token most likely,
    each after the same tokens, and how many places there are."""
    decoder, same, places = in_bf16(model), 0, 0
    for sequence in sequences:
        one, other = (top_tokens(either, sequence[None]) for either in (model, decoder))
        same, places = same + int((one == other).sum()), places + one.numel()
    return same / max(1, places), places


def _seconds(step: Callable[[Precision], object], precision: Precision) -> float:
    started = time.perf_counter()
    step(precision)
    return time.perf_counter() - started
