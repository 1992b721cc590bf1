"""The saved states of a training: which one counts, and what is refused.

Alone: pytest tests/training/test_checkpoints.py
"""

import json
import signal
from dataclasses import replace

import pytest
import torch

from hypergen.errors import CheckpointError, DiskError, InputError, Interrupted, NonFiniteError
from hypergen.runtime.signals import SignalWatch
from hypergen.storage.atomic import publish
from hypergen.storage.manifest import build_manifest
from hypergen.training.loop import hyperfit
from hypergen.training.state import State
from tests.conftest import tree
from tests.storage.faulty_disk import failing, flip, uses, write_two
from tests.training.plans import new_plan, same, sequences, toy, train, weights
from tests.training.states import FACTS, saved, state


def steps(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_checkpoint_comes_back(tmp_path):
    saved(tmp_path).save(state(7))
    found = saved(tmp_path).newest()
    assert (found.step, found.epoch_loss, found.epoch_correct) == (7, state(7).epoch_loss, 21)
    assert found.tensors["weight.a"].equal(state(7).tensors["weight.a"])
    assert tree(tmp_path / "checkpoints" / "step-7").keys() == {"manifest.json", "state.json", "state.safetensors"}


def test_one_from_before_token_accuracy_goes_on_and_says_so(tmp_path, capsys):
    saved(tmp_path).save(state(7))
    checkpoint = tmp_path / "checkpoints" / "step-7"
    numbers = json.loads((checkpoint / "state.json").read_text())
    del numbers["epoch_correct"]
    (checkpoint / "state.json").write_text(json.dumps(numbers))
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "manifest.json").write_text(json.dumps(build_manifest(checkpoint)))
    found = saved(tmp_path).newest()
    assert (found.step, found.epoch_loss, found.epoch_correct) == (7, state(7).epoch_loss, 0)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "step-7: has no token accuracy; in the epoch that goes on, tokens before" in told


def test_the_two_newest_are_kept(tmp_path):
    for step in (2, 9, 10, 100):
        saved(tmp_path).save(state(step))
    assert steps(tmp_path) == ["step-10", "step-100"]
    assert saved(tmp_path).newest().step == 100


@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "manifest.json"])
def test_a_damaged_one_is_skipped_with_one_warning(name, tmp_path, capsys):
    for step in (5, 10):
        saved(tmp_path).save(state(step))
    flip(tmp_path / "checkpoints" / "step-10" / name)
    assert saved(tmp_path).newest().step == 5
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and "skipping a damaged checkpoint" in warnings[0] and "step-10/" in warnings[0]


def test_after_a_damaged_one_nothing_whole_is_removed(tmp_path):
    for step in (5, 10):
        saved(tmp_path).save(state(step))
    flip(tmp_path / "checkpoints" / "step-10" / "state.json")
    saved(tmp_path).save(state(6))
    assert steps(tmp_path) == ["step-5", "step-6"]


def test_none_whole_is_exit_3_and_none_at_all_starts(tmp_path):
    assert saved(tmp_path).newest() is None
    saved(tmp_path).save(state(5))
    publish(tmp_path / "checkpoints" / "step-5", write_two)  # whole, but not a checkpoint
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints is whole") as error:
        saved(tmp_path).newest()
    assert error.value.exit_code == 3


def test_other_options_are_refused_by_name(tmp_path):
    saved(tmp_path).save(state(5))
    with pytest.raises(InputError, match=r"--resume: .* was started with --epochs 3, not 4$"):
        saved(tmp_path, FACTS | {"--epochs": 4}).newest()


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path):
    saved(tmp_path).save(state(1))
    number = uses("fsync", lambda: saved(tmp_path).save(state(2)))
    for call in range(1, number):  # the last one flushes the name of what is whole already
        with failing("fsync", call), pytest.raises(DiskError):
            saved(tmp_path).save(state(3))
        assert saved(tmp_path).newest().step == 2
        assert steps(tmp_path) == ["step-1", "step-2"]


def test_the_file_of_another_checkpoint_is_found(tmp_path, capsys):
    for step in (5, 10):
        saved(tmp_path).save(state(step))
    one, other = (tmp_path / "checkpoints" / f"step-{step}" for step in (5, 10))
    (other / "state.safetensors").write_bytes((one / "state.safetensors").read_bytes())
    assert saved(tmp_path).newest().step == 5
    assert "step-10/state.safetensors" in capsys.readouterr().err


