"""Save and read the states of a training: `step-N/` folders of safetensors and JSON, each with a manifest.

A checkpoint is valid when it matches its manifest and holds the step that its name says; otherwise the one before it is
taken. Older ones are removed once a newer one is complete.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hypergen.errors import CheckpointError, InputError, NonFiniteError
from hypergen.runtime.console import warn
from hypergen.runtime.devices import warn_about_changes
from hypergen.runtime.signals import SignalWatch
from hypergen.storage.atomic import publish
from hypergen.storage.file_names import STATE_NUMBERS, STATE_TENSORS
from hypergen.storage.manifest import check_manifest
from hypergen.storage.run_record import HELD_OUT
from hypergen.training.parameters import TRAINED
from hypergen.training.plan import TrainingHooks
from hypergen.training.state import State

KEPT = 2
NEWER_COUNTS = {"epoch_correct": 0}  # what an older checkpoint does not have, with what is taken for it
NEWER_FACTS = (TRAINED, HELD_OUT)  # what an older checkpoint does not say is not compared
PREFIX = "step-"
COUNTS = ("step", "epoch_loss", "epoch_correct", "micro_batch_size", "precision")  # of a state, beside its tensors


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Hold the states of one training, and the signals on which one must be saved."""

    folder: Path
    """Holds `step-N/`."""
    facts: dict[str, Any]
    """Values by name that must be equal when the training continues."""
    machine: dict[str, Any]
    """The parts of it that the last bits depend on; a difference is a warning."""
    resume: bool
    """Whether to continue; otherwise nothing is read."""
    signals: SignalWatch

    def part(self, name: str, facts: dict[str, Any]) -> Checkpoints:
        """Select the checkpoints of one training, in a folder of its own and with more facts."""
        return replace(self, folder=self.folder / name, facts=self.facts | facts)

    def hooks(self) -> TrainingHooks:
        """Connect a training with its newest state and with the signals; the process that writes adds `save`."""
        return TrainingHooks(state=self.newest(), stop_signal=self.stop_signal, whole_steps=self.whole_steps)

    def stop_signal(self) -> int | None:
        """Return the number of a signal that has arrived."""
        return self.signals.number()

    def whole_steps(self) -> AbstractContextManager[None]:
        """Only note signals inside the context, so that a step is never cut in two."""
        return self.signals.noting()

    def save(self, state: State) -> None:
        """Publish `step-N`, then remove older ones.

        Raises:
            NonFiniteError: a tensor of the state is not finite.
            DiskError: there is no room; the checkpoints before are untouched.
        """
        broken = _not_finite(state)
        if broken is not None:
            raise NonFiniteError(f"step {state.step}: {broken} is not finite; the checkpoints before it are kept")
        publish(self.folder / f"{PREFIX}{state.step}", lambda temporary: self._write(temporary, state))
        kept = [path for path in self._found() if _step(path) <= state.step][:KEPT]
        for path in self._found():
            if path not in kept:  # older, or later and damaged: this state came from an earlier one
                shutil.rmtree(path, ignore_errors=True)

    def newest(self) -> State | None:
        """Read the newest valid checkpoint; None when there is none at all, or nothing is to be resumed.

        Raises:
            CheckpointError: there are checkpoints and none is valid.
            InputError: the training was started with other options.
        """
        checkpoints = self._found() if self.resume else []
        for checkpoint in checkpoints:
            try:
                state, numbers = _read(checkpoint)
            except CheckpointError as error:
                warn(f"skipping a damaged checkpoint: {error}")
                continue
            self._compare(numbers)
            return state
        if checkpoints:
            raise CheckpointError(f"{self.folder}: none of its {len(checkpoints)} checkpoints is whole")
        return None

    def _write(self, temporary: Path, state: State) -> None:
        save_file({name: value.contiguous() for name, value in state.tensors.items()}, temporary / STATE_TENSORS)
        numbers = {name: getattr(state, name) for name in COUNTS} | {"facts": self.facts, "machine": self.machine}
        (temporary / STATE_NUMBERS).write_text(json.dumps(numbers, indent=1))

    def _compare(self, numbers: dict[str, Any]) -> None:
        for name, value in json.loads(json.dumps(self.facts)).items():
            stored = numbers["facts"].get(name)
            if stored != value and not (name in NEWER_FACTS and name not in numbers["facts"]):
                raise InputError(f"--resume: {self.folder} was started with {name} {stored}, not {value}")
        warn_about_changes("--resume", numbers["machine"], self.machine)

    def _found(self) -> list[Path]:
        """List the folders of checkpoints, newest first."""
        found = [path for path in self.folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
        return sorted(found, key=_step, reverse=True)


def _read(checkpoint: Path) -> tuple[State, dict[str, Any]]:
    """Read a state, and the numbers beside its tensors.

    Raises:
        CheckpointError: it is damaged, or not what its name says.
    """
    if not {STATE_TENSORS, STATE_NUMBERS} <= check_manifest(checkpoint, label="check the checkpoint (MB)"):
        raise CheckpointError(f"{checkpoint}: its manifest does not list {STATE_TENSORS} and {STATE_NUMBERS}")
    try:
        numbers = NEWER_COUNTS | (found := json.loads((checkpoint / STATE_NUMBERS).read_text()))
        state = State(**{name: numbers[name] for name in COUNTS}, tensors=load_file(checkpoint / STATE_TENSORS))
        if not isinstance(numbers["facts"], dict) or not isinstance(numbers["machine"], dict):
            raise TypeError("facts")
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint}: is not a checkpoint of hypergen") from error
    if state.step != _step(checkpoint):
        raise CheckpointError(f"{checkpoint}: holds step {state.step}")
    if (broken := _not_finite(state)) is not None:
        raise CheckpointError(f"{checkpoint / STATE_TENSORS}: {broken} is not finite")
    if not found.keys() >= NEWER_COUNTS.keys():
        warn(f"{checkpoint}: has no token accuracy; in the epoch that goes on, tokens before it count as wrong")
    return state, numbers


def _not_finite(state: State) -> str | None:
    """Find the first tensor with a value that is not finite; its name."""
    tensors = ((name, value) for name, value in state.tensors.items() if value.is_floating_point())
    return next((name for name, value in tensors if not bool(value.isfinite().all())), None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(PREFIX))
