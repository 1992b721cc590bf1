"""What the rows of decoding compare. Alone: pytest tests/benchmarks/test_speed_rows.py"""

import torch

from hypergen.decoding.loop import generate
from hypergen.text.model import TextModel
from tests.benchmarks.scripts import load
from tests.text import tiny

speed_rows = load("speed_rows")


def test_their_greedy_decoding_is_the_peer_of_ours():
    model = TextModel(tiny.causal("llama"))
    prompts = [torch.arange(5, 5 + length) for length in (4, 7)]
    assert speed_rows.their_greedy(model, prompts, 6).equal(generate(model, prompts, 6))


def test_the_share_of_ids_before_the_first_difference():
    one = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    other = torch.tensor([[1, 2, 9, 4], [1, 2, 3, 4]])
    assert speed_rows._common(one, other) == 0.75


def test_a_case_runs_both_sides_and_compares_their_ids(monkeypatch):
    timings = {"seconds": 2.0, "their_seconds": 4.0, "ratio": 2.0}
    monkeypatch.setattr(speed_rows, "time_pair", lambda *_: timings)
    ids = torch.ones(2, 3, dtype=torch.long)
    case = speed_rows.decoding_case("x", None, lambda: ids, lambda: ids, 1, "both", 3)
    assert case["same"] is True and (case["rate"], case["their_rate"]) == (3.0, 1.5)
    assert speed_rows.decoding_case("x", None, lambda: ids, lambda: 1 / 0, 1, "ours", 3) == {}


def test_every_row_has_a_function():
    assert list(speed_rows.ROWS) == ["R1", "R2", "R3", "R4", "R5", "R6"]
