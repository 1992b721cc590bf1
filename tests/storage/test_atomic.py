"""What is published is whole or not there, whatever call fails. Alone: pytest tests/storage/test_atomic.py"""

import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors import SafetensorError

from hypergen.errors import DiskError, InputError
from hypergen.storage import atomic
from hypergen.storage.manifest import check_manifest
from hypergen.storage.temporary_folder import make_marked
from tests.conftest import tree
from tests.storage.faulty_disk import failing, uses, write_two

DISK_CALLS = ("fsync", "replace", "open")


def test_published_is_what_was_written_and_a_manifest(tmp_path):
    atomic.publish(tmp_path / "new", write_two)
    assert tree(tmp_path / "new").keys() == {"a.txt", "deep", "deep/b.txt", "manifest.json"}
    assert json.loads((tmp_path / "new" / "manifest.json").read_text())["files"].keys() == {"a.txt", "deep/b.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    check_manifest(tmp_path / "new")


@pytest.mark.parametrize("name", DISK_CALLS)
def test_a_full_disk_at_any_call_leaves_what_was_there(name, tmp_path):
    atomic.publish(tmp_path / "one", write_two)
    number = uses(name, lambda: atomic.publish(tmp_path / "probe", write_two))
    before = tree(tmp_path)
    for call in range(1, number + 1):
        with failing(name, call), pytest.raises(DiskError, match="No space left") as error:
            atomic.publish(tmp_path / "two", write_two)
        assert error.value.exit_code == 6
        left = tree(tmp_path)
        assert {path: left[path] for path in before} == before
        assert not {path for path in left if ".tmp" in path}
        assert not (tmp_path / "two").exists() or check_manifest(tmp_path / "two")


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_file_is_replaced_whole_or_not_at_all(name, tmp_path):
    path = tmp_path / "file.txt"
    atomic.write_file(path, lambda temporary: temporary.write_text("old"))
    with failing(name, 1), pytest.raises(DiskError):
        atomic.write_file(path, lambda temporary: temporary.write_text("new"))
    assert tree(tmp_path) == {"file.txt": b"old"}
    atomic.write_file(path, lambda temporary: temporary.write_text("new"))
    assert tree(tmp_path) == {"file.txt": b"new"}


def test_any_failure_of_the_writer_leaves_nothing(tmp_path):
    for failure in (KeyboardInterrupt, RuntimeError):

        def write(folder, failure=failure):
            write_two(folder)
            raise failure

        with pytest.raises(failure):
            atomic.publish(tmp_path / "new", write)
        assert not tree(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG])
def test_what_a_disk_refuses_is_exit_6(number, tmp_path):
    expected = f"^there: {os.strerror(number)}; what was there before is untouched; [0-9,]+ bytes are free$"
    with pytest.raises(DiskError, match=expected), atomic.disk_errors(tmp_path):
        raise OSError(number, "", "there")
    with pytest.raises(DiskError, match=os.strerror(number)), atomic.disk_errors(tmp_path):
        raise SafetensorError(f"Error while serializing: I/O error: words (os error {number})")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY])
def test_a_wrong_place_is_exit_2(number, tmp_path):
    with pytest.raises(InputError, match=f"^there: {os.strerror(number)}$"), atomic.disk_errors(tmp_path):
        raise OSError(number, "", "there")


def test_other_failures_pass():
    for failure in (ValueError("odd"), OSError("without a number"), TimeoutError(errno.ETIMEDOUT, "slow")):
        with pytest.raises(type(failure)), atomic.disk_errors("anywhere"):
            raise failure


def test_safetensors_really_tells_a_full_disk_in_words(tmp_path):
    """A limit on the size of files stands in for a full atomic."""
    code = (
        "import pathlib, signal, sys, resource, torch\n"
        "from safetensors.torch import save_file\n"
        "from hypergen.storage import atomic\n"
        "write = lambda folder: save_file({'a': torch.zeros(9999)}, folder / 'a')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))\n"
        "try: atomic.publish(pathlib.Path(sys.argv[1]), write)\n"
        "except atomic.DiskError as error: print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")], capture_output=True, text=True)
    assert "File too large; what was there before is untouched" in shown.stdout, shown.stderr
    assert not tree(tmp_path)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_modes_follow_the_umask(umask, tmp_path):
    def write(folder):
        write_two(folder)
        (folder / "a.txt").chmod(0o600)  # as safetensors leaves its files

    former = os.umask(umask)
    try:
        atomic.publish(tmp_path / "new", write)
    finally:
        os.umask(former)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert all(mode == (0o777 if path.is_dir() else 0o666) & ~umask for path, mode in modes.items())


def test_what_would_not_fit_is_not_started(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    atomic.check_space(tmp_path, 10)
    with pytest.raises(DiskError, match=rf"^{tmp_path}: {2 * free:,} bytes are needed .*, [\d,]+ are free$"):
        atomic.check_space(tmp_path, 2 * free)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_of_a_moment_is_tried_once_more(name, number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(atomic, "SECONDS_TO_RETRY", 0.0)
    with failing(name, 1, number):
        atomic.publish(tmp_path / "new", write_two)
    check_manifest(tmp_path / "new")
    assert capsys.readouterr().err == f"hypergen: {os.strerror(number)}; trying once more\n"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_is_replaced_comes_back_when_the_new_one_cannot_be_named(tmp_path):
    atomic.publish(tmp_path / "one", write_two)
    before = tree(tmp_path)
    with failing("replace", 2), pytest.raises(DiskError):
        atomic.publish(tmp_path / "one", write_two)
    assert tree(tmp_path) == before


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path):
    assert atomic.bytes_in(tmp_path / "nowhere") == atomic.bytes_in(tmp_path) == 0
    write_two(tmp_path)
    assert atomic.bytes_in(tmp_path) == 2


def test_only_leftovers_of_the_named_path_are_removed(tmp_path):
    for name in ("a.txt", "a.txt", "b.txt", "aXtxt"):
        write_two(make_marked(tmp_path, name))
    (tmp_path / ".tmp-a.txt").touch()
    write_two(Path(tempfile.mkdtemp(prefix=".tmp-", dir=tmp_path)))  # somebody's own
    atomic.remove_leftovers(tmp_path / "a.txt")
    left = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert (tmp_path / ".tmp-a.txt").is_file() and len(left) == 3
    atomic.remove_leftovers(tmp_path / "b.txt")
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_safetensors_files_get_the_modes_of_new_files(tmp_path):
    for name in ("a.safetensors", "a.json"):
        (tmp_path / name).touch(0o600)
    former = os.umask(0o022)
    try:
        atomic.follow_umask(tmp_path)
    finally:
        os.umask(former)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"a.safetensors": 0o644, "a.json": 0o600}


def test_a_lasting_failure_is_told_after_the_second_attempt(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "SECONDS_TO_RETRY", 0.0)
    attempts = []

    def write(folder):
        attempts.append(folder)
        raise OSError(errno.EIO, "", "there")

    with pytest.raises(DiskError, match=r"^there: "):
        atomic.publish(tmp_path / "new", write)
    assert len(attempts) == 2 and not tree(tmp_path)
