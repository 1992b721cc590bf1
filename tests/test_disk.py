"""What is published is whole or not there, whatever call fails. Alone: pytest tests/test_disk.py"""

import errno
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest
from safetensors import SafetensorError

from hypergen import disk
from hypergen.errors import CheckpointError, DiskError, InputError
from tests.conftest import tree

DISK_CALLS = ("fsync", "replace", "open")


def write_two(folder):
    (folder / "a.txt").write_text("a")
    (folder / "deep").mkdir()
    (folder / "deep" / "b.txt").write_text("b")


@contextmanager
def failing(name, call, number=errno.ENOSPC):
    """Inside, the call-th use of os.NAME fails."""
    left, real = [call], getattr(os, name)

    def fail(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(number, os.strerror(number), "somewhere")
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, fail)
        yield left


def uses(name, action):
    """How often the action uses os.NAME."""
    with failing(name, -1) as left:
        action()
    return -1 - left[0]


def test_published_is_what_was_written_and_a_manifest(tmp_path):
    disk.publish(tmp_path / "new", write_two)
    assert tree(tmp_path / "new").keys() == {"a.txt", "deep", "deep/b.txt", "manifest.json"}
    assert json.loads((tmp_path / "new" / "manifest.json").read_text())["files"].keys() == {"a.txt", "deep/b.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    disk.check_manifest(tmp_path / "new")


@pytest.mark.parametrize("name", DISK_CALLS)
def test_a_full_disk_at_any_call_leaves_what_was_there(name, tmp_path):
    disk.publish(tmp_path / "one", write_two)
    number = uses(name, lambda: disk.publish(tmp_path / "probe", write_two))
    before = tree(tmp_path)
    for call in range(1, number + 1):
        with failing(name, call), pytest.raises(DiskError, match="No space left") as error:
            disk.publish(tmp_path / "two", write_two)
        assert error.value.exit_code == 6
        left = tree(tmp_path)
        assert {path: left[path] for path in before} == before
        assert not {path for path in left if ".tmp" in path}
        assert not (tmp_path / "two").exists() or disk.check_manifest(tmp_path / "two")


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_file_is_replaced_whole_or_not_at_all(name, tmp_path):
    path = tmp_path / "file.txt"
    disk.write_file(path, lambda temporary: temporary.write_text("old"))
    with failing(name, 1), pytest.raises(DiskError):
        disk.write_file(path, lambda temporary: temporary.write_text("new"))
    assert tree(tmp_path) == {"file.txt": b"old"}
    disk.write_file(path, lambda temporary: temporary.write_text("new"))
    assert tree(tmp_path) == {"file.txt": b"new"}


def test_any_failure_of_the_writer_leaves_nothing(tmp_path):
    for failure in (KeyboardInterrupt, RuntimeError):

        def write(folder, failure=failure):
            write_two(folder)
            raise failure

        with pytest.raises(failure):
            disk.publish(tmp_path / "new", write)
        assert not tree(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG])
def test_what_a_disk_refuses_is_exit_6(number, tmp_path):
    expected = f"^there: {os.strerror(number)}; what was there before is untouched; [0-9,]+ bytes are free$"
    with pytest.raises(DiskError, match=expected), disk.disk_errors(tmp_path):
        raise OSError(number, "", "there")
    with pytest.raises(DiskError, match=os.strerror(number)), disk.disk_errors(tmp_path):
        raise SafetensorError(f"Error while serializing: I/O error: words (os error {number})")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY])
def test_a_wrong_place_is_exit_2(number, tmp_path):
    with pytest.raises(InputError, match=f"^there: {os.strerror(number)}$"), disk.disk_errors(tmp_path):
        raise OSError(number, "", "there")


def test_other_failures_pass():
    for failure in (ValueError("odd"), OSError("without a number"), TimeoutError(errno.ETIMEDOUT, "slow")):
        with pytest.raises(type(failure)), disk.disk_errors("anywhere"):
            raise failure


def test_safetensors_really_tells_a_full_disk_in_words(tmp_path):
    """A limit on the size of files stands in for a full disk."""
    code = (
        "import pathlib, signal, sys, resource, torch\n"
        "from safetensors.torch import save_file\n"
        "from hypergen import disk\n"
        "write = lambda folder: save_file({'a': torch.zeros(9999)}, folder / 'a')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))\n"
        "try: disk.publish(pathlib.Path(sys.argv[1]), write)\n"
        "except disk.DiskError as error: print(error)"
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
        disk.publish(tmp_path / "new", write)
    finally:
        os.umask(former)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert all(mode == (0o777 if path.is_dir() else 0o666) & ~umask for path, mode in modes.items())


def test_what_would_not_fit_is_not_started(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    disk.check_space(tmp_path, 10)
    with pytest.raises(DiskError, match=rf"^{tmp_path}: {2 * free:,} bytes are needed .*, [\d,]+ are free$"):
        disk.check_space(tmp_path, 2 * free)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_of_a_moment_is_tried_once_more(name, number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(disk, "SECONDS_TO_RETRY", 0.0)
    with failing(name, 1, number):
        disk.publish(tmp_path / "new", write_two)
    disk.check_manifest(tmp_path / "new")
    assert capsys.readouterr().err == f"hypergen: {os.strerror(number)}; trying once more\n"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_is_replaced_comes_back_when_the_new_one_cannot_be_named(tmp_path):
    disk.publish(tmp_path / "one", write_two)
    before = tree(tmp_path)
    with failing("replace", 2), pytest.raises(DiskError):
        disk.publish(tmp_path / "one", write_two)
    assert tree(tmp_path) == before


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_manifest(change):
    def damage(folder):
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(change(manifest)))

    return damage


DAMAGES = {
    "flipped bit": lambda folder: flip(folder / "a.txt"),
    "truncated": lambda folder: (folder / "deep" / "b.txt").write_text(""),
    "missing file": lambda folder: (folder / "a.txt").unlink(),
    "a folder in its place": lambda folder: ((folder / "a.txt").unlink(), (folder / "a.txt").mkdir()),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "not JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "not UTF-8": lambda folder: (folder / "manifest.json").write_bytes(b"\xff"),
    "deep JSON": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "huge number": lambda folder: (folder / "manifest.json").write_text("1" * 5000),
    "a list": edit_manifest(lambda manifest: [1]),
    "newer format": edit_manifest(lambda manifest: manifest | {"format": 2}),
    "no format": edit_manifest(lambda manifest: {"files": {}}),
    "files a number": edit_manifest(lambda manifest: manifest | {"files": 3}),
    "entry a number": edit_manifest(lambda manifest: manifest | {"files": {"a.txt": 3}}),
    "entry without hash": edit_manifest(lambda manifest: manifest | {"files": {"a.txt": {"bytes": 1}}}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_the_manifest_finds_damage(damage, tmp_path):
    disk.publish(tmp_path / "new", write_two)
    damage(tmp_path / "new")
    with pytest.raises(CheckpointError) as error:
        disk.check_manifest(tmp_path / "new")
    assert str(tmp_path / "new") in str(error.value) and "\n" not in str(error.value)
