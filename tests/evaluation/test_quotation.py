"""What completions quote, by hand. Alone: pytest tests/evaluation/test_quotation.py"""

import pytest
import torch

from hypergen.evaluation.overlap import longest_overlap
from hypergen.evaluation.quotation import quoted_run, recited_rows


def test_rows_that_recite_are_listed_the_worst_first():
    assert recited_rows(torch.tensor([3.0, 11.0, 10.0, 48.0, 11.0])) == [3, 1, 4]
    assert recited_rows(torch.tensor([10.0])) == []


@pytest.mark.parametrize("start", [0, 5, 12])
def test_the_quoted_run_is_cut_out(start):
    training = torch.arange(40).view(2, 20)
    completion = torch.full((24,), 99)
    completion[start : start + 12] = training[1, 3:15]
    length = int(longest_overlap(completion[None], training)[0])
    assert length == 12
    assert quoted_run(completion, training, None, length).equal(training[1, 3:15])


def test_padding_is_no_quotation():
    training, mask = torch.arange(20)[None], torch.zeros(1, 20, dtype=torch.bool)
    mask[0, 4:15] = True
    completion = torch.cat([torch.tensor([99]), torch.arange(2, 20)])
    length = int(longest_overlap(completion[None], training, mask)[0])
    assert length == 13
    assert quoted_run(completion, training, mask, length).equal(torch.arange(2, 15))
