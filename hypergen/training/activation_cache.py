"""Cache the input of the blocks that train: the sequences are fixed, so the frozen blocks run once for all epochs.

The last K blocks, final norm and untied head then train on cached activations (arXiv 2605.22579 finds the effect of
hyperfitting in the last layers). The cache is in memory, or in a mapped file without a name where it would take more
than half of the free memory. Where blocks are read from files, all sequences pass one block before the
next, so that each is read once. A check compares truncated with full forward on one batch; where they differ, there is
no cache.

Shape letters: N sequences, B batch, T tokens, D width.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hypergen.errors import DiskError, InputError
from hypergen.modality import TruncatableModel
from hypergen.runtime.console import warn
from hypergen.runtime.progress import track

SHARE_OF_MEMORY = 0.5  # of the free memory; a larger cache goes into a file
TOLERANCE = 1e-4  # between full and truncated forward, relative to the largest hidden value


@dataclass(frozen=True)
class ActivationCache:
    """Hold the input of the last blocks for every training sequence."""

    states: Tensor
    """(N, T, D), in the dtype of the residual stream; in a file it is on the CPU wherever the model is."""

    def rows(self, rows: Tensor) -> Tensor:
        """Select the states (B, T, D) of sequences `rows` (B,), on their device."""
        return self.states[rows.to(self.states.device)].to(rows.device)

    @staticmethod
    def build(
        model: TruncatableModel, inputs: Tensor, last_layers: int, batch_size: int, *, label: str = ""
    ) -> ActivationCache | None:
        """Run the frozen blocks over all sequences.

        Args:
            model: whose last blocks train.
            inputs: (N, T) ids.
            last_layers: how many of its blocks train.
            batch_size: sequences per forward pass.
            label: of the progress; empty: none is shown.

        Returns:
            None where nothing is frozen or the truncated forward differs from the full one (a warning says so).

        Raises:
            DiskError: neither memory nor the folder for temporary files (TMPDIR) has room for them.
        """
        if last_layers in (0, len(model.blocks)):
            return None
        stages = model.cache_stages(last_layers)
        if not _is_exact(model, inputs[:batch_size], stages):
            warn("activation cache: the truncated forward differs; training without it")
            return None
        return ActivationCache(_fill(model, inputs.split(batch_size), stages, label))


def _fill(model: TruncatableModel, batches: Sequence[Tensor], stages: Sequence[int], label: str) -> Tensor:
    """Compute the states (N, T, D) of all batches, which wait for each other at every stage."""
    count = sum(map(len, batches))
    with track(label, len(stages) * count, transient=True) as advance:
        first = model.hidden_before(batches[0], stages[0])
        states = _allocate((count, *first.shape[1:]), first)
        batch_states = states.split(len(batches[0]))
        batch_states[0].copy_(first)
        advance(len(first))
        for own_states, batch in zip(batch_states[1:], batches[1:], strict=True):
            own_states.copy_(model.hidden_before(batch, stages[0]))
            advance(len(batch))
        for num_last, until in pairwise(stages):
            for own_states in batch_states:
                own_states.copy_(model.forward_from(own_states.to(first.device), num_last, until))
                advance(len(own_states))
    return states


def _allocate(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Make an empty tensor of this shape, in memory or in a file that vanishes with it."""
    size = math.prod(shape) * like.element_size()
    if size <= SHARE_OF_MEMORY * _available_memory(like.device):
        return like.new_empty(shape)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DiskError(f"{folder}: the activation cache needs {size:,} bytes, {free:,} are free; set TMPDIR")
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # the mapping outlives the name
        _reserve(file.fileno(), size, folder)
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)


def _reserve(file: int, size: int, folder: str) -> None:
    """Allocate real blocks of the disk: writing to a mapping that finds none would kill the process."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        needs = f"the activation cache needs {size:,} bytes"
        raise DiskError(f"{folder}: {needs} ({error.strerror}); set TMPDIR") from error


def _available_memory(device: torch.device) -> float:
    """Measure the free memory in bytes; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return math.inf


def _is_exact(model: TruncatableModel, inputs: Tensor, stages: Sequence[int]) -> bool:
    """Compare the forward pass through all stages with the full one on a batch."""
    try:
        truncated = model.hidden_before(inputs, stages[0])
        for num_last, until in pairwise([*stages, 0]):
            truncated = model.forward_from(truncated, num_last, until)
    except InputError:  # the architecture cannot be cut here
        return False
    full = model.hidden(inputs)
    return bool((full - truncated).abs().max() <= TOLERANCE * full.abs().max())
