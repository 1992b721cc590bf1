"""The saved states of a training: `step-N/` folders of safetensors and JSON, each with a manifest.

A checkpoint counts only when its manifest holds and it is what its name says; otherwise the one before it is taken.
Older ones are removed after a newer one is whole.
Does not know: what is trained, who may write (`run`), how a folder is published (`disk`).
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hypergen.disk import check_manifest, publish
from hypergen.errors import CheckpointError, InputError, NonFiniteError
from hypergen.report_table import printable
from hypergen.signals import SignalWatch
from hypergen.training_state import State

KEPT = 2
TENSORS, NUMBERS = "state.safetensors", "state.json"
COUNTS = ("step", "epoch_loss", "micro_batch_size", "precision")  # of a state, beside its tensors


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The states of one training, and the signals on which one must be saved."""

    folder: Path
    """Holds `step-N/`."""
    facts: dict[str, Any]
    """Must be equal when the training goes on, by option."""
    machine: dict[str, Any]
    """Of what the bits depend on; told when it differs."""
    resume: bool
    signals: SignalWatch

    def part(self, name: str, facts: dict[str, Any]) -> Checkpoints:
        """Those of a training before the main one, with more facts."""
        return replace(self, folder=self.folder / name, facts=self.facts | facts)

    def save(self, state: State) -> None:
        """Publish `step-N`, then remove older ones.

        Raises:
            NonFiniteError: a tensor of the state is not finite.
            DiskError: there is no room; the checkpoints before are untouched.
        """
        broken = _not_finite(state)
        if broken is not None:
            raise NonFiniteError(f"step {state.step}: {broken} is not finite; the checkpoints before it are kept")
        publish(self.folder / f"step-{state.step}", lambda temporary: self._write(temporary, state))
        kept = [path for path in self._found() if _step(path) <= state.step][:KEPT]
        for path in self._found():
            if path not in kept:  # older, or later and damaged: this state came from an earlier one
                shutil.rmtree(path, ignore_errors=True)

    def newest(self) -> State | None:
        """The newest whole checkpoint; None when there is none at all, or nothing is to be resumed.

        Raises:
            CheckpointError: there are checkpoints and none is whole.
            InputError: the training was started with other options.
        """
        checkpoints = self._found() if self.resume else []
        for checkpoint in checkpoints:
            try:
                state, numbers = _read(checkpoint)
            except CheckpointError as error:
                print(f"hypergen: skipping a damaged checkpoint: {printable(str(error))}", file=sys.stderr)
                continue
            self._compare(numbers)
            return state
        if checkpoints:
            raise CheckpointError(f"{self.folder}: none of its {len(checkpoints)} checkpoints is whole")
        return None

    def _write(self, temporary: Path, state: State) -> None:
        save_file({name: value.contiguous() for name, value in state.tensors.items()}, temporary / TENSORS)
        numbers = {name: getattr(state, name) for name in COUNTS} | {"facts": self.facts, "machine": self.machine}
        (temporary / NUMBERS).write_text(json.dumps(numbers, indent=1))

    def _compare(self, numbers: dict[str, Any]) -> None:
        for name, value in json.loads(json.dumps(self.facts)).items():
            stored = numbers["facts"].get(name)
            if stored != value:
                raise InputError(f"--resume: {self.folder} was started with {name} {stored}, not {value}")
        tell_changes("--resume", numbers["machine"], self.machine)

    def _found(self) -> list[Path]:
        """Newest first."""
        found = [path for path in self.folder.glob("step-*") if path.name[5:].isdecimal()]
        return sorted(found, key=_step, reverse=True)


def tell_changes(where: str, former: dict[str, Any], machine: dict[str, Any]) -> None:
    """One line where a job goes on on another machine than it began on, so that its last bits may differ."""
    changes = [f"{name} {former.get(name)} -> {new}" for name, new in machine.items() if former.get(name) != new]
    if changes:
        print(f"hypergen: {printable(f'{where}: not bit for bit: ' + ', '.join(changes))}", file=sys.stderr)


def _read(checkpoint: Path) -> tuple[State, dict[str, Any]]:
    if not {TENSORS, NUMBERS} <= check_manifest(checkpoint):
        raise CheckpointError(f"{checkpoint}: its manifest does not list {TENSORS} and {NUMBERS}")
    try:
        numbers = json.loads((checkpoint / NUMBERS).read_text())
        state = State(**{name: numbers[name] for name in COUNTS}, tensors=load_file(checkpoint / TENSORS))
        if not isinstance(numbers["facts"], dict) or not isinstance(numbers["machine"], dict):
            raise TypeError("facts")
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint}: is not a checkpoint of hypergen") from error
    if state.step != _step(checkpoint):
        raise CheckpointError(f"{checkpoint}: holds step {state.step}")
    if (broken := _not_finite(state)) is not None:
        raise CheckpointError(f"{checkpoint / TENSORS}: {broken} is not finite")
    return state, numbers


def _not_finite(state: State) -> str | None:
    tensors = ((name, value) for name, value in state.tensors.items() if value.is_floating_point())
    return next((name for name, value in tensors if not bool(value.isfinite().all())), None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name[5:])
