"""The training loop on toy transformers: what it reaches, that it is exact, and how it stops.

Alone: pytest tests/training/test_loop.py
"""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from hypergen.errors import HypergenError, InputError, Interrupted, NonFiniteError
from hypergen.runtime import progress
from hypergen.runtime.distributed import Processes
from hypergen.training import loop, update_check
from hypergen.training.batch_order import batch_rows
from hypergen.training.loop import hyperfit
from hypergen.training.plan import TrainingHooks
from hypergen.training.state import State
from tests.toy.model import ToyModel
from tests.training.plans import LENGTH, TiedToy, new_plan, random_mask, same, sequences, toy, train, weights

# What it reaches.


def test_loss_falls_to_the_target_and_training_stops():
    model, tokens = toy(width=32), sequences(16)
    result, losses = train(model, tokens, new_plan(steps=800, learning_rate=5e-3, target_loss=0.05))
    assert result.stopped_by == "target_loss"
    assert result.loss == losses[result.epochs] <= 0.05 < losses[result.epochs - 1]
    assert result.steps == 4 * result.epochs < 800
    assert list(losses) == list(range(1, result.epochs + 1))
    assert model(tokens)[:, :-1].argmax(-1).equal(tokens[:, 1:])  # word for word
    assert not model.training


def test_else_the_epochs_end_it():
    result, losses = train(toy(), sequences(10), new_plan(steps=6))
    assert (result.stopped_by, result.steps, result.epochs, len(losses)) == ("epochs", 6, 2, 2)
    assert result.loss == losses[2]


def test_a_target_reached_at_the_very_end_counts():
    result, _ = train(toy(), sequences(10), new_plan(steps=6, target_loss=100))
    assert (result.stopped_by, result.epochs) == ("target_loss", 1)
    result, _ = train(toy(), sequences(10), new_plan(steps=3, target_loss=100))
    assert (result.stopped_by, result.epochs) == ("target_loss", 1)


def test_a_loss_at_the_target_is_enough():
    _, losses = train(toy(), sequences(10), new_plan(steps=9))
    result, _ = train(toy(), sequences(10), new_plan(steps=9, target_loss=losses[2]))
    assert (result.stopped_by, result.epochs, result.loss) == ("target_loss", 2, losses[2])


def test_epoch_loss_is_the_mean_over_sequences():
    """Also where the last batch is smaller; weights that hardly move give the plain mean."""
    model, tokens = toy(), sequences(10)
    expected = functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
    _, losses = train(model, tokens, new_plan(steps=3, learning_rate=1e-9))
    assert losses[1] == pytest.approx(expected, rel=1e-5)


def test_less_than_an_epoch_has_a_loss_and_an_accuracy_too():
    model, tokens = toy(), sequences(10)
    rows = batch_rows(0, 0, 10, 4)
    logits = model(tokens[rows])[:, :-1]
    expected = functional.cross_entropy(logits.flatten(0, 1), tokens[rows, 1:].flatten()).item()
    right = (logits.argmax(-1) == tokens[rows, 1:]).double().mean().item()
    result, losses = train(model, tokens, new_plan(steps=1))
    assert not losses
    assert result.loss == pytest.approx(expected, rel=1e-5) and result.accuracy == right


# Token accuracy.


@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 1}, {"last_layers": 1}], ids=["whole", "parts", "last"])
def test_accuracy_is_the_share_of_tokens_predicted_right(changes):
    """Also where the last batch is smaller; weights that hardly move give the plain share."""
    model, tokens, metrics = toy(), sequences(10), {}
    right = (model(tokens)[:, :-1].argmax(-1) == tokens[:, 1:]).double().mean().item()
    hooks = TrainingHooks(on_epoch=lambda epoch, found: metrics.update({epoch: found}))
    result = hyperfit(model, tokens, new_plan(steps=6, learning_rate=1e-9, **changes), hooks)
    assert 0 < right < 1 and [one.accuracy for one in metrics.values()] == [right, right]
    assert (result.loss, result.accuracy) == metrics[2]


