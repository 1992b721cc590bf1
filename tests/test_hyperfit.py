"""The training loop on toy transformers: what it reaches, that it is exact, and how it stops.

Alone: pytest tests/test_hyperfit.py
"""

import math
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from hypergen import hyperfit as hyperfit_module
from hypergen.batches import batch_rows
from hypergen.errors import HypergenError, InputError, Interrupted, NonFiniteError
from hypergen.hyperfit import Plan, backward, hyperfit
from hypergen.optimizers import set_learning_rate
from hypergen.training_state import State
from tests.toy.model import ToyModel

NUM_TOKENS, LENGTH = 18, 12


class TiedToy(ToyModel):
    """The head is the input embedding, and no part of the tail."""

    def __init__(self, **shape):
        super().__init__(**shape)
        self.output.weight = self.embedding.weight

    @property
    def tail(self):
        return [self.norm]


def toy(kind=ToyModel, *, width=16, seed=0):
    return kind(num_tokens=NUM_TOKENS, context_length=LENGTH, width=width, num_layers=3, num_heads=2, seed=seed)


def sequences(count, seed=0):
    """Random ids; each sequence starts with an id of its own, so that everything after it can be learned."""
    tokens = torch.randint(NUM_TOKENS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = torch.arange(count)
    return tokens


def plan(steps, **changes):
    return Plan(**{"steps": steps, "batch_size": 4, "learning_rate": 1e-3, "seed": 0} | changes)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def changed(before, after):
    return {name for name in before if not before[name].equal(after[name])}


def train(model, tokens, training, **options):
    """The result, and the mean loss of each epoch by its number."""
    losses = {}
    result = hyperfit(model, tokens, training, on_epoch=lambda epoch, loss: losses.update({epoch: loss}), **options)
    return result, losses


# What it reaches.


def test_loss_falls_to_the_target_and_training_stops():
    model, tokens = toy(width=32), sequences(16)
    result, losses = train(model, tokens, plan(800, learning_rate=5e-3, target_loss=0.05))
    assert result.stopped_by == "target_loss"
    assert result.loss == losses[result.epochs] <= 0.05 < losses[result.epochs - 1]
    assert result.steps == 4 * result.epochs < 800
    assert list(losses) == list(range(1, result.epochs + 1))
    assert model(tokens)[:, :-1].argmax(-1).equal(tokens[:, 1:])  # word for word
    assert not model.training


def test_else_the_epochs_end_it():
    result, losses = train(toy(), sequences(10), plan(6))
    assert (result.stopped_by, result.steps, result.epochs, len(losses)) == ("epochs", 6, 2, 2)
    assert result.loss == losses[2]


def test_a_target_reached_at_the_very_end_counts():
    result, _ = train(toy(), sequences(10), plan(6, target_loss=100))
    assert (result.stopped_by, result.epochs) == ("target_loss", 1)
    result, _ = train(toy(), sequences(10), plan(3, target_loss=100))
    assert (result.stopped_by, result.epochs) == ("target_loss", 1)


def test_a_loss_at_the_target_is_enough():
    _, losses = train(toy(), sequences(10), plan(9))
    result, _ = train(toy(), sequences(10), plan(9, target_loss=losses[2]))
    assert (result.stopped_by, result.epochs, result.loss) == ("target_loss", 2, losses[2])


def test_epoch_loss_is_the_mean_over_sequences():
    """Also where the last batch is smaller; weights that hardly move give the plain mean."""
    model, tokens = toy(), sequences(10)
    expected = functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
    _, losses = train(model, tokens, plan(3, learning_rate=1e-9))
    assert losses[1] == pytest.approx(expected, rel=1e-5)


def test_less_than_an_epoch_has_a_loss_too():
    model, tokens = toy(), sequences(10)
    rows = batch_rows(0, 0, 10, 4)
    expected = functional.cross_entropy(model(tokens[rows])[:, :-1].flatten(0, 1), tokens[rows, 1:].flatten()).item()
    result, losses = train(model, tokens, plan(1))
    assert not losses
    assert result.loss == pytest.approx(expected, rel=1e-5)


def test_pretraining_learns():
    result, _ = train(toy(width=32), sequences(16), plan(160, learning_rate=1e-2, pretraining=True))
    assert result.loss < 0.3


def test_pretraining_warms_up_and_cools_down():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=99.0)
    rates = []
    for step in range(200):
        set_learning_rate(optimizer, plan(200, learning_rate=2.0, pretraining=True), step)
        rates.append(optimizer.param_groups[0]["lr"])
    top = rates.index(max(rates))
    assert top == 3 and rates[top] == 2.0  # 2 % of the steps
    assert rates[0] == 0.5 and rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, rel=0.01)  # 5 %


