"""States and the checkpoints of a run folder, for tests of what is saved."""

import torch

from hypergen.runtime.signals import SignalWatch
from hypergen.training.checkpoints import Checkpoints
from hypergen.training.state import State

FACTS = {"--epochs": 3, "--last-layers": None, "--betas": (0.9, 0.95)}
MACHINE = {"threads": 2, "torch": "2.14"}


def saved(folder, facts=FACTS, machine=MACHINE, resume=True):
    """The checkpoints of a run folder."""
    signals = SignalWatch()
    return Checkpoints(folder=folder / "checkpoints", facts=facts, machine=machine, resume=resume, signals=signals)


def state(step):
    return State(
        step=step, epoch_loss=0.1 * step, epoch_correct=3 * step, tensors={"weight.a": torch.arange(4.0) + step}
    )