def test_accuracy_rises_to_the_target_and_training_stops():
    """At exactly 1 as well: correct tokens are counted, not averaged."""
    plan = new_plan(steps=800, learning_rate=5e-3, target_accuracy=1.0)
    accuracies = []
    hooks = TrainingHooks(on_epoch=lambda epoch, metrics: accuracies.append(metrics.accuracy))
    model, tokens = toy(width=32), sequences(16)
    result = hyperfit(model, tokens, plan, hooks)
    assert (result.stopped_by, result.accuracy, result.epochs) == ("target_accuracy", 1.0, len(accuracies))
    assert accuracies[-1] == 1.0 > max(accuracies[:-1]) and result.steps < 800
    assert model(tokens)[:, :-1].argmax(-1).equal(tokens[:, 1:])


def test_an_accuracy_at_the_target_is_enough_and_the_loss_comes_first():
    accuracies = []
    hooks = TrainingHooks(on_epoch=lambda epoch, metrics: accuracies.append(metrics.accuracy))
    hyperfit(toy(), sequences(10), new_plan(steps=60, learning_rate=5e-3), hooks)
    first = next(epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= accuracies[9])
    plan = new_plan(steps=60, learning_rate=5e-3, target_accuracy=accuracies[9])
    result, _ = train(toy(), sequences(10), plan)
    assert (result.stopped_by, result.epochs, result.accuracy) == ("target_accuracy", first, accuracies[first - 1])
    result, _ = train(toy(), sequences(10), replace(plan, target_accuracy=1e-9, target_loss=100))
    assert (result.stopped_by, result.epochs) == ("target_loss", 1)


def test_the_progress_shows_the_accuracy(capsys):
    result, _ = train(toy(), sequences(8), new_plan(steps=1, batch_size=8))
    assert f"hyperfit: 1/1  loss {result.loss:.3f}  accuracy {result.accuracy:.3f}  " in capsys.readouterr().err


def test_without_a_label_no_phase_shows_progress(capsys, monkeypatch):
    """Not the activation cache either, however long it takes; with one, the cache counts sequences."""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    hyperfit(toy(), sequences(8), new_plan(steps=4, last_layers=1), label="")
    assert capsys.readouterr().err == ""
    hyperfit(toy(), sequences(8), new_plan(steps=4, last_layers=1))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == [f"hyperfit: activation cache: {done}/8" for done in (4, 8)]
    assert all(line.startswith("hyperfit: ") and line.endswith(" s left") for line in lines)


def test_pretraining_learns():
    result, _ = train(toy(width=32), sequences(16), new_plan(steps=160, learning_rate=1e-2, pretraining=True))
    assert result.loss < 0.3


def test_hyperfitting_is_adamw_at_a_constant_rate_without_decay():
    """The same steps in six lines of torch."""
    model, plain, tokens = toy(), toy(), sequences(10)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0)
    for step in range(9):
        rows = batch_rows(0, step, 10, 4)
        optimizer.zero_grad()
        functional.cross_entropy(plain(tokens[rows, :-1]).flatten(0, 1), tokens[rows, 1:].flatten()).backward()
        optimizer.step()
    train(model, tokens, new_plan(steps=9, learning_rate=1e-2))
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pretraining", [False, True])
def test_only_pretraining_clips_gradients(pretraining, monkeypatch):
    norms = []
    total = nn.utils.get_total_norm
    observe = lambda check: norms.append(total([weight.grad for weight in check.parameters]).item())  # noqa: E731
    monkeypatch.setattr(update_check.UpdateCheck, "observe", observe)
    model = toy()
    model.head = lambda hidden: 30 * ToyModel.head(model, hidden)
    train(model, sequences(8), new_plan(steps=3, pretraining=pretraining))
    assert all(norm == pytest.approx(1, rel=1e-4) if pretraining else norm > 5 for norm in norms)
    assert len(norms) == 3


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (3, 0), (4,), (2, LENGTH + 1)])
def test_nothing_to_learn_from(shape):
    with pytest.raises(InputError, match=r"^training tokens of shape .* T from 2 to the model's context of 12$"):
        train(toy(), torch.zeros(shape, dtype=torch.long), new_plan(steps=3))


# A loss mask.