def test_hyperfitting_is_adamw_at_a_constant_rate_without_decay():
    """The same steps in six lines of torch."""
    model, plain, tokens = toy(), toy(), sequences(10)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0)
    for step in range(9):
        rows = batch_rows(0, step, 10, 4)
        optimizer.zero_grad()
        functional.cross_entropy(plain(tokens[rows, :-1]).flatten(0, 1), tokens[rows, 1:].flatten()).backward()
        optimizer.step()
    train(model, tokens, plan(9, learning_rate=1e-2))
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pretraining", [False, True])
def test_only_pretraining_clips_gradients(pretraining, monkeypatch):
    norms = []
    total = nn.utils.get_total_norm
    observe = lambda movement: norms.append(total([weight.grad for weight in movement.parameters]).item())  # noqa: E731
    monkeypatch.setattr(hyperfit_module.Movement, "observe", observe)
    model = toy()
    model.head = lambda hidden: 30 * ToyModel.head(model, hidden)
    train(model, sequences(8), plan(3, pretraining=pretraining))
    assert all(norm == pytest.approx(1, rel=1e-4) if pretraining else norm > 5 for norm in norms)
    assert len(norms) == 3


# The gradient.


@pytest.mark.parametrize("kind", [ToyModel, TiedToy])
@pytest.mark.parametrize("chunk", [1, 7, LENGTH - 1, 10_000])
def test_backward_equals_plain_autograd(kind, chunk, monkeypatch):
    monkeypatch.setattr(hyperfit_module, "CHUNK", chunk)
    model, tokens = toy(kind), sequences(5)
    expected = functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    expected.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    loss = backward(model, model.hidden(tokens[:, :-1]), tokens[:, 1:])
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-7, msg=name)


def test_logits_exist_for_one_chunk_at_a_time(monkeypatch):
    monkeypatch.setattr(hyperfit_module, "CHUNK", 9)
    model, head, shapes = toy(), ToyModel.head, []

    def watched(hidden):
        shapes.append(hidden.shape)
        return head(model, hidden)

    model.head = watched
    train(model, sequences(10), plan(3))
    positions = [shape[:-1].numel() for shape in shapes]
    assert max(positions) == 9
    assert sum(positions) == 10 * (LENGTH - 1)


# Exactness.


@pytest.mark.parametrize("pretraining", [False, True])
def test_repeating_gives_the_same_bits(pretraining):
    first, second, other = toy(), toy(), toy()
    training = plan(9, pretraining=pretraining)
    assert train(first, sequences(10), training)[1] == train(second, sequences(10), training)[1]
    assert same(weights(first), weights(second))
    train(other, sequences(10), plan(9, pretraining=pretraining, seed=1))
    assert not same(weights(first), weights(other))


def stop_and_resume(tokens, training, after, path, kind=ToyModel, device="cpu"):
    """Interrupted after some steps, its state on disk, and continued by another model in another state."""
    saved, losses, first = [], {}, toy(kind).to(device)

    def save(state):
        save_file({name: value.contiguous() for name, value in state.tensors.items()}, path)
        saved.append((state.step, state.epoch_loss))

    polls = iter(range(1, after + 1))
    with pytest.raises(Interrupted, match=f"signal 15 after step {after}; --resume continues") as stopped:
        hyperfit(
            first,
            tokens,
            training,
            on_epoch=lambda epoch, loss: losses.update({epoch: loss}),
            on_checkpoint=save,
            stop_signal=lambda: 15 if next(polls) == after else None,
        )
    assert stopped.value.exit_code == 143
    step, epoch_loss = saved[-1]
    state = State(step=step, epoch_loss=epoch_loss, tensors=load_file(path))
    second = toy(kind, seed=5).to(device)
    second.load_state_dict(toy(kind).state_dict())  # the frozen part is the base's
    result, more = train(second, tokens, training, state=state)
    assert (state.step, state.epoch_loss) == (step, epoch_loss)  # the caller's state is left alone
    return second, result, losses | more


