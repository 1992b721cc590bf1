"""Make the disk fail at a chosen call, and damage what lies on it. Helpers of several tests."""

import errno
import os
from contextlib import contextmanager

import pytest


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


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
