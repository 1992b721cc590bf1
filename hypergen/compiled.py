"""A decoding step compiled by torch.compile, where a trial shows a gain.

Compiling takes about ten seconds, so it pays from some ten thousand tokens on, and on request only. It is for one row
on a CPU, whose step is mostly the calling of operations; more rows are products in oneDNN's layout, which inductor
cannot call, and were slower.
The compiled step must give the logits of the other one, else it is not used.
Does not know: architectures, strategies; CUDA graphs (on a GPU steps stay as they are).
"""

from __future__ import annotations

import sys
import time

import torch

from hypergen.lean import LeanModel

TRIAL_SECONDS = 1.0  # of each of the two
WORTH_RATIO = 1.1  # less than that is noise
TOLERANCE = 1e-4  # between the logits of both, relative to the largest


def try_compiling(model: LeanModel, rows: int, room: int) -> None:
    """Let steps of so many rows over a cache of `room` tokens run compiled if they are faster; says what it chose."""
    device = model.head.weight.device
    if rows in model.compiled:
        return
    if device.type != "cpu" or rows > 1:
        print(
            f"hypergen: --compile: only one row on a CPU is compiled, this is {rows} on {device.type}", file=sys.stderr
        )
        return
    started, eager = time.perf_counter(), _Trial(model, rows, room)
    try:
        model.compiled[rows] = torch.compile(model.advance, dynamic=True, fullgraph=True)
        fast = _Trial(model, rows, room)
    except Exception as error:  # no compiler, or one that does not understand the step
        model.compiled.pop(rows, None)
        print(f"hypergen: --compile: not compiled ({str(error).splitlines()[0]})", file=sys.stderr)
        return
    took = time.perf_counter() - started
    is_same = bool((fast.logits - eager.logits).abs().max() <= TOLERANCE * eager.logits.abs().max())
    is_faster = is_same and eager.seconds >= WORTH_RATIO * fast.seconds
    if not is_faster:
        model.compiled[rows] = model.advance
    chosen = "compiled" if is_faster else "as it was" if is_same else "as it was, the logits differ"
    times = f"a step takes {1000 * eager.seconds:.2f} ms, compiled {1000 * fast.seconds:.2f} ms"
    print(f"hypergen: --compile: {times} ({took:.0f} s to find out): {chosen}", file=sys.stderr)


class _Trial:
    """Seconds a step, and the logits (rows, V) of the first steps' last one."""

    def __init__(self, model: LeanModel, rows: int, room: int):
        prompt = torch.zeros(rows, min(4, room - 3), dtype=torch.long)
        logits, state = model.start(prompt, room)
        for _ in range(2):  # the first one compiles
            logits, state = model.step(logits.argmax(-1), state)
        self.logits, steps, started = logits, 0, time.perf_counter()
        while state.length < room and time.perf_counter() - started < TRIAL_SECONDS:
            logits, state = model.step(logits.argmax(-1), state)
            steps += 1
        self.seconds = (time.perf_counter() - started) / max(1, steps)