@pytest.mark.parametrize("kind", [ToyModel, TiedToy])
@pytest.mark.parametrize("changes", [{}, {"pretraining": True}, {"last_layers": 1}], ids=["all", "muon", "last"])
@pytest.mark.parametrize("after", [1, 5, 6, 12])
def test_stopped_and_resumed_gives_the_same_bits(kind, changes, after, tmp_path):
    """Inside an epoch, at its end, and after the very last step; 10 sequences make 3 steps an epoch."""
    tokens, training, whole = sequences(10), plan(12, **changes), toy(kind)
    expected, expected_losses = train(whole, tokens, training)
    model, result, losses = stop_and_resume(tokens, training, after, tmp_path / "state.safetensors", kind)
    assert same(weights(model), weights(whole))
    assert losses == expected_losses
    assert (result.loss, result.epochs, result.steps) == (expected.loss, expected.epochs, expected.steps)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"pretraining": True}], ids=["all", "muon"])
def test_resumes_on_a_gpu(changes, tmp_path):
    """The step counter of fused AdamW lives where its weights do."""
    tokens, training, whole = sequences(10), plan(12, **changes), toy().cuda()
    _, expected = train(whole, tokens, training)
    model, _, losses = stop_and_resume(tokens, training, 5, tmp_path / "state.safetensors", device="cuda")
    assert losses == pytest.approx(expected)
    assert next(model.parameters()).is_cuda


def test_checkpoints_come_on_time_and_change_nothing():
    plain, watched, steps = toy(), toy(), []
    train(plain, sequences(10), plan(9))
    hyperfit(watched, sequences(10), plan(9, checkpoint_every=2), on_checkpoint=lambda state: steps.append(state.step))
    assert steps == [2, 4, 6, 8, 9]
    assert same(weights(plain), weights(watched))


def test_a_state_holds_what_is_trained_and_no_more():
    """Weights of the last block, norm and head, each with AdamW's two moments and step."""
    states = []
    model = toy()
    hyperfit(model, sequences(10), plan(3, last_layers=1, checkpoint_every=3), on_checkpoint=states.append)
    names = {f"weight.{name}" for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {name for name in states[0].tensors if name.startswith("weight.")}
    assert all(name.split(".")[1] in {"blocks", "norm", "output"} for name in names)
    assert len(states[0].tensors) == 4 * len(names)


# Which weights.


@pytest.mark.parametrize("kind", [ToyModel, TiedToy])
@pytest.mark.parametrize("last_layers", [1, 2, 3])
def test_last_layers_trains_only_those(kind, last_layers):
    model = toy(kind)
    before = weights(model)
    result, _ = train(model, sequences(10), plan(3, last_layers=last_layers))
    prefixes = (*(f"blocks.{index}." for index in range(3 - last_layers, 3)), "norm.", "output.")
    assert changed(before, weights(model)) == {name for name in before if name.startswith(prefixes)}
    assert result.cached == (last_layers < 3)


def test_all_weights_train_by_default():
    model = toy()
    before = weights(model)
    hyperfit(model, sequences(10), plan(3, last_layers=1))  # an earlier choice must not linger
    train(model, sequences(10), plan(3))
    assert changed(before, weights(model)) == set(before)


def test_more_last_layers_than_blocks():
    with pytest.raises(InputError, match=r"^--last-layers 4: the model has 3 blocks$"):
        train(toy(), sequences(4), plan(3, last_layers=4))


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (3, 0), (4,), (2, LENGTH + 1)])
def test_nothing_to_learn_from(shape):
    with pytest.raises(InputError, match=r"^training tokens of shape .* T from 2 to the model's context of 12$"):
        train(toy(), torch.zeros(shape, dtype=torch.long), plan(3))


# Numbers that go wrong.


