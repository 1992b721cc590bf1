"""Compute a training in fp32 or in bf16 autocast, whichever is faster here; trained weights are fp32 either way.

`auto` times a step of each on the machine at hand: bf16 products are two to four times as fast where there are units
for them, and slower where there are none. The choice depends on a clock, so a training that must give the same bits
on every machine names its precision; one that is resumed keeps the precision of its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hypergen.config import Precision
from hypergen.runtime.console import warn
from hypergen.runtime.devices import has_bf16_units
from hypergen.runtime.progress import Advance, track

TRIAL_STEPS = 2  # of each precision, the first to warm up
WORTH_STEPS = 40  # a shorter training is over before a trial has paid
WORTH_SECONDS = 0.02  # launch overhead dominates a shorter step, not products
WORTH_RATIO = 1.15  # a smaller gain is noise


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute in this precision inside the context; weights stay as they are."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


class FrozenCasts(TorchFunctionMode):
    """Keep the bf16 copies of frozen weights, which autocast makes anew at each use of a linear layer on a CPU.

    Autocast keeps those of trained weights only; casting the head of a large vocabulary takes longer than its product
    with a few positions. The frozen weights must stay as they are while this is in use.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # by id; the weight is kept, so that its id stays its own

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Replace the weight of a linear layer by its copy, inside of autocast."""
        if func is F.linear and torch.is_autocast_enabled("cpu") and len(args) > 1:
            args = (args[0], self._cast(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))

    def _cast(self, weight: Tensor) -> Tensor:
        if weight.requires_grad or weight.device.type != "cpu" or weight.dtype != torch.float32:
            return weight
        if id(weight) not in self._kept:
            self._kept[id(weight)] = weight, weight.to(torch.get_autocast_dtype("cpu"))
        return self._kept[id(weight)][1]


def choose_precision(
    step: Callable[[Precision], object], device: torch.device, num_steps: int, *, label: str = ""
) -> Precision:
    """Choose the faster precision by trial, and say so on standard error.

    Args:
        step: runs one step in a precision, leaves weights as they were, and returns when all of it is computed.
        device: on which it runs.
        num_steps: of the training; a short one is not worth a trial.
        label: of the progress; empty: none is shown.
    """
    if not has_bf16_units(device) or num_steps < WORTH_STEPS:
        return "fp32"
    try:
        with track(label, 2 * TRIAL_STEPS, transient=True) as advance:
            fp32_seconds = min(_seconds(step, "fp32", advance) for _ in range(TRIAL_STEPS))
            if fp32_seconds < WORTH_SECONDS:
                return "fp32"
            bf16_seconds = min(_seconds(step, "bf16", advance) for _ in range(TRIAL_STEPS))
    except torch.OutOfMemoryError:
        return "bf16"  # it needs less; the training itself goes on in smaller parts
    precision: Precision = "bf16" if fp32_seconds >= WORTH_RATIO * bf16_seconds else "fp32"
    times = f"a step takes {1000 * fp32_seconds:.0f} ms in fp32, {1000 * bf16_seconds:.0f} ms in bf16"
    warn(f"{times}: computing in {precision} (weights are fp32; --precision fixes it)")
    return precision


def _seconds(step: Callable[[Precision], object], precision: Precision, advance: Advance) -> float:
    started = time.perf_counter()
    step(precision)
    seconds = time.perf_counter() - started
    advance()
    return seconds
