"""Find the lengths at which rotary frequencies change, and make them depend on the length of a sequence alone.

Keys that were turned by the frequencies of a short sequence are wrong for a longer one (LongRoPE, arXiv 2402.13753;
dynamic NTK), so no key-value cache may be carried across such a length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

ONE_FOR_ALL = ("default", "linear", "llama3", "yarn", "proportional")  # types with the same frequencies at any length
DYNAMIC = "dynamic"  # in the name of a type whose frequencies change with every token beyond the context


@dataclass(frozen=True)
class RotaryLengths:
    """Say where the frequencies of a model change with the length of the sequence."""

    borders: tuple[int, ...] = ()
    """Longest sequences of one set of frequencies: one token more, and all keys are turned anew."""
    last: int | None = None
    """The longest sequence after which every token changes them; None: there is none."""

    @property
    def change(self) -> bool:
        """Whether they change at all."""
        return bool(self.borders) or self.last is not None

    def changed(self, before: int, after: int) -> bool:
        """Tell whether keys of a sequence of `before` tokens are wrong in one of `after` tokens."""
        return self.are_new(after) or any(before <= border < after for border in self.borders)

    def are_new(self, length: int) -> bool:
        """Tell whether no other length has the frequencies of this one."""
        return self.last is not None and length > self.last


def rotary_lengths(config: PreTrainedConfig) -> RotaryLengths:
    """Read from the configuration of a language model where its frequencies change.

    A type that is not known counts as one that changes at its original length: keys are then computed once more.
    """
    borders: list[int] = []
    last = None
    for parameters in _parameter_sets(config):
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        original = parameters.get("original_max_position_embeddings")
        if DYNAMIC in str(kind):
            last = config.max_position_embeddings
        elif kind not in ONE_FOR_ALL and isinstance(original, int):
            borders.append(original)
    return RotaryLengths(tuple(sorted(set(borders))), last)


def _parameter_sets(config: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """Yield the rotary parameters of all layers, or of each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [part for part in parameters.values() if isinstance(part, dict)]
    yield from nested or [parameters]


def forget_longest_sequences(causal: PreTrainedModel) -> None:
    """Make dynamic frequencies those of each sequence, where transformers keeps those of the longest one so far."""
    for module in causal.modules():
        if DYNAMIC in str(getattr(module, "rope_type", "")):
            module.register_forward_pre_hook(_forget_longest)


def _forget_longest(module: Any, _inputs: Any) -> None:
    kinds = module.rope_type if isinstance(module.rope_type, dict) else {"": module.rope_type}
    for kind, name in kinds.items():
        prefix = f"{kind}_" if kind else ""
        longest = getattr(module, f"{prefix}max_seq_len_cached", module.max_seq_len_cached)
        if DYNAMIC in name and longest > module.original_max_seq_len:
            frequencies: nn.Buffer = getattr(module, f"{prefix}inv_freq")
            original = getattr(module, f"{prefix}original_inv_freq")
            setattr(module, f"{prefix}inv_freq", original.to(frequencies.device))
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
