"""Count what survives a crash, a full disk and a changed file: hypergen's fault matrix, and two controls.

    python -m benchmarks.faults                     everything, in the root folder of the repository
    python -m benchmarks.faults --only trainer      some of hypergen, trainer, accelerate
    python -m benchmarks.faults --only hypergen --tests tests/faults/test_kills.py      some files of tests

hypergen's cases are the tests of `tests/faults`, each parameter one case. The controls are `transformers.Trainer` with
`get_last_checkpoint` and a loop around `accelerate`'s `save_state` and `load_state`, on a Llama of 2 blocks, with the
same faults at the same kinds of places. A control's case ends in one of four ways: `same` (resumed, the final weights
and optimizer state are those of the uninterrupted run, bit for bit), `different` (it ended without a word in other
ones), `error` (it refused to go on), `hang`. Only `same` counts as passed. Ends in `benchmarks/records/faults.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.fault_controls import CONTROLS, EPOCHS, SHORT_EPOCHS, STEPS_A_EPOCH, Control
from tests.faults.inject import WRITING, Fault

ROWS = {
    "a1": "SIGKILL at a random step",
    "a2": "SIGKILL at a use of the disk",
    "a3": "SIGKILL while the activation cache is built",
    "a4": "SIGTERM in training, cache, comparison, decoding, publication",
    "a5": "a second SIGINT",
    "a6": "five SIGKILLs in one run",
    "a7": "SIGKILL while prompts are continued",
    "a8": "resumed with other threads or torch",
    "a9": "one of two processes killed",
    "b1": "disk full at a write",
    "b2": "EIO or ESTALE once",
    "b3": "odd output folders",
    "b4": "modes of files under three umasks",
    "b5": "two fits at once in one folder",
    "b6": "the lock of a killed process",
    "b7": "read while it is published",
    "c1": "one flipped bit in a checkpoint",
    "c2": "a truncated file in a checkpoint",
    "c3": "a missing or swapped file in a checkpoint",
    "c4": "an edited manifest",
    "c5": "foreign tensors under a manifest that agrees",
    "d1": "bad texts",
    "d2": "bad pictures",
    "d3": "bad and unusual prompts",
    "d4": "bad options",
    "d5": "bad model folders",
    "d6": "bad ids",
    "e1": "a gradient that is not finite",
    "e3": "out of memory",
    "f": "hostile files",
    "g": "attacks from outside",
    "test_hostile": "control: the canary goes off where pickles are let in",
    "test_processes": "two processes: same steps as one, signals, launchers",
    "test_settings": "libraries older than the floors",
}
RECORDS = Path(__file__).parent / "records"


def main() -> None:
    """Run the cases of the command line, record and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["hypergen", *CONTROLS], default=["hypergen", *CONTROLS])
    parser.add_argument("--tests", nargs="+", default=["tests/faults"])
    arguments = parser.parse_args()
    path = RECORDS / "faults.json"
    record = json.loads(path.read_text()) if path.is_file() else {}
    for name in arguments.only:
        counts = hypergen_counts(arguments.tests) if name == "hypergen" else control_counts(name)
        record[name] = record.get(name, {}) | counts
        record["versions"] = {
            library: metadata.version(library) for library in ("torch", "transformers", "accelerate", "safetensors")
        }
        record["machine"] = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread"
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(markdown(record))


def hypergen_counts(tests: list[str]) -> dict[str, dict[str, int]]:
    """Count passed and failed cases of the tests by row; a skipped parameter is no case."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [sys.executable, "-m", "pytest", "-m", "faults or not faults", *tests, f"--junitxml={results}"]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
        counts: dict[str, Counter] = {}
        for case in ElementTree.parse(results).iter("testcase"):
            kinds = {child.tag for child in case}
            row = re.match(r"test_([a-e]\d|[fg])_", case.get("name", ""))
            if "skipped" not in kinds:
                name = row[1] if row else case.get("classname", "").rpartition(".")[2]
                counts.setdefault(name, Counter())["failed" if kinds & {"failure", "error"} else "passed"] += 1
    return {row: {"cases": number.total(), **number} for row, number in sorted(counts.items())}


def markdown(record: dict[str, Any]) -> str:
    """Print the matrix, one line a row that hypergen has."""
    lines = [
        "| | cases | hypergen | Trainer: cases, passed (rest) | accelerate: cases, passed (rest) |",
        "|---|---|---|---|---|",
    ]
    ours = record.get("hypergen", {})
    for row in [*ROWS, *(row for row in ours if row not in ROWS)]:
        cells = [_control_cell(record.get(name, {}).get(row)) for name in CONTROLS]
        if row in ours:
            lines.append(
                f"| {ROWS.get(row, row)} | {ours[row]['cases']} | {ours[row].get('passed', 0)} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def _control_cell(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "-"
    rest = ", ".join(f"{number} {name}" for name, number in counts.items() if name not in ("cases", "same"))
    return f"{counts['cases']}, {counts.get('same', 0)}" + (f" ({rest})" if rest else "")


def control_counts(name: str) -> dict[str, dict[str, int]]:
    """Count how the cases of a control end, by row."""
    with tempfile.TemporaryDirectory() as root:
        control = Control(name, Path(root))
        rows: dict[str, Iterable[str]] = {
            "a1": killed_at_steps(control, 20),
            "a2": struck(control, "kill", ()),
            "b1": struck(control, "ENOSPC", WRITING),
            "c1": damaged(control, 50, flip),
            "c2": damaged(control, 20, truncate),
            "c3": damaged(control, 10, lose),
        }
        counts = {}
        for row, outcomes in rows.items():
            number = Counter(outcomes)
            counts[row] = {"cases": number.total(), **number}
            print(f"{name} {row}: {counts[row]}", flush=True)
    return counts


def killed_at_steps(control: Control, count: int) -> Iterable[str]:
    """Kill at random steps, and resume."""
    draw = random.Random("a1")
    for _ in range(count):
        folder = control.new()
        control.run(folder, kill_after=draw.randint(1, EPOCHS * STEPS_A_EPOCH))
        yield control.resumed(folder)


def struck(control: Control, kind: str, only: tuple[str, ...]) -> Iterable[str]:
    """Put a fault at each use of the disk in turn, and resume."""
    for point in range(1, control.points(only) + 1):
        folder = control.new()
        control.run(folder, SHORT_EPOCHS, fault=Fault(kind, point, only=only))
        yield control.resumed(folder, SHORT_EPOCHS)


def damaged(control: Control, count: int, damage: Callable[[Path, random.Random], None]) -> Iterable[str]:
    """Kill at step 31, damage each file of the newest checkpoint in turn, and resume."""
    stopped, draw = control.new(), random.Random(damage.__name__)
    control.run(stopped, kill_after=31)
    for number in range(count):
        folder = control.new()
        shutil.copytree(stopped, folder)
        checkpoints = [path for path in folder.rglob("checkpoint*_*") if path.is_dir()]
        checkpoints += [path for path in folder.glob("checkpoint-*")]
        newest = max(checkpoints, key=lambda path: int(re.findall(r"\d+", path.name)[-1]))
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        damage(files[number % len(files)], draw)
        yield control.resumed(folder)


def flip(path: Path, draw: random.Random) -> None:
    """Flip one bit."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, draw: random.Random) -> None:
    """Cut a file off anywhere."""
    os.truncate(path, draw.randrange(path.stat().st_size))


def lose(path: Path, draw: random.Random) -> None:
    """Delete a file."""
    path.unlink()


if __name__ == "__main__":
    main()
