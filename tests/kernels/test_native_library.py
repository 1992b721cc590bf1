"""Compiling native code: once, whole or not at all, and silent where it cannot be had.

Alone: pytest tests/kernels/test_native_library.py
"""

import subprocess

import pytest

from hypergen.kernels import native_library
from hypergen.kernels.native_library import NativeError, load_native_library, why_unavailable
from tests.kernels.packed import needs_compiler


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler"])
def test_a_compiler_that_fails_leaves_nothing(empty_cache, monkeypatch, compiler):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(NativeError, match=compiler):
        native_library._load()
    assert list(empty_cache.iterdir()) == []


def test_a_compiler_that_hangs_is_given_up(empty_cache, monkeypatch, tmp_path):
    compiler = tmp_path / "hangs"
    compiler.write_text("#!/bin/sh\nexec sleep 60\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(native_library, "SECONDS_TO_COMPILE", 0.2)
    with pytest.raises(NativeError, match=r"hangs: not done after 0\.2 s"):
        native_library._load()
    assert list(empty_cache.iterdir()) == []


@needs_compiler
def test_it_is_compiled_once(empty_cache, monkeypatch):
    native_library._load()
    (made,) = empty_cache.iterdir()
    monkeypatch.setattr(subprocess, "run", lambda *given, **options: pytest.fail("compiled again"))
    native_library._load()
    assert made.suffix == ".so" and empty_cache.stat().st_mode & 0o777 == 0o700


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