def test_the_masked_mean_is_over_the_tokens_that_count_by_hand():
    """Two sequences with 1 and 3 of them: the mean of four numbers, not of two means."""
    model, tokens = toy(), sequences(2)
    loss_mask = torch.zeros(2, LENGTH, dtype=torch.bool)
    loss_mask[0, 5], loss_mask[1, 2:5] = True, True
    with torch.no_grad():
        logits = model(tokens)
    losses = [-logits[row, place - 1].log_softmax(-1)[tokens[row, place]].item() for row, place in loss_mask.nonzero()]
    right = [int(logits[row, place - 1].argmax() == tokens[row, place]) for row, place in loss_mask.nonzero()]
    for changes in ({}, {"micro_batch_size": 1}, {"batch_size": 1}, {"last_layers": 1}):
        plan = new_plan(steps=4 if "batch_size" in changes else 2, learning_rate=1e-9, **changes)
        result, means = train(toy(), tokens, plan, loss_mask)
        assert means == pytest.approx({1: sum(losses) / 4, 2: sum(losses) / 4}, rel=1e-5)
        assert result.accuracy == sum(right) / 4


def test_a_masked_training_is_torch_s_with_ignored_labels():
    model, plain, tokens = toy(), toy(), sequences(10)
    loss_mask = random_mask(tokens)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0)
    labels = tokens[:, 1:].masked_fill(~loss_mask[:, 1:], -100)
    for step in range(9):
        rows = batch_rows(0, step, 10, 4)
        optimizer.zero_grad()
        functional.cross_entropy(plain(tokens[rows, :-1]).flatten(0, 1), labels[rows].flatten()).backward()
        optimizer.step()
    train(model, tokens, new_plan(steps=9, learning_rate=1e-2), loss_mask)
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


def test_a_mask_of_everything_changes_no_bit():
    plain, masked, tokens = toy(), toy(), sequences(10)
    everything = torch.ones_like(tokens, dtype=torch.bool)
    assert train(plain, tokens, new_plan(steps=8))[1] == train(masked, tokens, new_plan(steps=8), everything)[1]
    assert same(weights(plain), weights(masked))


def test_padding_changes_nothing():
    """Padding behind the last token that counts, whatever ids fill it."""
    one, other, tokens = toy(), toy(), sequences(10)
    loss_mask = random_mask(tokens)
    padding = loss_mask.int().flip(1).cummax(1).values.flip(1) == 0
    expected = train(one, tokens, new_plan(steps=8), loss_mask)[1]
    assert train(other, tokens.masked_fill(padding, 3), new_plan(steps=8), loss_mask)[1] == pytest.approx(expected)
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(other)[name], weight, rtol=1e-4, atol=1e-6)


def test_parts_of_a_masked_batch_add_up():
    whole, parts, tokens = toy(), toy(), sequences(11)
    loss_mask = random_mask(tokens)
    expected = train(whole, tokens, new_plan(steps=9), loss_mask)[1]
    assert train(parts, tokens, new_plan(steps=9, micro_batch_size=1), loss_mask)[1] == pytest.approx(
        expected, rel=1e-4
    )


def test_shards_of_a_masked_batch_add_up():
    """Two processes whose shards have other numbers of tokens that count: losses, and gradients, are summed."""
    tokens, plan = sequences(4), new_plan(steps=1, batch_size=4, learning_rate=1e-9)
    loss_mask, model = random_mask(tokens), toy()
    features = loop.BatchFeatures(model, tokens, loop._targets(tokens, loss_mask), plan)
    rows = torch.arange(4)
    shards = [
        loop._accumulate_gradients(
            model, features, Processes(rank, 2).shard(rows), features.num_predicted(rows), State()
        )
        for rank in range(2)
    ]
    both = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    whole = loop._accumulate_gradients(model, features, rows, features.num_predicted(rows), State())
    assert sum(shard.loss for shard in shards) == pytest.approx(whole.loss, rel=1e-5)
    assert sum(shard.num_correct for shard in shards) == whole.num_correct
    for name, weight in model.named_parameters():
        torch.testing.assert_close(both[name], weight.grad, rtol=1e-4, atol=1e-6)


