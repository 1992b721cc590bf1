"""The saved states of a training: which one counts, and what is refused. Alone: pytest tests/test_checkpoints.py"""

import json

import pytest
import torch

from hypergen import disk
from hypergen.checkpoints import Checkpoints
from hypergen.errors import CheckpointError, DiskError, InputError, NonFiniteError
from hypergen.signals import SignalWatch
from hypergen.training_state import State
from tests.conftest import tree
from tests.test_disk import failing, flip, uses, write_two

FACTS = {"--epochs": 3, "--last-layers": None, "--betas": (0.9, 0.95)}
MACHINE = {"threads": 2, "torch": "2.14"}


def saved(folder, facts=FACTS, machine=MACHINE, resume=True):
    """The checkpoints of a run folder."""
    signals = SignalWatch()
    return Checkpoints(folder=folder / "checkpoints", facts=facts, machine=machine, resume=resume, signals=signals)


def state(step):
    return State(step=step, epoch_loss=0.1 * step, tensors={"weight.a": torch.arange(4.0) + step})


def steps(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_checkpoint_comes_back(tmp_path):
    saved(tmp_path).save(state(7))
    found = saved(tmp_path).newest()
    assert (found.step, found.epoch_loss) == (7, state(7).epoch_loss)
    assert found.tensors["weight.a"].equal(state(7).tensors["weight.a"])
    assert tree(tmp_path / "checkpoints" / "step-7").keys() == {"manifest.json", "state.json", "state.safetensors"}


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
    disk.publish(tmp_path / "checkpoints" / "step-5", write_two)  # whole, but not a checkpoint
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
