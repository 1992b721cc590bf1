"""Models, prompts and logits that the tests of decoding share."""

import pytest
import torch
from torch import nn

from hypergen.config import DecodingConfig
from tests.toy.model import ToyModel

NUM_TOKENS, CONTEXT = 18, 40
GREEDY = DecodingConfig()
SAMPLED = DecodingConfig(strategy="temperature", seed=3)
BOTH = pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


class Chain(nn.Module):
    """The next token's logits depend on the last token alone: one row each of a table (V', V)."""

    def __init__(self, table, context_length=1000):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(table))
        self.num_tokens, self.context_length, self.supports_left_padding = self.table.shape[1], context_length, False

    def prefill(self, prompt, max_new_tokens, num_padding=None, *, native=False):
        return self.decode_step(prompt[:, -1], None)

    def decode_step(self, token, kv_cache):
        return self.table[token], None

    def select_rows(self, kv_cache, rows):
        return None


class Watched(ToyModel):
    """Writes down how many rows and tokens each call sees."""

    def __init__(self, **shape):
        super().__init__(**shape)
        self.seen, self.kept, self.native = [], [], []

    def prefill(self, prompt, max_new_tokens, num_padding=None, *, native=False):
        self.seen.append(tuple(prompt.shape))
        self.native.append(native)
        return super().prefill(prompt, max_new_tokens)

    def decode_step(self, token, kv_cache):
        self.seen.append((len(token), 1))
        return super().decode_step(token, kv_cache)

    def select_rows(self, kv_cache, rows):
        self.kept.append(len(rows))
        return super().select_rows(kv_cache, rows)


def toy(kind=ToyModel, seed=0):
    return kind(num_tokens=NUM_TOKENS, context_length=CONTEXT, seed=seed).eval()


def random_prompts(count, length=4, seed=0):
    return torch.randint(NUM_TOKENS, (count, length), generator=torch.Generator().manual_seed(seed))


def random_logits(count=200, num_tokens=50, seed=0):
    """Flat and peaked rows."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, num_tokens, generator=draw) * torch.rand(count, 1, generator=draw) * 8


def cut(completions, end):
    """Lists of ids up to and with the first end token."""
    return [row[: row.index(end) + 1] if end in row else row for row in completions.tolist()]