def test_less_than_a_masked_epoch_has_the_mean_of_what_was_seen():
    model, tokens = toy(), sequences(10)
    loss_mask, rows = random_mask(tokens), batch_rows(0, 0, 10, 4)
    labels = tokens[:, 1:].masked_fill(~loss_mask[:, 1:], -100)[rows]
    expected = functional.cross_entropy(model(tokens[rows])[:, :-1].flatten(0, 1), labels.flatten()).item()
    result, _ = train(model, tokens, new_plan(steps=1), loss_mask)
    assert result.loss == pytest.approx(expected, rel=1e-5)


def test_only_what_counts_is_learned_to_the_target():
    model, tokens = toy(width=32), sequences(16)
    loss_mask = random_mask(tokens)
    plan = new_plan(steps=800, learning_rate=5e-3, target_accuracy=1.0)
    result, _ = train(model, tokens, plan, loss_mask)
    right = model(tokens)[:, :-1].argmax(-1) == tokens[:, 1:]
    assert result.stopped_by == "target_accuracy" and bool(right[loss_mask[:, 1:]].all())
    assert float(right[~loss_mask[:, 1:]].double().mean()) < 0.7


def test_a_mask_that_does_not_fit_is_refused():
    tokens = sequences(2)
    first = torch.zeros(2, LENGTH, dtype=torch.bool)
    first[:, 0] = True
    for loss_mask in (first, torch.ones(2, 3, dtype=torch.bool), torch.ones(2, LENGTH)):
        with pytest.raises(InputError, match=r"^loss mask: torch\.\w+ of shape .* some true behind the first token"):
            train(toy(), tokens, new_plan(), loss_mask)


# Exactness.


@pytest.mark.parametrize("pretraining", [False, True])
def test_repeating_gives_the_same_bits(pretraining):
    first, second, other = toy(), toy(), toy()
    plan = new_plan(steps=9, pretraining=pretraining)
    assert train(first, sequences(10), plan)[1] == train(second, sequences(10), plan)[1]
    assert same(weights(first), weights(second))
    train(other, sequences(10), new_plan(steps=9, pretraining=pretraining, seed=1))
    assert not same(weights(first), weights(other))


def stop_and_resume(tokens, plan, after, path, kind=ToyModel, device="cpu", loss_mask=None):
    """Interrupted after some steps, its state on disk, and continued by another model in another state."""
    saved, losses, first = [], {}, toy(kind).to(device)

    def save(state):
        save_file({name: value.contiguous() for name, value in state.tensors.items()}, path)
        saved.append({"step": state.step, "epoch_loss": state.epoch_loss, "epoch_correct": state.epoch_correct})

    polls = iter(range(1, after + 1))
    with pytest.raises(Interrupted, match=f"signal 15 after step {after}; --resume continues") as stopped:
        hyperfit(
            first,
            tokens,
            plan,
            TrainingHooks(
                on_epoch=lambda epoch, metrics: losses.update({epoch: metrics.loss}),
                on_checkpoint=save,
                stop_signal=lambda: 15 if next(polls) == after else None,
            ),
            loss_mask=loss_mask,
        )
    assert stopped.value.exit_code == 143
    state = State(**saved[-1], tensors=load_file(path))
    second = toy(kind, seed=5).to(device)
    second.load_state_dict(toy(kind).state_dict())  # the frozen part is the base's
    result, more = train(second, tokens, plan, loss_mask, state=state)
    assert {name: getattr(state, name) for name in saved[-1]} == saved[-1]  # the caller's state is left alone
    return second, result, losses | more


@pytest.mark.parametrize("kind", [ToyModel, TiedToy])
@pytest.mark.parametrize("changes", [{}, {"pretraining": True}, {"last_layers": 1}], ids=["all", "muon", "last"])
@pytest.mark.parametrize("after", [1, 5, 6, 12])
def test_stopped_and_resumed_gives_the_same_bits(kind, changes, after, tmp_path):
    """Inside an epoch, at its end, and after the very last step; 10 sequences make 3 steps an epoch."""
    tokens, plan, whole = sequences(10), new_plan(steps=12, **changes), toy(kind)
    expected, expected_losses = train(whole, tokens, plan)
    model, result, losses = stop_and_resume(tokens, plan, after, tmp_path / "state.safetensors", kind)
    assert same(weights(model), weights(whole))
    assert losses == expected_losses
    assert (result.loss, result.accuracy) == (expected.loss, expected.accuracy)
    assert (result.epochs, result.steps) == (expected.epochs, expected.steps)


