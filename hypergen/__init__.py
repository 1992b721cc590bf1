"""Hyperfit and decode autoregressive models of text and images.

    import hypergen
    run = hypergen.fit(modality="image")
    run.grid(rows=8).show()

The public names are these; they are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hypergen.runtime.dependencies import require_versions
from hypergen.version import __version__ as __version__

if TYPE_CHECKING:
    from hypergen.api import evaluate as evaluate
    from hypergen.api import fit as fit
    from hypergen.api import generate as generate
    from hypergen.api import load as load
    from hypergen.api import pretrain as pretrain
    from hypergen.config import DecodingConfig as DecodingConfig
    from hypergen.config import EvaluateConfig as EvaluateConfig
    from hypergen.config import ExportConfig as ExportConfig
    from hypergen.config import FitConfig as FitConfig
    from hypergen.config import PretrainConfig as PretrainConfig
    from hypergen.errors import HypergenError as HypergenError
    from hypergen.errors import InputError as InputError
    from hypergen.errors import Interrupted as Interrupted
    from hypergen.evaluation.comparison import Comparison as Comparison
    from hypergen.registry import register_modality as register_modality
    from hypergen.run import Run as Run
    from hypergen.text.citation_processor import CitationProcessor as CitationProcessor

_HOMES = {
    "fit": "api",
    "pretrain": "api",
    "load": "api",
    "generate": "api",
    "evaluate": "api",
    "register_modality": "registry",
    "CitationProcessor": "text.citation_processor",
    "Run": "run",
    "Comparison": "evaluation.comparison",
    "FitConfig": "config",
    "PretrainConfig": "config",
    "EvaluateConfig": "config",
    "ExportConfig": "config",
    "DecodingConfig": "config",
    "HypergenError": "errors",
    "InputError": "errors",
    "Interrupted": "errors",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name == "testing":  # a module, for tests
        return importlib.import_module("hypergen.testing")
    if name not in _HOMES:
        raise AttributeError(f"module 'hypergen' has no attribute '{name}'")
    require_versions()
    return getattr(importlib.import_module(f"hypergen.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*_HOMES, "__version__"]
