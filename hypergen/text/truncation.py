"""Stop a forward pass before one of its blocks, or enter it there, so that the last blocks can run alone.

Hooks do it, so masks, positions and all else that an architecture hands from block to block remain its own.

Shape letters: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hypergen.runtime.patched_forward import patched_forwards


class _ReachedError(Exception):
    """Ends a forward pass at the block where it was to end."""

    def __init__(self, hidden: Tensor):
        super().__init__()
        self.hidden = hidden


def input_of(block: nn.Module, run: Callable[[], Any]) -> Tensor | None:
    """Run a forward pass until this block would start, and return its input (B, T, D); None where it never starts."""

    def stop(_block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _ReachedError(_hidden(args, named))

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _ReachedError as reached:
        return reached.hidden
    finally:
        handle.remove()
    return None


@contextmanager
def replaced_input(block: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Give this block the input `hidden` (B, T, D) whatever comes from the blocks below."""

    def enter(
        _block: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((hidden, *args[1:]), named) if args else (args, {**named, "hidden_states": hidden})

    handle = block.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def skipped(blocks: Sequence[nn.Module], num_outputs: int) -> Iterator[None]:
    """Let these blocks return their input, while all their attributes stay.

    Args:
        blocks: those that shall not compute.
        num_outputs: how many values a block returns; 0: a bare tensor.
    """

    def skip(*args: Any, **named: Any) -> Any:
        hidden = _hidden(args, named)
        return (hidden, *[None] * (num_outputs - 1)) if num_outputs else hidden

    with patched_forwards(blocks, lambda _: skip):
        yield


def _hidden(args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """Find the hidden states among the arguments of a block."""
    return args[0] if args else named["hidden_states"]
