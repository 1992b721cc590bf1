"""The training set's n-grams: which next tokens would quote it (the citation blocker), and how much a text quotes it.

Both are exact, for any vocabulary and any length: nothing is hashed. Only runs inside one training sequence count.
Does not know: models, words or pixels. The blocker of arXiv 2412.04318 waits for the end of a word; this one does not.

Shape letters: N training sequences, B batch, L context, S completion, T tokens, V vocabulary, F most continuations
of one prefix.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from hypergen.errors import InputError
from hypergen.sampling import argmax, topk

LAST = torch.iinfo(torch.int64).max  # ends every sorted table, so that a search always lands inside it
NUM_CANDIDATES = 16  # most likely tokens that greedy decoding looks at before it masks the whole vocabulary


@final
class CitationIndex:
    """All n-grams of the training tokens as one sorted table of int64 keys, searched with every row at once.

    An n-gram's key is its tokens as digits of a number: the first n - 1 as positions in the table of training ids, the
    last as it is, so that a prefix's continuations are neighbours. Where the number would outgrow 63 bits, the digits
    so far are replaced by their position in a table of all that occur. A token or run that never occurs takes the
    position after a table's last entry and thus matches nothing.
    """

    def __init__(self, tokens: Tensor, length: int = 5):
        """Index the n-grams of `length` tokens (2 or more; paper: 5) of training tokens (N, T), on their device.

        Raises:
            InputError: the length is below 2, or the tokens are not a filled (N, T) tensor of ids.
        """
        if length < 2:
            raise InputError(f"citation length {length}: must be 2 or more")
        _require_tokens(tokens)
        self.length = length
        self.num_ids = int(tokens.max()) + 1
        self.ids = _table(tokens.unique().long())
        self.digit_of = torch.full((self.num_ids + 1,), len(self.ids) - 1, device=tokens.device)
        self.digit_of[self.ids[:-1]] = torch.arange(len(self.ids) - 1, device=tokens.device)
        self.tables: dict[int, Tensor] = {}  # digit -> all keys of the digits before it
        windows = _windows(tokens.long(), length)
        self.last_continuation = int(windows[:, -1].max()) if len(windows) else -1
        digits = self._digits(windows[:, :-1])
        self._build_tables(digits)
        powers = range(length - 2, -1, -1) if not self.tables else ()
        self.worth = torch.tensor([len(self.ids) ** power * self.num_ids for power in powers], device=tokens.device)
        grams, counts = (self._pack(digits) * self.num_ids + windows[:, -1]).unique(return_counts=True)
        self.grams, self.counts = _table(grams), torch.cat([counts, counts.new_zeros(1)])
        prefixes = grams.div(self.num_ids, rounding_mode="floor").unique_consecutive(return_counts=True)[1]
        self.most_continuations = int(prefixes.max()) if len(prefixes) else 1

    def to(self, device: torch.device | str) -> CitationIndex:
        """The same index on another device."""
        moved = copy.copy(self)
        for name in ("ids", "digit_of", "worth", "grams", "counts"):
            setattr(moved, name, getattr(self, name).to(device))
        moved.tables = {digit: table.to(device) for digit, table in self.tables.items()}
        return moved

    def banned(self, context: Tensor, num_tokens: int) -> Tensor:
        """Context (B, L), prompt included -> mask (B, V), true where the token would complete a training n-gram.

        A context shorter than `length` - 1 bans nothing. No value is read on the host.

        Raises:
            InputError: the vocabulary of `num_tokens` lacks ids of the training tokens.
        """
        return self._mask(*self._continuations(context), num_tokens)

    def block(self, logits: Tensor, context: Tensor) -> Tensor:
        """Logits (B, V) with -inf where `banned`. No value is read on the host.

        Where that would leave a row nothing, its banned token with the lowest training count stays (of several the
        one with the highest logit, then the lowest id): a row always has a next token.
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
        """`block(logits, context).argmax(1)`, (B,), without a mask as long as a likely token is allowed.

        Reads a truth value on the host: whether any row's most likely token is banned, which is rare; then another,
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
        """Whether ids (B,) or (B, K) after prefixes (B,) or (B, 1) make an n-gram of the training set."""
        keys = prefix + tokens
        return (self.grams[torch.searchsorted(self.grams, keys)] == keys) & (tokens < self.num_ids)

    def _digits(self, tokens: Tensor) -> Tensor:
        """Ids of any shape -> their positions in the table of training ids."""
        return self.digit_of[tokens.clamp(max=self.num_ids)]

    def _build_tables(self, digits: Tensor) -> None:
        """Decide from the number of possible keys where a table is needed, and fill it."""
        num_keys = 1
        for digit in range(self.length):
            base = len(self.ids) if digit < self.length - 1 else self.num_ids
            if num_keys > LAST // base:
                self.tables[digit] = _table(self._pack(digits[:, :digit]).unique())
                num_keys = len(self.tables[digit])
            num_keys *= base

    def _pack(self, digits: Tensor) -> Tensor:
        """Digits (B, n) of a run's first n tokens -> its key (B,), ready to take one more digit."""
        key = digits.new_zeros(len(digits))
        for digit in range(digits.shape[1]):
            key = self._shorten(key, digit) * len(self.ids) + digits[:, digit]
        return self._shorten(key, digits.shape[1])

    def _shorten(self, key: Tensor, digit: int) -> Tensor:
        return _position(self.tables[digit], key) if digit in self.tables else key

    def _prefix(self, context: Tensor) -> Tensor:
        """Context (B, L) -> (B,), the key of its last tokens with id 0 after them; below all keys where too short."""
        if context.shape[1] < self.length - 1:
            return self.grams.new_full((len(context),), -self.num_ids)
        digits = self._digits(context[:, 1 - self.length :])
        return self._pack(digits) * self.num_ids if self.tables else (digits * self.worth).sum(1)

    def _continuations(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Context (B, L) -> tokens (B, F) after its last tokens, ascending, and how often; unused places count 0."""
        prefix = self._prefix(context)
        first, end = torch.searchsorted(self.grams, torch.stack([prefix, prefix + self.num_ids]))
        places = first[:, None] + torch.arange(self.most_continuations, device=first.device)
        inside = places < end[:, None]
        places = places.where(inside, len(self.grams) - 1)
        return (self.grams[places] % self.num_ids).where(inside, 0), self.counts[places]

    def _mask(self, tokens: Tensor, counts: Tensor, num_tokens: int) -> Tensor:
        if num_tokens <= self.last_continuation:  # a start token, which is only ever first, needs no logit
            raise InputError(f"vocabulary of {num_tokens} tokens: the training set has id {self.last_continuation}")
        mask = torch.zeros(len(tokens), num_tokens + 1, dtype=torch.bool, device=tokens.device)
        return mask.scatter_(1, tokens.where(counts > 0, num_tokens), True)[:, :num_tokens]


def longest_overlap(completions: Sequence[Tensor] | Tensor, tokens: Tensor) -> Tensor:
    """The longest run of tokens that each completion shares with any one sequence of tokens (N, T); (B,) int64.

    Unit: tokens, 0 to the completion's length. Source: arXiv 2412.04318, Table 2 (longest training-set overlap); also
    measures how much of a held-out text is in the training set. Exact: all windows of 1, 2, 4, ... tokens are ranked
    until no completion's window is in `tokens`; a completion's suffix shares most with a neighbour in that order.
    """
    _require_tokens(tokens)
    rows = [row.to(tokens.device) for row in completions]
    ranks, num_training = _window_ranks(rows, tokens)
    before, after = _training_neighbours(ranks[-1], num_training)
    own = torch.arange(num_training, len(ranks[0]), device=tokens.device)
    runs = torch.maximum(_common_length(ranks, own, before), _common_length(ranks, own, after))
    lengths = torch.tensor([len(row) + 1 for row in rows], dtype=torch.long, device=tokens.device)
    row_of = torch.arange(len(rows), device=tokens.device).repeat_interleave(lengths)
    return runs.new_zeros(len(rows)).scatter_reduce_(0, row_of, runs, "amax")


def overlap_summary(lengths: Tensor) -> dict[str, float]:
    """Mean and maximum of `longest_overlap` in tokens, and the share (0 to 1) of completions above 10 tokens, as
    arXiv 2412.04318 reports beside Table 2."""
    if not len(lengths):
        raise InputError("overlap of 0 completions: at least 1 is needed")
    return {
        "overlap_mean": float(lengths.double().mean()),
        "overlap_max": float(lengths.max()),
        "overlap_over_10": float((lengths > 10).double().mean()),
    }


def _window_ranks(rows: list[Tensor], tokens: Tensor) -> tuple[list[Tensor], int]:
    """Ranks of the windows of 1, 2, 4, ... tokens at every place of all sequences laid end to end, and how many of the
    places belong to training. An id of its own ends each sequence, so a window across an end equals no other."""
    ends = -1 - torch.arange(len(tokens) + len(rows), device=tokens.device)
    training = torch.cat([tokens.long(), ends[: len(tokens), None]], 1).flatten()
    pieces = [piece for row, end in zip(rows, ends[len(tokens) :, None], strict=True) for piece in (row.long(), end)]
    ranks = [_rank(torch.cat([training, *pieces]))]
    places = torch.arange(len(ranks[0]), device=tokens.device)
    while _is_shared(ranks[-1], len(training)):
        width = 2 ** (len(ranks) - 1)
        following = ranks[-1][(places + width).clamp(max=len(places) - 1)]
        ranks.append(_rank(ranks[-1] * len(places) + following))
    return ranks, len(training)


def _is_shared(rank: Tensor, num_training: int) -> bool:
    in_training = torch.zeros_like(rank, dtype=torch.bool)
    in_training[rank[:num_training]] = True
    return bool(in_training[rank[num_training:]].any())


def _training_neighbours(rank: Tensor, num_training: int) -> tuple[Tensor, Tensor]:
    """For each completion place, the training places just before and just after it in the order of ranks; any training
    place where there is none, since every one of them gives a run that is shared."""
    order = rank.argsort()
    places = torch.arange(len(order), device=order.device)
    is_training = order < num_training
    some = int(is_training.nonzero()[0])
    before = places.where(is_training, -1).cummax(0).values
    after = places.where(is_training, len(order)).flip(0).cummin(0).values.flip(0)
    before, after = before.where(before >= 0, some), after.where(after < len(order), some)
    place_of = torch.empty_like(order).scatter_(0, order, places)[num_training:]
    return order[before[place_of]], order[after[place_of]]


def _common_length(ranks: list[Tensor], left: Tensor, right: Tensor) -> Tensor:
    """How many tokens are equal from places `left` and `right` on: a sum of falling powers of two."""
    length = torch.zeros_like(left)
    for power in reversed(range(len(ranks) - 1)):
        rank = ranks[power]
        length = length + (rank[left + length] == rank[right + length]) * 2**power
    return length


def _windows(tokens: Tensor, length: int) -> Tensor:
    """(N, T) -> all runs of `length` tokens inside a row, one a row."""
    if tokens.shape[1] < length:
        return tokens.new_empty(0, length)
    return tokens.unfold(1, length, 1).flatten(0, 1)


def _rank(values: Tensor) -> Tensor:
    return values.unique(return_inverse=True)[1]


def _table(keys: Tensor) -> Tensor:
    return torch.cat([keys, keys.new_full((1,), LAST)])


def _position(table: Tensor, keys: Tensor) -> Tensor:
    """Where each key stands in a sorted table; the last place where it does not occur."""
    keys = keys.contiguous()
    place = torch.searchsorted(table, keys)
    return place.where(table[place] == keys, len(table) - 1)


def _require_tokens(tokens: Any) -> None:
    is_filled = (
        isinstance(tokens, Tensor) and tokens.ndim == 2 and tokens.numel() > 0 and not tokens.is_floating_point()
    )
    if not is_filled or int(tokens.min()) < 0:
        what = f"{tuple(tokens.shape)} {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise InputError(f"training tokens {what}: must be ids, 0 or more, of shape (N, T) with at least one token")
