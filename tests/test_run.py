"""Who may write and read a run folder, its log, and how it is finished. Alone: pytest tests/test_run.py"""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hypergen import disk, run
from hypergen.errors import DiskError, InputError, LockedError
from tests.conftest import tree
from tests.test_checkpoints import saved, state
from tests.test_disk import failing, uses, write_two

# The folder.


def test_a_new_or_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new", tmp_path / "new" / "deeper"):
        for resume in (False, True):
            run.check_output(folder, resume)
    assert tree(tmp_path) == {"empty": False}


@pytest.mark.parametrize(
    "content, resume, complaint",
    [
        ("notes.txt", False, "is not empty"),
        ("metrics.jsonl", False, "continue it with --resume"),
        ("notes.txt", True, "is not a run of hypergen"),
        ("manifest.json", True, "holds a finished run"),
    ],
)
def test_a_folder_with_content_is_refused(content, resume, complaint, tmp_path):
    (tmp_path / content).touch()
    with pytest.raises(InputError, match=complaint):
        run.check_output(tmp_path, resume)


def test_places_that_are_no_folder_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for path in ("file", "file/below", "loop/below", "x" * 300):
        with pytest.raises(InputError):
            run.check_output(tmp_path / path, False)
            with run.locked(tmp_path / path):
                pass
    assert tree(tmp_path).keys() == {"file", "loop"}


def test_an_unfinished_run_can_be_continued(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    run.check_output(tmp_path, resume=True)


@pytest.mark.parametrize("begun", [".lock", "checkpoints/step-1/state.json"])
def test_an_unfinished_run_is_not_read(begun, tmp_path):
    (tmp_path / begun).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / begun).touch()
    with pytest.raises(InputError, match="is an unfinished run; wait for it, or continue it with --resume"):
        run.check_finished(tmp_path)
    (tmp_path / "manifest.json").touch()
    run.check_finished(tmp_path)
    run.check_finished(tmp_path / "not there")


def test_the_next_free_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.free_output("text") == Path("runs/text-1")
    for name in ("text-1", "text-2", "image-1", "text-4"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert [str(run.free_output(name)) for name in ("text", "image")] == ["runs/text-3", "runs/image-2"]


# The lock.


def test_a_second_process_is_told_who_writes(tmp_path):
    code = (
        "import sys, pathlib; from hypergen import run\n"
        "with run.locked(pathlib.Path(sys.argv[1])): print('mine', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], **pipes) as other:
        assert other.stdout.readline() == "mine\n"
        for attempt in (lambda: run.check_output(tmp_path / "run", False), run.locked(tmp_path / "run").__enter__):
            with pytest.raises(LockedError, match=f"in use by process {other.pid} on ") as error:
                attempt()
        assert error.value.exit_code == 4
        other.kill()  # the kernel lets go of the lock; the file stays
        other.wait()
    run.check_output(tmp_path / "run", False)
    with run.locked(tmp_path / "run"):
        pass
    assert tree(tmp_path) == {"run": False}


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_one_line(number, tmp_path, monkeypatch):
    def refuse(handle, flags):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"its file system has no locks .* another one"), run.locked(tmp_path / "run"):
        pass
    assert not tree(tmp_path)


def test_a_lock_is_asked_for_with_a_file_that_may_be_written(tmp_path, monkeypatch):
    """NFS gives an exclusive lock for no other."""
    flags = []
    monkeypatch.setattr(fcntl, "flock", lambda handle, _: flags.append(fcntl.fcntl(handle, fcntl.F_GETFL)))
    (tmp_path / ".lock").touch()
    run.check_output(tmp_path, False)
    with run.locked(tmp_path):
        pass
    assert len(flags) == 2 and all(flag & (os.O_RDWR | os.O_WRONLY) for flag in flags)


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(KeyError), run.locked(tmp_path / "runs" / "text-1"):
        assert (tmp_path / "runs" / "text-1" / ".lock").is_file()
        raise KeyError
    assert not tree(tmp_path)


def test_a_folder_that_was_there_or_has_content_stays(tmp_path):
    with run.locked(tmp_path):
        pass
    with run.locked(tmp_path / "run"):
        run.log(tmp_path / "run", {"epoch": 1})
    assert tree(tmp_path).keys() == {"run", "run/metrics.jsonl"}


def test_what_a_killed_process_left_is_swept(tmp_path):
    for name in (".tmp-1", "checkpoints/.tmp-step-2-1"):
        (tmp_path / name).mkdir(parents=True)
        write_two(tmp_path / name)
    (tmp_path / ".tmp-1-metrics.jsonl").touch()
    with run.locked(tmp_path):
        assert tree(tmp_path).keys() == {".lock", "checkpoints"}


def test_a_run_that_another_process_has_just_finished_is_kept(tmp_path):
    disk.publish(tmp_path / "run", write_two)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="holds a finished run"), run.locked(tmp_path / "run"):
        pass
    assert tree(tmp_path) == before


# The log.


def test_the_log_is_rewound_and_half_a_line_is_passed_over(tmp_path):
    for epoch in (1, 2, 3):
        run.log(tmp_path, {"epoch": epoch, "loss": 1 / epoch})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    assert [row["epoch"] for row in run.read_log(tmp_path)] == [1, 2, 3]
    run.rewind_log(tmp_path, 2)
    run.log(tmp_path, {"epoch": 3, "loss": 0.5})
    assert [row["loss"] for row in run.read_log(tmp_path)] == [1.0, 0.5, 0.5]
    run.rewind_log(tmp_path / "nothing", 2)
    assert run.read_log(tmp_path / "nothing") == []


# The end.


def started(folder):
    """A run folder just before its end."""
    run.log(folder, {"epoch": 1, "loss": 0.5})
    saved(folder).save(state(1))
    return folder


def test_a_finished_run_has_log_and_manifest_and_no_checkpoints(tmp_path):
    run.finish(started(tmp_path), write_two)
    assert tree(tmp_path).keys() == {"a.txt", "deep", "deep/b.txt", "metrics.jsonl", "manifest.json"}
    disk.check_manifest(tmp_path)
    assert "metrics.jsonl" in (tmp_path / "manifest.json").read_text()


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_at_any_call_of_the_end_leaves_the_run_to_be_continued(name, tmp_path):
    (tmp_path / "probe").mkdir()
    started(tmp_path / "probe")
    number = uses(name, lambda: run.finish(tmp_path / "probe", write_two))
    (tmp_path / "run").mkdir()
    before = tree(started(tmp_path / "run"))
    for call in range(1, number + (name == "replace")):  # the last fsync flushes the name of what is whole already
        with failing(name, call), pytest.raises(DiskError):
            run.finish(tmp_path / "run", write_two)
        assert tree(tmp_path / "run") == before
        run.check_output(tmp_path / "run", resume=True)
    run.finish(tmp_path / "run", write_two)


def test_what_a_process_killed_at_the_end_left_is_replaced(tmp_path):
    started(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "old.txt").touch()
    run.finish(tmp_path, write_two)
    disk.check_manifest(tmp_path)
    assert not (tmp_path / "deep" / "old.txt").exists()