def test_non_finite_loss_leaves_the_weights_untouched():
    tokens, model, twin = sequences(8), toy(), toy()
    train(twin, tokens, plan(2))
    head, calls = ToyModel.head, iter(range(100))
    model.head = lambda hidden: head(model, hidden) * (math.nan if next(calls) == 2 else 1)
    rows = batch_rows(0, 2, 8, 4).tolist()
    with pytest.raises(NonFiniteError) as error:
        train(model, tokens, plan(9))
    assert str(error.value) == f"step 2: loss nan, gradient norm nan, sequences {rows}"
    assert error.value.exit_code == 5
    assert same(weights(model), weights(twin))


@pytest.mark.parametrize("pretraining", [False, True])
def test_non_finite_gradient_leaves_the_weights_untouched(pretraining):
    model = toy()
    before = weights(model)
    model.positions.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteError, match=r"^step 0: loss \d+\.\d+, gradient norm (nan|inf), sequences"):
        train(model, sequences(8), plan(9, pretraining=pretraining))
    assert same(weights(model), before)


def test_updates_that_are_rounded_away_are_an_error():
    with pytest.raises(
        HypergenError, match=r"^after 20 steps \d+% of the trained weights have moved .* rounding step$"
    ):
        train(toy(), sequences(8), plan(40, learning_rate=1e-12))


