"""Patched forwards go again, whatever was there before. Alone: pytest tests/runtime/test_patched_forward.py"""

import pytest
import torch
from torch import nn

from hypergen.runtime.patched_forward import patched_forwards


def doubled(forward):
    return lambda inputs: 2 * forward(inputs)


def test_inside_it_is_another_forward_and_afterwards_the_class_one():
    block, inputs = nn.Linear(2, 2), torch.ones(1, 2)
    expected = block(inputs)
    with patched_forwards([block], doubled):
        assert block(inputs).equal(2 * expected)
    assert block(inputs).equal(expected) and "forward" not in vars(block)


def test_a_forward_of_the_instance_comes_back():
    """Such as accelerate's hooks set."""
    block, inputs = nn.Identity(), torch.ones(2)
    block.forward = hook = lambda inputs: inputs + 1
    with patched_forwards([block], doubled):
        assert block(inputs).tolist() == [4, 4]
    assert block.forward is hook


@pytest.mark.parametrize("failure", [KeyError, KeyboardInterrupt])
def test_it_goes_on_any_failure_also_while_patching(failure):
    blocks = [nn.Identity(), nn.Identity()]
    with pytest.raises(failure), patched_forwards(blocks, doubled):
        raise failure

    def change(forward, seen=[]):  # noqa: B006 (counts the calls)
        seen.append(forward)
        if len(seen) == 2:
            raise failure
        return doubled(forward)

    with pytest.raises(failure), patched_forwards(blocks, change):
        raise AssertionError("entered")
    assert all("forward" not in vars(block) for block in blocks)


def test_one_inside_the_other():
    block, inputs = nn.Identity(), torch.ones(1)
    with patched_forwards([block], doubled):
        with patched_forwards([block], doubled):
            assert block(inputs) == 4
        assert block(inputs) == 2
    assert block(inputs) == 1
