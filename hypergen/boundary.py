"""Last-layers training on cached boundary activations: the lower blocks run once for all epochs.

The sequences are fixed, so the input of the last K blocks is fixed too. It is computed once, and only the last K
blocks, final norm and untied head train on it (the idea behind arXiv 2605.22579, which finds the effect in the last
layers). It stays in memory, or in a file without a name that is mapped into memory where it would take more than half
of what is free. Where blocks are read from files, all sequences pass one block before the next, so that each is read
once. A guard compares truncated with full forward on one batch; where they differ, nothing is cached.
Does not know: losses, optimizers, runs.

Shape letters: N sequences, T tokens, D width.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hypergen.errors import DiskError, InputError
from hypergen.progress import track

SHARE_OF_MEMORY = 0.5  # of what is free; a larger cache goes into a file
TOLERANCE = 1e-4  # between full and truncated forward, relative to the largest hidden value


@dataclass(frozen=True)
class BoundaryCache:
    """The input of the last blocks for every training sequence."""

    states: Tensor
    """(N, T, D), in the dtype of the residual stream; in a file it is on the CPU wherever the model is."""

    def rows(self, rows: Tensor) -> Tensor:
        """The states (B, T, D) of sequences `rows` (B,), on their device."""
        return self.states[rows.to(self.states.device)].to(rows.device)

    @staticmethod
    def build(model: Any, inputs: Tensor, last_layers: int, batch_size: int) -> BoundaryCache | None:
        """States of `inputs` (N, T), or None where nothing is frozen or the guard finds a difference (it says so).

        Raises:
            DiskError: neither memory nor the folder for temporary files (TMPDIR) has room for them.
        """
        if last_layers in (0, len(model.blocks)):
            return None
        stops = range(len(model.blocks) - 1, last_layers - 1, -1) if model.offloaded else (last_layers,)
        if not _is_exact(model, inputs[:batch_size], stops):
            print("boundary cache: the truncated forward differs; training without it", file=sys.stderr)
            return None
        return BoundaryCache(_swept(model, inputs.split(batch_size), stops))


def _swept(model: Any, batches: Sequence[Tensor], stops: Sequence[int]) -> Tensor:
    """The states (N, T, D) of all batches, which pass each of the stops together."""
    first = model.boundary(batches[0], stops[0])
    states = _room((sum(map(len, batches)), *first.shape[1:]), first)
    places = states.split(len(batches[0]))
    places[0].copy_(first)
    for place, batch in zip(places[1:], batches[1:], strict=True):
        place.copy_(model.boundary(batch, stops[0]))
    label = "boundary cache" if len(stops) > 1 else ""  # where files are read it takes long
    with track(label, len(stops), done=1) as advance:
        for before, after in pairwise(stops):
            for place in places:
                place.copy_(model.from_boundary(place.to(first.device), before, after))
            advance()
    return states


def _room(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An empty tensor of this shape, in memory or in a file that vanishes with it."""
    size = math.prod(shape) * like.element_size()
    if size <= SHARE_OF_MEMORY * _free_memory(like.device):
        return like.new_empty(shape)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DiskError(f"{folder}: the boundary cache needs {size:,} bytes, {free:,} are free; set TMPDIR")
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # the mapping outlives the name
        _reserve(file.fileno(), size, folder)
        return torch.from_file(file.name, shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)


def _reserve(file: int, size: int, folder: str) -> None:
    """Real blocks of the disk: writing to a mapping that finds none would kill the process."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise DiskError(f"{folder}: the boundary cache needs {size:,} bytes ({error.strerror}); set TMPDIR") from error


def _free_memory(device: torch.device) -> float:
    """Bytes; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return math.inf


def _is_exact(model: Any, inputs: Tensor, stops: Sequence[int]) -> bool:
    try:
        truncated = model.boundary(inputs, stops[0])
        for before, after in pairwise([*stops, 0]):
            truncated = model.from_boundary(truncated, before, after)
    except InputError:  # the architecture cannot be cut here
        return False
    full = model.hidden(inputs)
    return bool((full - truncated).abs().max() <= TOLERANCE * full.abs().max())
