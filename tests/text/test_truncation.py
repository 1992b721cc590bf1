"""Forward passes that end or begin at a block. Alone: pytest tests/text/test_truncation.py"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hypergen.text.truncation import input_of, replaced_input, skipped


class Block(nn.Module):
    """Multiplies by a number, and says that it ran; gives a tuple where `num_outputs` is above 0."""

    def __init__(self, factor: int, ran: list[int], num_outputs: int):
        super().__init__()
        self.factor, self.ran, self.num_outputs = factor, ran, num_outputs

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor | tuple:
        self.ran.append(self.factor)
        hidden = hidden_states * self.factor
        return (hidden, *[None] * (self.num_outputs - 1)) if self.num_outputs else hidden


class Stack:
    def __init__(self, num_outputs: int, by_name: bool):
        self.ran: list[int] = []
        self.num_outputs, self.by_name = num_outputs, by_name
        self.blocks = [Block(factor, self.ran, num_outputs) for factor in (2, 3, 5, 7)]

    def run(self) -> torch.Tensor:
        hidden = torch.ones(1)
        for block in self.blocks:
            output = block(hidden_states=hidden) if self.by_name else block(hidden)
            assert isinstance(output, tuple) == bool(self.num_outputs)
            hidden = output[0] if self.num_outputs else output
        return hidden


@pytest.fixture(params=[(0, False), (1, True), (3, False)], ids=str)
def stack(request):
    return Stack(*request.param)


def test_input_of_a_block_runs_none_from_it_on(stack):
    assert input_of(stack.blocks[2], stack.run).item() == 6 and stack.ran == [2, 3]
    assert stack.run().item() == 210  # no hook is left


def test_a_block_that_never_runs_has_no_input(stack):
    assert input_of(Block(1, [], 0), stack.run) is None
    assert stack.ran == [2, 3, 5, 7]


def test_from_a_block_on(stack):
    with replaced_input(stack.blocks[2], torch.tensor([10.0])), skipped(stack.blocks[:2], stack.num_outputs):
        assert stack.run().item() == 350
        assert input_of(stack.blocks[3], stack.run).item() == 50
    assert stack.ran == [5, 7, 5]
    assert stack.run().item() == 210


def test_an_error_on_the_way_leaves_no_hook(stack):
    def fail():
        stack.run()
        raise KeyError

    with pytest.raises(KeyError), skipped(stack.blocks[:1], stack.num_outputs):
        input_of(Block(1, [], 0), fail)
    assert stack.run().item() == 210