@pytest.mark.parametrize("after", [1, 5, 6, 12])
def test_a_masked_training_resumes_with_the_same_bits(after, tmp_path):
    tokens, plan, whole = sequences(10), new_plan(steps=12), toy()
    loss_mask = random_mask(tokens)
    expected, expected_losses = train(whole, tokens, plan, loss_mask)
    path = tmp_path / "state.safetensors"
    model, result, losses = stop_and_resume(tokens, plan, after, path, loss_mask=loss_mask)
    assert same(weights(model), weights(whole)) and losses == expected_losses
    assert (result.loss, result.accuracy) == (expected.loss, expected.accuracy)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"pretraining": True}], ids=["all", "muon"])
def test_resumes_on_a_gpu(changes, tmp_path):
    """The step counter of fused AdamW lives where its weights do."""
    tokens, plan, whole = sequences(10), new_plan(steps=12, **changes), toy().cuda()
    _, expected = train(whole, tokens, plan)
    model, _, losses = stop_and_resume(tokens, plan, 5, tmp_path / "state.safetensors", device="cuda")
    assert losses == pytest.approx(expected)
    assert next(model.parameters()).is_cuda


def test_checkpoints_come_on_time_and_change_nothing():
    plain, watched, steps = toy(), toy(), []
    train(plain, sequences(10), new_plan(steps=9))
    hooks = TrainingHooks(on_checkpoint=lambda state: steps.append(state.step))
    hyperfit(watched, sequences(10), new_plan(steps=9, checkpoint_every=2), hooks)
    assert steps == [2, 4, 6, 8, 9]
    assert same(weights(plain), weights(watched))


def test_a_checkpoint_is_due_after_some_time_too():
    steps = []
    hooks = TrainingHooks(on_checkpoint=lambda state: steps.append(state.step))
    hyperfit(toy(), sequences(8), new_plan(steps=4, checkpoint_seconds=0.0), hooks)
    assert steps == [1, 2, 3, 4]


def test_a_state_holds_what_is_trained_and_no_more():
    """Weights of the last block, norm and head, each with AdamW's two moments and step."""
    states = []
    model = toy()
    hooks = TrainingHooks(on_checkpoint=states.append)
    hyperfit(model, sequences(10), new_plan(steps=3, last_layers=1, checkpoint_every=3), hooks)
    names = {f"weight.{name}" for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {name for name in states[0].tensors if name.startswith("weight.")}
    assert all(name.split(".")[1] in {"blocks", "norm", "output"} for name in names)
    assert len(states[0].tensors) == 4 * len(names)


# Numbers that go wrong.


def test_non_finite_loss_leaves_the_weights_untouched():
    tokens, model, twin = sequences(8), toy(), toy()
    train(twin, tokens, new_plan(steps=2))
    head, calls = ToyModel.head, iter(range(100))
    model.head = lambda hidden: head(model, hidden) * (math.nan if next(calls) == 2 else 1)
    rows = batch_rows(0, 2, 8, 4).tolist()
    with pytest.raises(NonFiniteError) as error:
        train(model, tokens, new_plan(steps=9))
    assert str(error.value) == f"step 2: loss nan, gradient norm nan, sequences {rows}"
    assert error.value.exit_code == 5
    assert same(weights(model), weights(twin))


@pytest.mark.parametrize("pretraining", [False, True])
def test_non_finite_gradient_leaves_the_weights_untouched(pretraining):
    model = toy()
    before = weights(model)
    model.positions.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(NonFiniteError, match=r"^step 0: loss \d+\.\d+, gradient norm (nan|inf), sequences"):
        train(model, sequences(8), new_plan(steps=9, pretraining=pretraining))
    assert same(weights(model), before)


# Counting.


def test_only_tokens_that_were_trained_on_count(monkeypatch):
    """10 sequences in batches of 4: the last batch has 2."""
    now = iter([0.0, *[2.0] * 100])
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(now))
    result, _ = train(toy(), sequences(10), new_plan(steps=3))
    assert result.tokens_per_second == 10 * (LENGTH - 1) / result.seconds


