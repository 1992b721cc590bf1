"""Measure speed beside the tools of today, on the same ids: decoding, training, blocking, sampling.

    python benchmarks/speed.py --preset cpu                 # embedded bases, a quarter of an hour on 2 quiet cores
    python benchmarks/speed.py --preset cpu --rows R1 R4    # some rows
    python benchmarks/speed.py --preset gpu                 # GPT-2-, TinyLlama- and ImageGPT-sized random weights

Every row runs in a process of its own and ends in `benchmarks/records/speed-PRESET.json`; rows not asked for stay as
they are there. Protocol and control: `paired_timing.py`. Peak memory is that of a process that runs one side only.
Peers are used as their documentation says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import speed_models
import speed_rows
import torch
import transformers

from hypergen.runtime.devices import has_bf16_units

RECORDS = Path(__file__).parent / "records"


def main() -> None:
    """Measure the rows of the command line, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu", choices=speed_models.PRESETS)
    parser.add_argument("--rows", nargs="+", default=list(speed_rows.ROWS), choices=speed_rows.ROWS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--table", action="store_true", help="print what is recorded, measure nothing")
    parser.add_argument(
        "--one", choices=("both", "ours", "theirs"), help=argparse.SUPPRESS
    )  # what a child process does
    arguments = parser.parse_args()
    preset = speed_models.PRESETS[arguments.preset]
    if arguments.one:
        print(json.dumps(_in_this_process(arguments.rows[0], preset, arguments.rounds, arguments.one)))
        return
    path = RECORDS / f"speed-{arguments.preset}.json"
    records = json.loads(path.read_text())["rows"] if path.exists() else {}
    if arguments.table:
        print(table(records))
        return
    for row in arguments.rows:
        records[row] = [_child(arguments.preset, row, arguments.rounds, "both")]
        sides = {side: _child(arguments.preset, row, 1, side) for side in ("ours", "theirs")}
        records[row] = records[row][0]["cases"] + [{"name": "peak memory", **sides}]
        path.write_text(json.dumps({"machine": _machine(), "rows": records}, indent=1) + "\n")
        print(table({row: records[row]}), flush=True)


def table(records: dict[str, list[dict[str, Any]]]) -> str:
    """Print the cases as Markdown; a refused ratio stays empty."""
    lines = [
        "| row | case | ratio [95 %] | ours | theirs | same result | control | of the roofline |",
        "|---|---|--:|--:|--:|---|--:|--:|",
    ]
    for row, cases in records.items():
        for case in cases:
            lines.append("| " + " | ".join((row, case["name"], *_cells(case))) + " |")
    return "\n".join(lines)


def _cells(case: dict[str, Any]) -> tuple[str, ...]:
    if "ours" in case:  # memory
        ours, theirs = (f"{case[side]['peak_mb']:.0f} MB" for side in ("ours", "theirs"))
        return "", ours, theirs, "", "", ""
    ratio = (
        f"{case['ratio']:.2f} [{case['low']:.2f}, {case['high']:.2f}]" if "ratio" in case else case.get("refused", "")
    )
    ours, theirs = (f"{case[name]:,.0f} {case['unit']}" if case.get(name) else "" for name in ("rate", "their_rate"))
    roofline = f"{case['roofline']:.0%}" if "roofline" in case else ""
    control = f"{case['control']:.3f}" if "control" in case else ""
    return ratio, ours, theirs, str(case.get("same", "")), control, roofline


def _child(preset: str, row: str, rounds: int, side: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--preset", preset, "--rows", row, "--rounds", str(rounds), "--one", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _in_this_process(row: str, preset: speed_models.Preset, rounds: int, side: str) -> dict[str, Any]:
    cases = speed_rows.ROWS[row](preset, rounds, side)
    scale = 1024 if sys.platform == "linux" else 1024**2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"cases": cases, "peak_mb": peak} if side == "both" else {"peak_mb": peak}


def _machine() -> dict[str, Any]:
    return {
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "bf16_units": has_bf16_units(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
