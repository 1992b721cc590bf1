"""Index the training set's n-grams, and block the next tokens that would quote it (the citation blocker).

It is exact, for any vocabulary and any length: nothing is hashed. Only runs inside one training sequence count. The
blocker of arXiv 2412.04318 waits for the end of a word; this one does not.
Does not know what a token means.

Shape letters: N training sequences, B batch, L context, T tokens, V vocabulary, K candidates, F most continuations of
one prefix.
"""

from __future__ import annotations

import copy
from typing import Any, final

import torch
from torch import Tensor

from hypergen.errors import InputError
from hypergen.kernels.topk import argmax, topk

LAST = torch.iinfo(torch.int64).max  # ends every sorted table, so that a search always lands inside it
NUM_CANDIDATES = 16  # most likely tokens that greedy decoding looks at before it masks the whole vocabulary


@final
class CitationIndex:
    """Hold all n-grams of the training tokens as one sorted table of int64 keys, searched with every row at once.

    An n-gram's key is its tokens as digits of a number: the first n - 1 as positions in the table of training ids, the
    last as it is, so that a prefix's continuations are neighbours. Where the number would outgrow 63 bits, the digits
    so far are replaced by their position in a table of all that occur. A token or run that never occurs takes the
    position after a table's last entry and thus matches nothing.
    """

    def __init__(self, tokens: Tensor, length: int = 5, loss_mask: Tensor | None = None):
        """Index the n-grams of `length` tokens (2 or more; paper: 5) of training tokens (N, T), on their device.

        With a loss mask (N, T) only n-grams that are learned as a whole count: a template's tokens before each answer
        would otherwise keep an answer from beginning as any of them did.

        Raises:
            InputError: the length is below 2, or the tokens are not a filled (N, T) tensor of ids.
        """
        if length < 2:
            raise InputError(f"citation length {length}: must be 2 or more")
        require_tokens(tokens)
        self.length = length
        self.num_ids = int(tokens.max()) + 1
        self.ids = _table(torch.unique(tokens).long())
        self.digit_of = torch.full((self.num_ids + 1,), len(self.ids) - 1, device=tokens.device)
        self.digit_of[self.ids[:-1]] = torch.arange(len(self.ids) - 1, device=tokens.device)
        self.tables: dict[int, Tensor] = {}  # digit -> all keys of the digits before it
        windows = _windows(tokens.long(), length)
        if loss_mask is not None:
            windows = windows[_windows(loss_mask, length).all(1)]
        self.last_continuation = int(windows[:, -1].max()) if len(windows) else -1
        digits = self._digits(windows[:, :-1])
        self._build_tables(digits)
        powers = range(length - 2, -1, -1) if not self.tables else ()
        self.worth = torch.tensor([len(self.ids) ** power * self.num_ids for power in powers], device=tokens.device)
        keys = self._pack(digits) * self.num_ids + windows[:, -1]
        grams, counts = torch.unique(keys, return_counts=True)
        self.grams, self.counts = _table(grams), torch.cat([counts, counts.new_zeros(1)])
        prefixes = grams.div(self.num_ids, rounding_mode="floor").unique_consecutive(return_counts=True)[1]
        self.most_continuations = int(prefixes.max()) if len(prefixes) else 1

    def to(self, device: torch.device | str) -> CitationIndex:
        """Copy the index to another device."""
        moved = copy.copy(self)
        for name in ("ids", "digit_of", "worth", "grams", "counts"):
            setattr(moved, name, getattr(self, name).to(device))
        moved.tables = {digit: table.to(device) for digit, table in self.tables.items()}
        return moved

    def block(self, logits: Tensor, context: Tensor) -> Tensor:
        """Set logits (B, V) to -inf where the token would complete a training n-gram after the context (B, L).

        The context includes the prompt; one shorter than `length` - 1 blocks nothing. Where all of a row's tokens would
        be blocked, the one with the lowest training count stays (of several the one with the highest logit, then the
        lowest id): a row always has a next token. No value is read on the host.

        Raises:
            InputError: the vocabulary lacks ids of the training tokens.
        """
        tokens, counts = self._continuations(context)
        blocked = logits.masked_fill(self._mask(tokens, counts, logits.shape[1]), -torch.inf)
        scores = logits.gather(1, tokens)
        usable = (counts > 0) & (scores > -torch.inf)
        rarest = usable & (counts == counts.where(usable, LAST).amin(1, keepdim=True))
        choice = scores.where(rarest, -torch.inf).argmax(1, keepdim=True)
        stuck = (blocked == -torch.inf).all(1, keepdim=True) & usable.any(1, keepdim=True)
        token = tokens.gather(1, choice)
        return blocked.scatter(1, token, scores.gather(1, choice).where(stuck, blocked.gather(1, token)))

    def argmax_allowed(self, logits: Tensor, context: Tensor) -> Tensor:
        """Compute `block(logits, context).argmax(1)`, (B,), without a mask as long as a likely token is allowed.

        Reads a truth value on the host: whether any row's most likely token is blocked, which is rare; then another,
        whether every row's best allowed candidate beats all other tokens.
        """
        prefix, best = self._prefix(context), argmax(logits)
        if not bool(self._completes(prefix, best).any()):
            return best
        scores, candidates = topk(logits, NUM_CANDIDATES)
        blocked = self._completes(prefix[:, None], candidates)
        highest = scores.masked_fill(blocked, -torch.inf).amax(1, keepdim=True)
        if not bool((highest > scores[:, -1:]).all()):
            return self.block(logits, context).argmax(1)
        return candidates.where(~blocked & (scores == highest), logits.shape[1]).amin(1)

    def _completes(self, prefix: Tensor, tokens: Tensor) -> Tensor:
        """Tell which ids (B,) or (B, K) after prefixes (B,) or (B, 1) make an n-gram of the training set."""
        keys = prefix + tokens
        return (self.grams[torch.searchsorted(self.grams, keys)] == keys) & (tokens < self.num_ids)

    def _digits(self, tokens: Tensor) -> Tensor:
        """Look up the positions of ids of any shape in the table of training ids."""
        return self.digit_of[tokens.clamp(max=self.num_ids)]

    def _build_tables(self, digits: Tensor) -> None:
        """Decide from the number of possible keys where a table is needed, and fill it."""
        num_keys = 1
        for digit in range(self.length):
            base = len(self.ids) if digit < self.length - 1 else self.num_ids
            if num_keys > LAST // base:
                self.tables[digit] = _table(torch.unique(self._pack(digits[:, :digit])))
                num_keys = len(self.tables[digit])
            num_keys *= base

    def _pack(self, digits: Tensor) -> Tensor:
        """Pack digits (B, n) of a run's first n tokens into its key (B,), ready to take one more digit."""
        key = digits.new_zeros(len(digits))
        for digit in range(digits.shape[1]):
            key = self._shorten(key, digit) * len(self.ids) + digits[:, digit]
        return self._shorten(key, digits.shape[1])

    def _shorten(self, key: Tensor, digit: int) -> Tensor:
        return _position(self.tables[digit], key) if digit in self.tables else key

    def _prefix(self, context: Tensor) -> Tensor:
        """Compute the key of a context's last tokens, id 0 after them: (B, L) -> (B,), below all where too short."""
        if context.shape[1] < self.length - 1:
            return self.grams.new_full((len(context),), -self.num_ids)
        digits = self._digits(context[:, 1 - self.length :])
        return self._pack(digits) * self.num_ids if self.tables else (digits * self.worth).sum(1)

    def _continuations(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Find the tokens (B, F) after the last ones of a context (B, L), ascending, and their counts; unused: 0."""
        prefix = self._prefix(context)
        first, end = torch.searchsorted(self.grams, torch.stack([prefix, prefix + self.num_ids]))
        positions = first[:, None] + torch.arange(self.most_continuations, device=first.device)
        inside = positions < end[:, None]
        positions = positions.where(inside, len(self.grams) - 1)
        return (self.grams[positions] % self.num_ids).where(inside, 0), self.counts[positions]

    def _mask(self, tokens: Tensor, counts: Tensor, num_tokens: int) -> Tensor:
        """Mask (B, V) those tokens (B, F) whose counts are above 0."""
        if num_tokens <= self.last_continuation:  # a start token, which is only ever first, needs no logit
            raise InputError(f"vocabulary of {num_tokens} tokens: the training set has id {self.last_continuation}")
        mask = torch.zeros(len(tokens), num_tokens + 1, dtype=torch.bool, device=tokens.device)
        return mask.scatter_(1, tokens.where(counts > 0, num_tokens), True)[:, :num_tokens]


def _windows(tokens: Tensor, length: int) -> Tensor:
    """List all runs of `length` tokens inside a row of (N, T), one a row."""
    if tokens.shape[1] < length:
        return tokens.new_empty(0, length)
    return tokens.unfold(1, length, 1).flatten(0, 1)


def _table(keys: Tensor) -> Tensor:
    return torch.cat([keys, keys.new_full((1,), LAST)])


def _position(table: Tensor, keys: Tensor) -> Tensor:
    """Find the position of each key in a sorted table; the last one for a key that does not occur."""
    keys = keys.contiguous()
    position = torch.searchsorted(table, keys)
    return position.where(table[position] == keys, len(table) - 1)


def require_tokens(tokens: Any) -> None:
    """Refuse training tokens that are not a filled (N, T) tensor of ids."""
    is_filled = (
        isinstance(tokens, Tensor) and tokens.ndim == 2 and tokens.numel() > 0 and not tokens.is_floating_point()
    )
    if not is_filled or int(tokens.min()) < 0:
        found = f"{tuple(tokens.shape)} {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise InputError(f"training tokens {found}: must be ids, 0 or more, of shape (N, T) with at least one token")
