"""A compiled decoding step: only when asked, only when faster, only with the same logits. Compilers are imitated
except in the slow test."""

import pytest
import torch

from hypergen import compiled
from hypergen.compiled import try_compiling
from hypergen.config import DecodingConfig
from hypergen.generation import generate
from hypergen.image.transformer import TransformerConfig, new_transformer


@pytest.fixture
def model():
    return new_transformer(TransformerConfig(num_codes=17, num_positions=64, width=16, num_layers=2, num_heads=2), 0)


@pytest.fixture
def clock(monkeypatch):
    """Seconds pass only when a step says so."""
    passed = [0.0]
    monkeypatch.setattr(compiled.time, "perf_counter", lambda: passed[0])
    return passed


def imitate(monkeypatch, clock, model, seconds, change=0.0):
    """A compiler whose steps take so many seconds (those of the model take one), and which may change the logits."""
    packed = model.eval()._lean()
    real = type(packed).advance

    def slow(own, *given):
        clock[0] += 1.0
        return real(own, *given)

    def compiling(_step, **options):
        def fast(*given):
            clock[0] += seconds
            return real(packed, *given) + change

        return fast

    monkeypatch.setattr(type(packed), "advance", slow)
    monkeypatch.setattr(compiled.torch, "compile", compiling)
    return packed


@pytest.mark.parametrize(
    ("seconds", "change", "chosen"),
    [(0.5, 0.0, "compiled"), (0.95, 0.0, "as it was"), (2.0, 0.0, "as it was"), (0.5, 1.0, "the logits differ")],
)
def test_it_is_used_where_it_is_faster_and_right(monkeypatch, clock, capsys, model, seconds, change, chosen):
    packed = imitate(monkeypatch, clock, model, seconds, change)
    try_compiling(packed, 1, 32)
    told = capsys.readouterr().err
    assert told.startswith("hypergen: --compile: a step takes 1000.00 ms, compiled ") and told.strip().endswith(chosen)
    before = clock[0]
    _, state = packed.start(torch.tensor([[1, 2]]), 32)
    packed.step(torch.tensor([3]), state)
    assert clock[0] - before == (seconds if chosen == "compiled" else 1.0)


def test_several_rows_and_compilers_that_fail_leave_it_as_it_was(monkeypatch, clock, capsys, model):
    packed = imitate(monkeypatch, clock, model, 0.5)
    try_compiling(packed, 2, 32)
    assert "only one row on a CPU is compiled, this is 2 on cpu" in capsys.readouterr().err

    def broken(_step, **options):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(compiled.torch, "compile", broken)
    try_compiling(packed, 1, 32)
    assert "not compiled (no C++ compiler)" in capsys.readouterr().err
    assert packed.compiled == {}


def test_a_row_of_another_batch_is_not_compiled(monkeypatch, clock, model):
    packed = imitate(monkeypatch, clock, model, 0.5)
    try_compiling(packed, 1, 32)
    before = clock[0]
    _, state = packed.start(torch.tensor([[1, 2], [3, 4]]), 32)
    packed.step(torch.tensor([3, 4]), state)
    assert clock[0] - before == 1.0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_real_compiler_gives_the_same_ids(model, monkeypatch):
    monkeypatch.setattr(compiled, "WORTH_RATIO", 0.0)
    prompt = torch.randint(17, (1, 5))
    expected = generate(model, prompt, 40, DecodingConfig(stop_at_end=False))
    assert generate(model, prompt, 40, DecodingConfig(stop_at_end=False, compile=True)).equal(expected)
    assert model._lean().compiled[1] != model._lean().advance
