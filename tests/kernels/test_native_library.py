"""Compiling native code: once, whole or not at all, and silent where it cannot be had.

Alone: pytest tests/kernels/test_native_library.py
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hypergen.kernels import native_library
from hypergen.kernels.native_library import NativeError, load_native_library, why_unavailable
from tests.kernels.packed import needs_compiler
from tests.storage.faulty_disk import flip


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_a_compiler_that_fails_leaves_nothing(empty_cache, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(NativeError, match=compiler):
        native_library._load()
    assert made(empty_cache) == []


def made(cache):
    """What lies in the folder of the libraries."""
    return [path for folder in cache.iterdir() for path in folder.iterdir()]


@pytest.fixture
def small_source(empty_cache, monkeypatch, tmp_path):
    """As many functions, which compile in a moment; gives the folder of the libraries."""
    names = ("lanes", "decode_step", "sample_tokens", "cross_entropy", "sharpness")
    text = "".join(f'extern "C" long {name}() {{ return 7; }}\n' for name in names)
    (tmp_path / "small.cpp").write_text(text)
    monkeypatch.setattr(native_library, "SOURCE", tmp_path / "small.cpp")
    monkeypatch.setattr(native_library, "OPTIONS", ("-shared", "-fPIC"))
    return empty_cache


def script(folder, text):
    """A compiler of one's own."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_a_compiler_that_hangs_is_given_up_with_its_children(empty_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", script(tmp_path, f"sleep 60 & echo $! > {tmp_path / 'child'}\nwait"))
    monkeypatch.setattr(native_library, "SECONDS_IDLE", 0.5)
    with pytest.raises(NativeError, match=r"compiler: not done after [1-9]\d? s"):
        native_library._load()
    assert made(empty_cache) == []
    child = Path("/proc") / (tmp_path / "child").read_text().strip() / "stat"
    assert not child.exists() or child.read_text().split()[2] in "ZX"


def test_no_wait_for_a_compiler_that_does_nothing_is_longer_than_half_a_minute():
    assert native_library.SECONDS_IDLE + native_library.SECONDS_BETWEEN_LOOKS < 30


def test_a_compiler_that_works_is_waited_for(empty_cache, monkeypatch, tmp_path):
    """On a busy machine it takes long; this one works in a child, and then fails."""
    loop = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    monkeypatch.setenv("CXX", script(tmp_path, f"sh -c '{loop}'\nsh -c '{loop}'\necho done >&2; exit 1"))
    monkeypatch.setattr(native_library, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(native_library, "SECONDS_IDLE", 5.0)
    with pytest.raises(NativeError, match=r"compiler: done$"):
        native_library._load()


def test_no_compiler_is_waited_for_without_end(empty_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", script(tmp_path, "while :; do :; done"))
    monkeypatch.setattr(native_library, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 1.0)
    with pytest.raises(NativeError, match=r"compiler: not done after \d+ s"):
        native_library._load()


def test_a_message_that_is_no_utf8_is_one_line(empty_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", script(tmp_path, r"printf '\351\377 broken\nmore' >&2; exit 3"))
    with pytest.raises(NativeError, match=r"compiler: .* broken$"):
        native_library._load()


@needs_compiler
def test_a_library_without_its_functions_is_one_line(empty_cache, monkeypatch, tmp_path):
    (tmp_path / "empty.cpp").write_text("")
    monkeypatch.setattr(native_library, "SOURCE", tmp_path / "empty.cpp")
    assert load_native_library() is None
    assert why_unavailable().startswith("the compiled library lacks a function (")


@needs_compiler
def test_it_is_compiled_once(small_source, monkeypatch):
    native_library._load()
    (library,) = made(small_source)
    monkeypatch.setattr(subprocess, "Popen", lambda *given, **options: pytest.fail("compiled again"))
    native_library._load()
    assert library.suffix == ".so" and library.parent.stat().st_mode & 0o777 == 0o700


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "a flipped bit": flip,
    "others may write": lambda path: path.chmod(0o777),
    "a link": lambda path: (path.rename(path.with_suffix(".other")), path.symlink_to(path.with_suffix(".other"))),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@needs_compiler
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_built_again(damage, small_source):
    """In place of a crash at every start."""
    assert native_library._load().lanes() == 7
    (library,) = made(small_source)
    os.replace(
        shutil.copy2(library, library.with_suffix(".copy")), library
    )  # this process has the former one in memory
    DAMAGES[damage](library)
    assert native_library._load().lanes() == 7
    (again,) = (path for path in made(small_source) if path.suffix == ".so")
    assert again.is_file() and not again.is_symlink() and again.stat().st_size > 1000


@needs_compiler
def test_a_library_of_somebody_else_is_not_loaded(small_source, monkeypatch):
    """Whether it lies in a folder that others can write, or the folder is theirs."""
    native_library._load()
    (library,) = made(small_source)
    library.parent.chmod(0o777)
    with pytest.raises(NativeError, match=r"others can write into this folder"):
        native_library._load()
    library.parent.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    library.parent.rename(library.parent.with_name("native-12345"))
    with pytest.raises(NativeError, match=r"native-12345: others can write into this folder"):
        native_library._load()


@needs_compiler
def test_a_library_that_loads_has_no_reason_against_it(capfd):
    assert load_native_library() is not None and why_unavailable() is None
    assert load_native_library().lanes() in (4, 8, 16)
    assert capfd.readouterr() == ("", "")


def test_the_reason_is_found_once_and_nothing_is_printed(empty_cache, monkeypatch, capfd):
    tried = []

    def fail():
        tried.append(1)
        raise NativeError("the disk is full")

    monkeypatch.setattr(native_library.sys, "platform", "linux")
    monkeypatch.setattr(native_library, "_load", fail)
    for _ in range(2):
        assert load_native_library() is None and why_unavailable() == "the disk is full"
    assert len(tried) == 1 and capfd.readouterr() == ("", "")


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_elsewhere_there_is_neither_library_nor_reason(empty_cache, monkeypatch, system):
    monkeypatch.setattr(native_library.sys, "platform", system)
    monkeypatch.setattr(native_library, "_load", lambda: pytest.fail("compiled"))
    assert load_native_library() is None and why_unavailable() is None