def test_a_checkpoint_under_another_name_is_found(tmp_path, capsys):
    saved(tmp_path).save(state(5))
    (tmp_path / "checkpoints" / "step-5").rename(tmp_path / "checkpoints" / "step-7")
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints is whole"):
        saved(tmp_path).newest()
    assert "step-7: holds step 5" in capsys.readouterr().err


def test_a_manifest_that_lists_nothing_proves_nothing(tmp_path, capsys):
    saved(tmp_path).save(state(5))
    (tmp_path / "checkpoints" / "step-5" / "manifest.json").write_text(json.dumps({"format": 1, "files": {}}))
    with pytest.raises(CheckpointError):
        saved(tmp_path).newest()
    assert "its manifest does not list" in capsys.readouterr().err


def test_what_is_not_finite_is_not_saved(tmp_path):
    saved(tmp_path).save(state(5))
    with pytest.raises(NonFiniteError, match=r"^step 6: weight.a is not finite; the checkpoints before it are kept$"):
        saved(tmp_path).save(State(step=6, tensors={"weight.a": torch.tensor([0.0, torch.nan])}))
    assert steps(tmp_path) == ["step-5"]


def test_another_machine_is_told_and_no_obstacle(tmp_path, capsys):
    saved(tmp_path).save(state(5))
    assert saved(tmp_path).newest().step == 5 and capsys.readouterr().err == ""
    assert saved(tmp_path, machine={"threads": 1, "torch": "2.14"}).newest().step == 5
    assert capsys.readouterr().err == "hypergen: --resume: not bit for bit: threads 2 -> 1\n"


def test_without_resume_nothing_is_read(tmp_path):
    saved(tmp_path).save(state(5))
    assert saved(tmp_path, resume=False).newest() is None


def test_a_part_has_a_folder_and_facts_of_its_own(tmp_path):
    part = saved(tmp_path).part("codec", {"--codec-steps": 7})
    part.save(state(5))
    assert steps(tmp_path) == ["codec"] and saved(tmp_path).newest() is None
    assert saved(tmp_path).part("codec", {"--codec-steps": 7}).newest().step == 5
    with pytest.raises(InputError, match="was started with --codec-steps 7, not 8"):
        saved(tmp_path).part("codec", {"--codec-steps": 8}).newest()
    with pytest.raises(InputError, match="was started with --epochs 3, not 4"):
        saved(tmp_path, FACTS | {"--epochs": 4}).part("codec", {"--codec-steps": 7}).newest()


def test_a_signal_is_noted_inside_whole_steps_and_told(tmp_path):
    with pytest.raises(Interrupted) as stopped, SignalWatch() as signals:
        checkpoints = replace(saved(tmp_path), signals=signals)
        assert checkpoints.stop_signal() is None
        with checkpoints.whole_steps():
            signal.raise_signal(signal.SIGTERM)
            assert checkpoints.stop_signal() == signal.SIGTERM
    assert stopped.value.exit_code == 143


def test_hooks_write_and_continue(tmp_path):
    """A training that is stopped after its fifth step goes on from there to the same weights and loss."""
    whole, plan = toy(), new_plan(steps=9, checkpoint_every=2)
    expected, _ = train(whole, sequences(10), plan)
    hooks = replace(saved(tmp_path).hooks(), on_checkpoint=saved(tmp_path).save)
    polls = iter(range(1, 6))
    with pytest.raises(Interrupted):
        hyperfit(toy(), sequences(10), plan, replace(hooks, stop_signal=lambda: 15 if next(polls) == 5 else None))
    assert steps(tmp_path) == ["step-4", "step-5"]
    resumed, hooks = toy(), saved(tmp_path).hooks()
    assert hooks.state.step == 5
    hooks = replace(hooks, on_checkpoint=saved(tmp_path).save)
    assert hyperfit(resumed, sequences(10), plan, hooks).loss == expected.loss
    assert same(weights(resumed), weights(whole)) and steps(tmp_path) == ["step-8", "step-9"]


def test_hooks_alone_write_nothing(tmp_path):
    """Of several processes the first one writes."""
    saved(tmp_path).save(state(5))
    hooks = saved(tmp_path).hooks()
    hooks.on_checkpoint(state(6))
    assert hooks.state.step == 5 and steps(tmp_path) == ["step-5"]
