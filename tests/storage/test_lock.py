"""One process at a time owns a run folder. Alone: pytest tests/storage/test_lock.py"""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from hypergen.errors import DiskError, InputError, LockedError
from hypergen.storage import lock
from hypergen.storage.atomic import publish
from hypergen.storage.lock import lock_folder, take_lock, wait_for_lock
from hypergen.storage.metrics_log import append_metrics
from hypergen.storage.own_file import open_own
from hypergen.storage.run_folder import check_output
from hypergen.storage.temporary_folder import make_marked
from tests.conftest import tree
from tests.storage.faulty_disk import write_two


def test_a_second_process_is_told_who_writes(tmp_path):
    code = (
        "import sys, pathlib; from hypergen.storage.lock import lock_folder\n"
        "with lock_folder(pathlib.Path(sys.argv[1])): print('mine', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], **pipes) as other:
        assert other.stdout.readline() == "mine\n"
        for attempt in (
            lambda: check_output(tmp_path / "run", False),
            lock_folder(tmp_path / "run").__enter__,
        ):
            with pytest.raises(LockedError, match=f"in use by process {other.pid} on ") as error:
                attempt()
        assert error.value.exit_code == 4
        other.kill()  # the kernel lets go of the lock; the file stays
        other.wait()
    check_output(tmp_path / "run", False)
    with lock_folder(tmp_path / "run"):
        pass
    assert tree(tmp_path) == {"run": False}


def test_who_waits_goes_on_when_the_other_is_done(tmp_path):
    code = (
        "import sys, pathlib; from hypergen.storage.lock import wait_for_lock\n"
        "with wait_for_lock(pathlib.Path(sys.argv[1])): print('mine', flush=True)"
    )
    with wait_for_lock(tmp_path / "lock"):
        other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=1)
    assert other.communicate(timeout=60)[0] == b"mine\n"


def test_without_locks_nobody_waits(tmp_path, monkeypatch):
    def refuse(handle, flags):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with wait_for_lock(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_one_line(number, tmp_path, monkeypatch):
    def refuse(handle, flags):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(InputError, match=r"its file system has no locks .* another one"),
        lock_folder(tmp_path / "run"),
    ):
        pass
    assert not tree(tmp_path)


def test_a_lock_is_asked_for_with_a_file_that_may_be_written(tmp_path, monkeypatch):
    """NFS gives an exclusive lock for no other."""
    flags = []
    monkeypatch.setattr(fcntl, "flock", lambda handle, _: flags.append(fcntl.fcntl(handle, fcntl.F_GETFL)))
    (tmp_path / ".lock").touch()
    check_output(tmp_path, False)
    with lock_folder(tmp_path):
        pass
    assert len(flags) == 2 and all(flag & (os.O_RDWR | os.O_WRONLY) for flag in flags)


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(KeyError), lock_folder(tmp_path / "runs" / "text-1"):
        assert (tmp_path / "runs" / "text-1" / ".lock").is_file()
        raise KeyError
    assert not tree(tmp_path)


def test_a_folder_that_was_there_or_has_content_stays(tmp_path):
    with lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path / "run"):
        append_metrics(tmp_path / "run", {"epoch": 1})
    assert tree(tmp_path).keys() == {"run", "run/metrics.jsonl"}


def test_what_a_killed_process_left_is_swept(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for parent, name in ((tmp_path, "metrics.jsonl"), (tmp_path / "checkpoints", "step-2")):
        write_two(make_marked(parent, name))
    write_two(make_own(tmp_path / ".tmp-mine"))
    mine = tree(tmp_path / ".tmp-mine")
    with lock_folder(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "checkpoints", ".tmp-mine"}
        assert tree(tmp_path / ".tmp-mine") == mine and not tree(tmp_path / "checkpoints")


def make_own(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize("content", [b"my own\n", b"x" * 10_000, b"process" * 1000, b"\xff"])
def test_a_file_of_somebody_else_in_place_of_the_lock_is_left_alone(content, tmp_path):
    (tmp_path / ".lock").write_bytes(content)
    for attempt in (lambda: check_output(tmp_path, False), lock_folder(tmp_path).__enter__):
        with pytest.raises(InputError, match=r"/\.lock: is not a lock of hypergen; name another folder$"):
            attempt()
    assert tree(tmp_path) == {".lock": content}


@pytest.mark.parametrize("content", [b"", b"proc", b"process 12 o", b"process 12 on host\n"])
def test_what_a_killed_process_wrote_into_its_lock_is_ours(content, tmp_path):
    (tmp_path / ".lock").write_bytes(content)
    check_output(tmp_path, False)
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_lock_of_another_folder_that_took_the_place_stays(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".lock").write_text("process 7 on host\n")
    with lock_folder(tmp_path / "run"):
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "run").symlink_to("other")
        with pytest.raises(DiskError, match="is not the folder that this run has locked"):
            append_metrics(tmp_path / "run", {"epoch": 1})
    assert tree(tmp_path / "other") == {".lock": b"process 7 on host\n"}


def test_a_run_that_another_process_has_just_finished_is_kept(tmp_path):
    publish(tmp_path / "run", write_two)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="holds a finished run"), lock_folder(tmp_path / "run"):
        pass
    assert tree(tmp_path) == before


def test_an_owner_that_has_not_written_its_name_yet_is_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SECONDS_BETWEEN", 0.0)
    with open_own(tmp_path / "lock") as first, open_own(tmp_path / "lock") as second:
        take_lock(tmp_path, first)
        with pytest.raises(LockedError, match=r"in use by another process$"):
            take_lock(tmp_path, second)
        first.write(b"process 7 on host\n")
        with pytest.raises(LockedError, match=r"in use by process 7 on host$"):
            take_lock(tmp_path, second)


def test_a_lock_file_that_its_owner_has_just_removed_is_not_taken(tmp_path):
    with open_own(tmp_path / "lock") as handle:
        (tmp_path / "lock").unlink()
        with pytest.raises(LockedError, match="has ended here just now; start again"):
            take_lock(tmp_path, handle)
