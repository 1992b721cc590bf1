"""One rule for the cache. Alone: pytest tests/runtime/test_cache_folder.py"""

from pathlib import Path

import pytest

from hypergen.runtime.cache_folder import cache_folder


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({"HYPERGEN_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/hypergen"),
        ({"HYPERGEN_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/hypergen"),
        ({}, "/home/me/.cache/hypergen"),
    ],
)
def test_the_user_names_it_or_it_is_the_usual_one(variables, expected, monkeypatch):
    for name in ("HYPERGEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": "/home/me"}).items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
