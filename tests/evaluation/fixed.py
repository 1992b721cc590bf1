"""A model whose predictions are written down, for tests that work numbers out by hand."""

import torch


class Fixed(torch.nn.Module):
    """A model whose logits after each id are the rows of a table."""

    def __init__(self, logits, context_length=100):
        super().__init__()
        self.table, self.context_length = torch.nn.Embedding.from_pretrained(torch.tensor(logits)), context_length
        self.longest = 0

    def hidden(self, tokens):
        return self.table(tokens)

    def head(self, hidden):
        self.longest = max(self.longest, hidden.shape[0])
        assert hidden.ndim == 2
        return hidden
