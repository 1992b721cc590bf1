"""Encode rows as padded sequences with a loss mask: conversations, prompts with completions, short texts.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hypergen.errors import InputError
from hypergen.modality import Encoded
from hypergen.runtime.console import warn
from hypergen.runtime.progress import track
from hypergen.text.chat_template import Part, parts_of
from hypergen.text.conversations import Example
from hypergen.text.tokenizer import begin_once, prefix_ids, tokenize

CANDIDATES_PER_SEQUENCE = 16  # windows of texts that are looked at for each one that is drawn

Row = tuple[list[int], list[bool]]  # ids, and which of them count


@dataclass(frozen=True, kw_only=True)
class RowEncoder:
    """Turn items into rows: ids, and which of them the loss counts."""

    tokenizer: PreTrainedTokenizerBase
    length: int
    """T."""
    end_token: int | None
    """Ends a completion, and fills rows up."""
    takes_texts: bool
    """Whether texts become rows, too (`pad`)."""

    def training_rows(self, item: str | Example) -> Iterator[Row]:
        """Yield an example's row, or all windows of a text, the last one of any length."""
        if isinstance(item, Example):
            yield self.example_row(item)
            return
        ids = self._text_ids(item)
        for first in range(0, len(ids), self.length):
            window = ids[first : first + self.length]
            yield window, [True] * len(window)

    def held_out_rows(self, item: str | Example, prompt_length: int) -> Iterator[Row]:
        """Yield an example's row, or the beginning of a text, of which all behind the prompt counts."""
        if isinstance(item, Example):
            yield self.example_row(item)
            return
        ids = self._text_ids(item)[: self.length]
        yield ids, [place >= prompt_length for place in range(len(ids))]

    def example_row(self, example: Example) -> Row:
        """Encode an example of any length, begin token first; a completion ends with the end token."""
        prefix, parts = prefix_ids(self.tokenizer), parts_of(self.tokenizer, example)
        ids, counts = self._joined(parts)
        begun = begin_once(ids, prefix)
        counts = [False] * (len(begun) - len(ids)) + counts
        if parts[-1][1] and self.end_token is not None and begun[-1:] != [self.end_token]:
            return [*begun, self.end_token], [*counts, True]
        return begun, counts

    def _text_ids(self, item: str) -> list[int]:
        if not self.takes_texts:
            raise InputError("rows of messages or of a prompt and its completion, and texts together: name one kind")
        return next(tokenize(self.tokenizer, [item], special=True))

    def _joined(self, parts: Sequence[Part]) -> Row:
        """Tokenize a text in parts; as a whole, unless a token would lie across a border, which no prompt has."""
        texts = ["".join(text for text, _ in parts[: number + 1]) for number in range(len(parts))]
        beginnings = list(tokenize(self.tokenizer, texts, special=False))
        ids = beginnings[-1]
        if all(ids[: len(beginning)] == beginning for beginning in beginnings):
            ends = [len(beginning) for beginning in beginnings]
            sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        else:
            pieces = list(tokenize(self.tokenizer, [text for text, _ in parts], special=False))
            ids, sizes = [one for piece in pieces for one in piece], [len(piece) for piece in pieces]
        return ids, [counts for (_, counts), size in zip(parts, sizes, strict=True) for _ in range(size)]


