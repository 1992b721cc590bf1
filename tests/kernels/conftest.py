"""Share packed models of every architecture, and an empty cache, among the tests of kernels."""

import pytest

from tests.kernels import packed as models


@pytest.fixture(params=models.MODULES)
def packed(request):
    """A packed model of each architecture."""
    return models.pack(models.new_module(request.param))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty folder for the compiled library, and nothing known of earlier attempts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    models.forget_native_library(monkeypatch)
    return tmp_path / "hypergen"
