"""The citation blocker against plain Python that shares no code. Alone: pytest tests/decoding/test_ngram_index.py"""

import random
import time
from collections import Counter

import pytest
import torch

from hypergen.decoding.ngram_index import CitationIndex
from hypergen.errors import InputError
from hypergen.evaluation.overlap import longest_overlap

INF = float("inf")


def counted(rows, length):
    """Every n-gram of every row, as tuples, with its count."""
    return Counter(tuple(row[i : i + length]) for row in rows for i in range(len(row) - length + 1))


def naive_banned(rows, length, context, num_tokens):
    prefix = tuple(context[len(context) - length + 1 :])
    enough = len(context) >= length - 1
    return [enough and counted(rows, length)[(*prefix, token)] > 0 for token in range(num_tokens)]


def naive_choice(rows, length, context, logits):
    """Greedy with the blocker, from its definition."""
    banned = naive_banned(rows, length, context, len(logits))
    allowed = [token for token, is_banned in enumerate(banned) if not is_banned and logits[token] > -INF]
    if allowed:
        return max(allowed, key=lambda token: (logits[token], -token))
    counts = counted(rows, length)
    prefix = tuple(context[len(context) - length + 1 :])
    possible = [token for token in range(len(logits)) if logits[token] > -INF]
    return min(possible, key=lambda token: (counts[(*prefix, token)], -logits[token], token))


def small_case(seed):
    """Few ids, so that prefixes repeat, fan out, and everything may be banned."""
    draw = random.Random(seed)
    num_ids = draw.choice([1, 2, 3, 5, 40])
    num_tokens = num_ids + draw.choice([0, 0, 1, 7])
    width = draw.choice([1, 2, 4, 9, 30])
    rows = [[draw.randrange(num_ids) for _ in range(width)] for _ in range(draw.choice([1, 2, 6, 25]))]
    length = draw.choice([2, 3, 4, 5, 8])
    contexts = [draw.choice(rows) for _ in range(6)]
    cut = draw.randrange(width + 1)
    contexts = [context[:cut] for context in contexts[:4]] + [[num_tokens - 1] * cut] * 2
    logits = [[draw.choice([0.0, 1.0, 2.0, -1.5, -INF]) for _ in range(num_tokens)] for _ in contexts]
    for row in logits:
        row[draw.randrange(num_tokens)] = 0.5
    return rows, length, contexts, logits


def blocked_by(index, context, num_tokens):
    """(B, V), where the blocker leaves none of equal logits.

    An id that no n-gram has stands beside the vocabulary, so that no row runs out of tokens.
    """
    return index.block(torch.zeros(len(context), num_tokens + 1), context)[:, :num_tokens] == -INF


def as_context(contexts):
    return torch.tensor(contexts, dtype=torch.long).view(len(contexts), -1)


@pytest.mark.parametrize("seed", range(200))
def test_against_sets(seed):
    rows, length, contexts, logits = small_case(seed)
    index, context, scores = CitationIndex(torch.tensor(rows), length), as_context(contexts), torch.tensor(logits)
    num_tokens = scores.shape[1]
    mask = blocked_by(index, context, num_tokens)
    assert mask.tolist() == [naive_banned(rows, length, row, num_tokens) for row in contexts]
    blocked = index.block(scores, context)
    choices = [naive_choice(rows, length, row, values) for row, values in zip(contexts, logits, strict=True)]
    assert blocked.argmax(1).tolist() == choices
    assert index.argmax_allowed(scores, context).tolist() == choices
    kept = blocked > -INF
    assert blocked[kept].equal(scores[kept])
    stuck = (scores.masked_fill(mask, -INF) == -INF).all(1)
    assert kept[stuck].sum(1).tolist() == [1] * int(stuck.sum())
    assert not (kept & mask)[~stuck].any()


@pytest.mark.parametrize("length", [2, 3, 5, 12, 40])
@pytest.mark.parametrize("num_tokens", [300, 151_936, 2**31])
def test_digits_beyond_63_bits(length, num_tokens):
    """Many ids or long n-grams need tables between the digits; nothing may collide."""
    torch.manual_seed(length)
    tokens = torch.randint(num_tokens, (4, 60))
    tokens[:, 20:40] = tokens[0, 0]
    tokens[1, :50] = tokens[0, 10:]
    index, known = CitationIndex(tokens, length), counted(tokens.tolist(), length)
    grams = tokens.unfold(1, length, 1).flatten(0, 1)
    changed = grams.clone()
    changed[torch.arange(len(grams)), torch.randint(length, (len(grams),))] = tokens[0, 5]
    for windows in (grams, changed):
        prefix = index._prefix(windows[:, :-1]) + windows[:, -1]
        found = index.grams[torch.searchsorted(index.grams, prefix)] == prefix
        assert found.tolist() == [tuple(window) in known for window in windows.tolist()]


def test_more_than_65536_distinct_ids():
    """The ids of hundreds of thousands of tokens, five of which do not fit into 63 bits."""
    num_tokens = 140_000
    tokens = torch.randperm(num_tokens, generator=torch.Generator().manual_seed(0)).view(-1, 100)
    index = CitationIndex(tokens, 5)
    assert index.tables
    context = torch.stack([tokens[3, 10:14], tokens[1399, -5:-1], tokens[7, :4].flip(0), tokens[9, -4:]])
    mask = blocked_by(index, context, num_tokens)
    assert mask.sum(1).tolist() == [1, 1, 0, 0]
    assert mask[0, tokens[3, 14]] and mask[1, tokens[1399, -1]]


