"""Put a model into evaluation mode or training mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypergen.modality import Module


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Set evaluation mode inside and restore the former mode after it, whatever is raised there.

    A signal arrives as an exception in the middle of decoding, and the caller's model must not stay changed.
    """
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def training(model: Module) -> Iterator[None]:
    """Set training mode inside and evaluation mode after it, whatever is raised there.

    A trained model is decoded next; one whose training was interrupted must not stay half in training.
    """
    model.train()
    try:
        yield
    finally:
        model.eval()