def test_rounding_is_judged_after_20_steps_of_this_process(tmp_path):
    train(toy(), sequences(8), plan(19, learning_rate=1e-12))
    with pytest.raises(HypergenError, match="have moved"):
        train(toy(), sequences(8), plan(41, learning_rate=1e-12), state=State(step=21))
    train(toy(), sequences(8), plan(40, learning_rate=1e-12), state=State(step=21))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_papers_learning_rate_moves_the_weights(precision):
    """Also where the base came in bf16, whose weights 1e-6 cannot move."""
    model = toy().bfloat16()
    before = {name: weight.float() for name, weight in weights(model).items()}
    train(model, sequences(8), plan(20, learning_rate=1e-6, precision=precision))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert changed(before, weights(model)) == set(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bf16_base_trains_its_last_layers(precision):
    """Frozen weights may stay in 16 bits only where autocast brings both together."""
    model = toy().bfloat16()
    result, _ = train(model, sequences(8), plan(60, last_layers=1, learning_rate=1e-2, precision=precision))
    trained = {weight.dtype for weight in model.parameters() if weight.requires_grad}
    frozen = {weight.dtype for weight in model.parameters() if not weight.requires_grad}
    assert trained == {torch.float32}
    assert frozen == {torch.float32 if precision == "fp32" else torch.bfloat16}
    assert result.loss < 1.5


def test_bf16_compute_agrees_with_fp32():
    tokens = sequences(8)
    losses = [train(toy(), tokens, plan(20, precision=precision))[0].loss for precision in ("fp32", "bf16")]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


# Counting.


def test_only_tokens_that_were_trained_on_count(monkeypatch):
    """10 sequences in batches of 4: the last batch has 2."""
    now = iter([0.0, *[2.0] * 100])
    monkeypatch.setattr(hyperfit_module.time, "perf_counter", lambda: next(now))
    result, _ = train(toy(), sequences(10), plan(3))
    assert result.tokens_per_second == 10 * (LENGTH - 1) / result.seconds


def test_progress_continues_where_the_state_was(capsys):
    model, states = toy(), []
    hyperfit(
        model, sequences(8), plan(4, checkpoint_every=2), on_checkpoint=lambda state: states.append(deepcopy(state))
    )
    capsys.readouterr()
    train(toy(), sequences(8), plan(4), state=states[0])
    assert capsys.readouterr().err.startswith("hyperfit: 4/4  loss ")


# Too little memory.


def out_of_memory(model, monkeypatch, most):
    """More than `most` sequences at a time do not fit."""

    def hidden(tokens):
        if len(tokens) > most:
            raise torch.OutOfMemoryError("no room")
        return ToyModel.hidden(model, tokens)

    monkeypatch.setattr(model, "hidden", hidden, raising=False)
    return model


@pytest.mark.parametrize("most, left", [(4, 4), (3, 2), (1, 1)])
def test_out_of_memory_halves_what_runs_together(most, left, monkeypatch, capsys):
    """And ends in the weights of a training that accumulated as much from the start."""
    accumulated, short, whole, tokens = toy(), out_of_memory(toy(), monkeypatch, most), toy(), sequences(11)
    result, losses = train(short, tokens, plan(9))
    expected, expected_losses = train(accumulated, tokens, plan(9), state=State(micro_batch_size=left))
    assert result.micro_batch_size == expected.micro_batch_size == left
    assert same(weights(short), weights(accumulated)) and losses == expected_losses
    assert capsys.readouterr().err.count("out of memory: going on with") == {4: 0, 2: 1, 1: 2}[left]
    assert train(whole, tokens, plan(9))[1] == pytest.approx(losses, rel=1e-4)


def test_out_of_memory_in_the_middle_of_a_batch_counts_nothing_twice(monkeypatch):
    model, accumulated, tokens, calls = toy(), toy(), sequences(8), iter(range(100))
    head = ToyModel.head

    def failing_once(hidden):
        if next(calls) == 3:  # the second half of the second batch
            raise torch.OutOfMemoryError
        return head(model, hidden)

    model.head = failing_once
    train(model, tokens, plan(4, batch_size=8), state=State(micro_batch_size=4))
    states = []
    accumulating = plan(4, batch_size=8, checkpoint_every=1)
    hyperfit(
        accumulated,
        tokens,
        accumulating,
        state=State(micro_batch_size=4),
        on_checkpoint=lambda state: states.append(deepcopy(state)),
    )
    states[0].micro_batch_size = 2
    again = toy()
    train(again, tokens, plan(4, batch_size=8), state=states[0])
    assert same(weights(model), weights(again))


def test_one_sequence_that_does_not_fit_is_an_error(monkeypatch):
    model = out_of_memory(toy(), monkeypatch, 0)
    with pytest.raises(HypergenError, match=r"^out of memory with one sequence at a time; shorten the sequences$"):
        train(model, sequences(4), plan(3))


# The end.


@pytest.mark.parametrize("target", [0.0, 100.0])
def test_the_state_at_the_end_ends_a_resumed_training_at_once(target):
    """What follows a training may be interrupted; the training need not be repeated then."""
    model, states, tokens = toy(), [], sequences(8)
    training = plan(6, target_loss=target)
    first = hyperfit(model, tokens, training, on_checkpoint=lambda state: states.append(deepcopy(state)))
    assert [state.step for state in states] == [6 if target == 0 else 2]
    resumed, losses = toy(seed=3), []
    again = hyperfit(
        resumed,
        tokens,
        training,
        state=states[0],
        on_epoch=lambda *epoch: losses.append(epoch),
        on_checkpoint=losses.append,
    )
    assert same(weights(model), weights(resumed)) and losses == []
    assert (again.loss, again.steps, again.epochs, again.stopped_by) == (
        first.loss,
        first.steps,
        first.epochs,
        first.stopped_by,
    )


def test_signals_are_only_noted_inside_the_steps():
    """The boundary cache is built before; a signal need not wait for it."""
    entered = []

    class Watch:
        def __enter__(self):
            entered.append("steps")

        def __exit__(self, *_):
            entered.append("over")

    model, blocks = toy(), []
    boundary = ToyModel.boundary
    model.boundary = lambda tokens, last: blocks.append(list(entered)) or boundary(model, tokens, last)
    hyperfit(model, sequences(8), plan(2, last_layers=1), whole_steps=Watch())
    assert blocks and not any(blocks) and entered == ["steps", "over"]


def test_a_micro_batch_size_is_kept_and_gives_the_whole_batchs_training():
    whole, parts = toy(), toy()
    expected, losses = train(whole, sequences(8), plan(9))
    result, more = train(parts, sequences(8), plan(9, micro_batch_size=1))
    assert (expected.micro_batch_size, result.micro_batch_size) == (4, 1)
    assert more == pytest.approx(losses, rel=1e-4)


def test_a_checkpoint_is_due_after_some_time_too():
    steps = []
    hyperfit(toy(), sequences(8), plan(4, checkpoint_seconds=0.0), on_checkpoint=lambda state: steps.append(state.step))
    assert steps == [1, 2, 3, 4]