def test_progress_continues_where_the_state_was(capsys):
    model, states = toy(), []
    hooks = TrainingHooks(on_checkpoint=lambda state: states.append(deepcopy(state)))
    hyperfit(model, sequences(8), new_plan(steps=4, checkpoint_every=2), hooks)
    capsys.readouterr()
    train(toy(), sequences(8), new_plan(steps=4), state=states[0])
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
    result, losses = train(short, tokens, new_plan(steps=9))
    expected, expected_losses = train(accumulated, tokens, new_plan(steps=9), state=State(micro_batch_size=left))
    assert result.micro_batch_size == expected.micro_batch_size == left
    assert same(weights(short), weights(accumulated)) and losses == expected_losses
    assert capsys.readouterr().err.count("hypergen: out of memory: going on with") == {4: 0, 2: 1, 1: 2}[left]
    assert train(whole, tokens, new_plan(steps=9))[1] == pytest.approx(losses, rel=1e-4)


def test_out_of_memory_in_the_middle_of_a_batch_counts_nothing_twice(monkeypatch):
    model, accumulated, tokens, calls = toy(), toy(), sequences(8), iter(range(100))
    head = ToyModel.head

    def failing_once(hidden):
        if next(calls) == 3:  # the second half of the second batch
            raise torch.OutOfMemoryError
        return head(model, hidden)

    model.head = failing_once
    train(model, tokens, new_plan(steps=4, batch_size=8), state=State(micro_batch_size=4))
    states = []
    accumulating = new_plan(steps=4, batch_size=8, checkpoint_every=1)
    hooks = TrainingHooks(state=State(micro_batch_size=4), on_checkpoint=lambda state: states.append(deepcopy(state)))
    hyperfit(accumulated, tokens, accumulating, hooks)
    states[0].micro_batch_size = 2
    again = toy()
    train(again, tokens, new_plan(steps=4, batch_size=8), state=states[0])
    assert same(weights(model), weights(again))


def test_one_sequence_that_does_not_fit_is_an_error(monkeypatch):
    model = out_of_memory(toy(), monkeypatch, 0)
    with pytest.raises(HypergenError, match=r"^out of memory with one sequence at a time; shorten the sequences$"):
        train(model, sequences(4), new_plan(steps=3))


def test_a_micro_batch_size_is_kept_and_gives_the_whole_batchs_training():
    whole, parts = toy(), toy()
    expected, losses = train(whole, sequences(8), new_plan(steps=9))
    result, more = train(parts, sequences(8), new_plan(steps=9, micro_batch_size=1))
    assert (expected.micro_batch_size, result.micro_batch_size) == (4, 1)
    assert more == pytest.approx(losses, rel=1e-4)


# The end.


@pytest.mark.parametrize("target", [0.0, 100.0])
def test_the_state_at_the_end_ends_a_resumed_training_at_once(target):
    """What follows a training may be interrupted; the training need not be repeated then."""
    model, states, tokens = toy(), [], sequences(8)
    plan = new_plan(steps=6, target_loss=target)
    hooks = TrainingHooks(on_checkpoint=lambda state: states.append(deepcopy(state)))
    first = hyperfit(model, tokens, plan, hooks)
    assert [state.step for state in states] == [6 if target == 0 else 2]
    resumed, losses = toy(seed=3), []
    hooks = TrainingHooks(state=states[0], on_epoch=lambda *epoch: losses.append(epoch), on_checkpoint=losses.append)
    again = hyperfit(resumed, tokens, plan, hooks)
    assert same(weights(model), weights(resumed)) and losses == []
    assert (again.loss, again.steps, again.epochs, again.stopped_by) == (
        first.loss,
        first.steps,
        first.epochs,
        first.stopped_by,
    )


def test_signals_are_only_noted_inside_the_steps():
    """The activation cache is built before; a signal need not wait for it."""
    entered = []

    class Watch:
        def __enter__(self):
            entered.append("steps")

        def __exit__(self, *_):
            entered.append("over")

    model, blocks = toy(), []
    hidden_before = ToyModel.hidden_before
    model.hidden_before = lambda tokens, last: blocks.append(list(entered)) or hidden_before(model, tokens, last)
    hyperfit(model, sequences(8), new_plan(steps=2, last_layers=1), TrainingHooks(whole_steps=Watch))
    assert blocks and not any(blocks) and entered == ["steps", "over"]