def drawn_rows(encoder: RowEncoder, items: Sequence[str | Example], *, count: int, seed: int) -> Encoded:
    """Encode `count` rows (N, T), of items in an order drawn with `seed`.

    Raises:
        InputError: there are fewer that have something to learn within T tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, wanted, num_read = _Rows(encoder.length, encoder.end_token), count, 0
    with track("tokenize", count, transient=True) as advance:
        for index in torch.randperm(len(items), generator=generator).tolist():
            item, before, num_read = items[index], len(rows), num_read + 1
            if isinstance(item, str):
                wanted = CANDIDATES_PER_SEQUENCE * count  # as neighbours, windows of one text are much alike
            for row in encoder.training_rows(item):
                rows.add(row)
            advance(min(len(rows), count) - min(before, count))
            if len(rows) >= wanted:
                break
    if len(rows) < count:
        short = rows.passed_over(num_read) or f"there are {num_read} rows"
        raise InputError(f"--num-samples {count}: only {len(rows)} sequences qualify ({short}); lower it or give more")
    rows.report(num_read)
    return rows.encoded(torch.randperm(len(rows), generator=generator)[:count].tolist())


def held_out_rows(
    encoder: RowEncoder, items: Sequence[str | Example], *, count: int, seed: int, prompt_length: int, most: int
) -> Encoded:
    """Encode at most `count` rows (N, T), one an item, of items in an order drawn with `seed`.

    Args:
        encoder: of items.
        items: read until there are enough.
        count: N, at most.
        seed: of the order.
        prompt_length: tokens of a text that are its prompt.
        most: tokens of a prompt, at most: its completion needs room in the context.

    Raises:
        InputError: no item qualifies.
    """
    rows, num_read = _Rows(encoder.length, encoder.end_token, most), 0
    with track("tokenize held-out rows", count, transient=True) as advance:
        for index in torch.randperm(len(items), generator=torch.Generator().manual_seed(seed)).tolist():
            num_read, before = num_read + 1, len(rows)
            for row in encoder.held_out_rows(items[index], prompt_length):
                rows.add(row)
            advance(len(rows) - before)
            if len(rows) == count:
                break
    if not len(rows):
        raise InputError(f"held-out rows: none qualifies ({rows.passed_over(num_read)})")
    return rows.encoded(range(len(rows)))


@final
class _Rows:
    """Collect rows that have something to learn within T tokens, and count the others."""

    def __init__(self, length: int, end_token: int | None, most: int | None = None):
        self._length, self._most = length, length - 1 if most is None else most
        self._filler = 0 if end_token is None else end_token
        self._rows: list[Row] = []
        self._num_cut = self._num_long = self._num_short = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Keep a row, without what follows the last token that counts."""
        ids, counts = row
        places = [place for place, counted in enumerate(counts) if counted and place]  # nothing predicts the first
        inside = [place for place in places if place < self._length]
        if not places:
            self._num_short += 1
        elif not inside or places[0] > self._most:
            self._num_long += 1
        else:
            self._num_cut += len(places) > len(inside)
            end = inside[-1] + 1
            self._rows.append((ids[:end], counts[:end]))

    def passed_over(self, num_read: int) -> str:
        """Say how many rows of those read were passed over, and why; empty where none was."""
        reasons = {
            f"have a prompt that leaves no room for the completion (--sequence-length {self._length})": self._num_long,
            "have nothing to learn": self._num_short,
        }
        return "; ".join(f"{number} of {num_read} rows {why}" for why, number in reasons.items() if number)

    def report(self, num_read: int) -> None:
        """Warn of rows that were passed over, and of completions that were cut."""
        if said := self.passed_over(num_read):
            warn(f"passed over: {said}")
        if self._num_cut:
            warn(f"{self._num_cut} of {num_read} completions are cut at --sequence-length {self._length}")

    def encoded(self, chosen: Sequence[int]) -> Encoded:
        """Fill the chosen rows up to T tokens."""
        tokens = torch.full((len(chosen), self._length), self._filler)
        loss_mask = torch.zeros(tokens.shape, dtype=torch.bool)
        for place, number in enumerate(chosen):
            ids, counts = self._rows[number]
            tokens[place, : len(ids)] = torch.tensor(ids)
            loss_mask[place, : len(ids)] = torch.tensor(counts)
        return Encoded(tokens, loss_mask)


def example_prompt(encoder: RowEncoder, example: Example) -> Tensor:
    """Encode what lies before an example's first token to learn: (P,)."""
    ids, counts = encoder.example_row(example)
    return torch.tensor(ids[: counts.index(True)] if True in counts else ids, dtype=torch.long)
