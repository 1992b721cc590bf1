"""Cut documents into sequences of equal length: one packed stream, windows drawn at random, or beginnings first.

Documents are tokenized when they are needed, and no more of them than that.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hypergen.errors import InputError
from hypergen.runtime.progress import track
from hypergen.text.conversations import Example, plain_text
from hypergen.text.tokenizer import tokenize

CANDIDATES_PER_SEQUENCE = 16  # windows that are looked at for each one that is drawn


def packed_stream(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str | Example], length: int, end_token: int | None
) -> Tensor:
    """Cut one stream of all documents into sequences (N, T); the remainder is dropped.

    Args:
        tokenizer: whose ids.
        documents: joined in their order.
        length: T.
        end_token: before, between and after the documents; None: nothing is.

    Raises:
        InputError: all documents together are shorter than one sequence.
    """
    separator = [] if end_token is None else [end_token]
    pieces = [np.asarray(separator, dtype=np.int64)]
    with track("tokenize", len(documents), transient=True) as advance:
        for ids in tokenize(tokenizer, map(plain_text, documents), special=False):
            pieces.append(np.asarray(ids + separator, dtype=np.int64))
            advance(tokens=len(ids))
    stream = torch.from_numpy(np.concatenate(pieces))
    if len(stream) < length:
        raise InputError(
            f"--sequence-length {length}: all {len(documents)} texts together have only {len(stream)} tokens"
        )
    return stream[: len(stream) // length * length].view(-1, length)


def drawn_windows(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str | Example],
    length: int,
    *,
    count: int,
    seed: int,
    separator: Sequence[int] | None = None,
) -> Tensor:
    """Draw windows (`count`, T) that do not overlap, from documents in an order that is drawn as well.

    Args:
        tokenizer: whose ids.
        documents: read until there are enough windows to draw from.
        length: T.
        count: how many windows.
        seed: of both draws.
        separator: ids between documents that are packed; None: each document is cut by itself.

    Raises:
        InputError: there are fewer windows.
    """
    generator = torch.Generator().manual_seed(seed)
    windows: list[Tensor] = []
    source = _Windows(tokenizer, length, separator)
    with track("tokenize", CANDIDATES_PER_SEQUENCE * count, transient=True) as advance:  # less where texts are few
        for found in source.of(_shuffled(documents, generator)):
            windows.extend(found)
            advance(len(found), tokens=found.numel())
            if len(windows) >= CANDIDATES_PER_SEQUENCE * count:
                break
    if not windows:
        raise InputError(source.too_short())
    if len(windows) < count:
        short = f", of which {source.num_short} are shorter" if source.num_short else ""
        raise InputError(
            f"--num-samples {count}: only {len(windows)} sequences of {length} tokens (--sequence-length) "
            f"qualify in {len(documents)} texts{short}; lower one of the two or give more text"
        )
    return torch.stack([windows[index] for index in torch.randperm(len(windows), generator=generator)[:count]])


def beginnings_first(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str | Example],
    length: int,
    *,
    count: int,
    seed: int,
    separator: Sequence[int] | None = None,
) -> Tensor:
    """Take at most `count` windows (N, T): the beginning of every document, and only then their later windows.

    Args:
        tokenizer: whose ids.
        documents: read in an order drawn with `seed`; those shorter than T are skipped.
        length: T.
        count: how many windows, at most.
        seed: of that order.
        separator: ids between documents that are packed, so that a window begins anywhere; None: nothing is packed.

    Raises:
        InputError: no document is long enough.
    """
    long_enough: list[Tensor] = []
    source = _Windows(tokenizer, length, separator)
    with track("tokenize held-out texts", count, transient=True) as advance:
        for windows in source.of(_shuffled(documents, torch.Generator().manual_seed(seed))):
            long_enough.extend([windows] if len(windows) else [])
            advance(min(1, len(windows)), tokens=windows.numel())
            if len(long_enough) == count:
                break
    if not long_enough:
        raise InputError(f"held-out texts: {source.too_short()}")
    places = range(max(map(len, long_enough)))
    found = [windows[place] for place in places for windows in long_enough if place < len(windows)]
    return torch.stack(found[:count])


@final
class _Windows:
    """Cut documents into windows, and count those that are too short for one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int, separator: Sequence[int] | None):
        self._tokenizer, self._length, self._separator = tokenizer, length, separator
        self.num_documents = self.num_short = self.longest = 0

    def of(self, documents: Iterator[str]) -> Iterator[Tensor]:
        """Yield each document's windows (n, T), with the tokenizer's own special tokens around the document.

        Packed documents have the separator around them instead, and what one leaves over begins the next one's windows.
        """
        rest: list[int] = list(self._separator or [])
        for ids in tokenize(self._tokenizer, documents, special=self._separator is None):
            self.num_documents += 1
            self.num_short += len(ids) < self._length
            self.longest = max(self.longest, len(ids))
            if self._separator is not None:
                ids = [*rest, *ids, *self._separator]
            whole = len(ids) // self._length * self._length
            rest = ids[whole:]
            yield torch.from_numpy(np.asarray(ids[:whole], dtype=np.int64)).view(-1, self._length)

    def too_short(self) -> str:
        """Say that no document was long enough, and what helps."""
        packed = "together " if self._separator is not None else ""
        cure = "" if self._separator is not None else ", or join them with --pack, or fill them up with --pad"
        return (
            f"--sequence-length {self._length}: all {self.num_documents} texts are {packed}shorter, the longest has "
            f"{self.longest} tokens; lower it{cure}"
        )


def _shuffled(documents: Sequence[str | Example], generator: torch.Generator) -> Iterator[str]:
    """Yield the documents in an order that `generator` draws; each is looked up when its turn comes."""
    for index in torch.randperm(len(documents), generator=generator).numpy():
        yield plain_text(documents[int(index)])