def test_by_hand():
    index = CitationIndex(torch.tensor([[1, 2, 3, 4], [1, 2, 5, 1]]), length=3)
    context = torch.tensor([[9, 9, 1, 2], [0, 0, 5, 1], [0, 0, 3, 4], [9, 9, 9, 9]])
    assert [row.nonzero().flatten().tolist() for row in blocked_by(index, context, 10)] == [[3, 5], [], [], []]
    logits = torch.arange(10.0).flip(0).repeat(4, 1)
    logits[0, 3] = 20
    assert index.block(logits, context).argmax(1).tolist() == [0, 0, 0, 0]
    assert logits[0, 3] == 20  # the caller's logits are left alone


def test_everything_banned_takes_the_least_cited():
    """After 0, token 1 is cited twice, tokens 0 and 2 once: 2 has the higher logit of these."""
    index = CitationIndex(torch.tensor([[0, 1, 0, 1, 0, 0, 2]]), length=2)
    context, logits = torch.tensor([[0], [1]]), torch.tensor([[0.0, 9.0, 1.0], [3.0, 2.0, 1.0]])
    assert index.block(logits, context).tolist() == [[-INF, -INF, 1.0], [-INF, 2.0, 1.0]]
    assert index.argmax_allowed(logits, context).tolist() == [2, 1]


def test_more_banned_tokens_than_candidates():
    tokens = torch.stack([torch.zeros(40, dtype=torch.long), torch.arange(40)], 1)
    index = CitationIndex(tokens, length=2)
    logits = torch.arange(50.0).roll(9)[None]  # the best ones, 31 to 39 and further down, are banned but for 40 to 49
    logits[:, 40:] -= 100
    context = torch.zeros(1, 1, dtype=torch.long)
    assert index.argmax_allowed(logits, context).equal(index.block(logits, context).argmax(1))
    assert index.argmax_allowed(logits, context).item() == 49


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_candidates_equal_the_mask_on_a_large_vocabulary(dtype):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(30, (50, 100), generator=generator)
    index = CitationIndex(tokens, length=3)
    logits = torch.randn(64, 5000, generator=generator).to(dtype)
    logits[:, :30] += 3
    context = tokens.repeat(2, 1)[:64, :20]
    assert index.argmax_allowed(logits, context).equal(index.block(logits, context).argmax(1))
    flat = torch.zeros_like(logits)
    assert index.argmax_allowed(flat, context).equal(index.block(flat, context).argmax(1))


def test_sequences_shorter_than_the_length_ban_nothing():
    index = CitationIndex(torch.tensor([[1, 2, 3]]), length=5)
    context = torch.tensor([[1, 2, 3, 3, 3]])
    assert not blocked_by(index, context, 4).any()
    assert index.argmax_allowed(torch.tensor([[0.0, 1.0, 3.0, 2.0]]), context).tolist() == [2]


def test_to_moves_a_copy():
    index = CitationIndex(torch.randint(2**20, (20, 90)), length=12)
    moved = index.to("meta")
    assert moved.grams.is_meta and all(table.is_meta for table in moved.tables.values())
    assert not index.grams.is_meta and index.tables


def test_refusals():
    with pytest.raises(InputError, match=r"citation length 1: must be 2 or more"):
        CitationIndex(torch.tensor([[1, 2]]), 1)
    for tokens in (torch.zeros(3), torch.zeros(0, 4).long(), torch.zeros(2, 2), torch.tensor([[-1]])):
        with pytest.raises(InputError, match=r"\(N, T\)"):
            CitationIndex(tokens)
    index = CitationIndex(torch.tensor([[1, 7]]), 2)
    with pytest.raises(InputError, match="vocabulary of 5 tokens: the training set has id 7"):
        index.block(torch.zeros(1, 5), torch.tensor([[1]]))


def test_no_blocked_text_quotes():
    """Greedy with the blocker, fed by a model that wants to recite, never shares `length` tokens."""
    tokens = torch.randint(12, (20, 50), generator=torch.Generator().manual_seed(1))
    index, text = CitationIndex(tokens, length=4), tokens[:6, :3]
    for step in range(3, 40):
        logits = torch.zeros(6, 12).scatter(1, tokens[:6, step, None], 5.0) - torch.arange(12) * 0.1
        text = torch.cat([text, index.argmax_allowed(logits, text)[:, None]], 1)
    assert longest_overlap(text, tokens).max() == 3


@pytest.mark.slow
@pytest.mark.parametrize("num_ids", [1, 512, 50_000])
def test_time(num_ids):
    """2000 x 256 training tokens on one core; the bound is ten times what was measured."""
    tokens = torch.randint(num_ids, (2000, 256))
    started = time.perf_counter()
    CitationIndex(tokens)
    assert time.perf_counter() - started < 4


@pytest.mark.parametrize("seed", range(50))
def test_only_what_is_learned_is_blocked(seed):
    """A masked index against one of rows without prompt and padding: how answers begin after a template is free."""
    draw = random.Random(seed)
    rows = [[draw.randrange(3) for _ in range(9)] for _ in range(4)]
    ends = [sorted((draw.randrange(9), draw.randrange(1, 10))) for _ in rows]
    loss_mask = torch.tensor([[first <= place < last for place in range(9)] for first, last in ends])
    index = CitationIndex(torch.tensor(rows), 3, loss_mask)
    cut = [row[first:last] for row, (first, last) in zip(rows, ends, strict=True)]
    for context in (row[:5] for row in rows):
        blocked = index.block(torch.zeros(1, 4), torch.tensor([context]))[0] == -INF
        assert blocked.tolist() == naive_banned(cut, 3, context, 4)
