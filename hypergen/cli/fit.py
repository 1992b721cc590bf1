"""Show what came of `hypergen fit` on one screen: what was done, whether it worked, what it quotes, and what next."""

from __future__ import annotations

import shlex
from typing import Any

from hypergen import registry
from hypergen.publish import fit_command
from hypergen.report.columns import Columns
from hypergen.report.terminal import passage, terminal
from hypergen.report.verdicts import HYPERFITTED, titled
from hypergen.run import Run
from hypergen.runtime.console import sanitize
from hypergen.storage.file_names import FIGURE, REPORT


def show(run: Run) -> None:
    """Print the training, the verdict, one example, the table of it, the next two commands, and what was written."""
    print(_training(run.record))
    verdict, example = run.verdict, run.record.get("example")
    if verdict is not None:
        print("", *map(sanitize, verdict.sentences), "", sep="\n")
    if example is not None:
        passage("prompt", [(example["prompt"], False)])
        passage("before", example["before"])
        passage("after", example["after"])
        print("(the first example; in brackets: what the text has said before)\n")
    columns = Columns.of(registry.adapter(run.record["modality"]).METRICS)
    records = titled(run.records, verdict)
    names = columns.summary(records)
    terminal(records, columns, names, with_directions=True)
    print(*(f"{head}: {meaning}" for head, meaning in columns.meanings(records, names)), "", sep="\n")
    print(*(f"next: {command}" for command in next_commands(run)), sep="\n")
    pages = [*sorted(run.folder.glob(f"{FIGURE}.*")), run.folder / REPORT]
    print("wrote " + " and ".join(sanitize(str(page)) for page in pages))


def next_commands(run: Run) -> list[str]:
    """Choose two commands to go on with: use and judge the run, or train longer where it is not hyperfitted."""
    folder, verdict = shlex.quote(str(run.folder)), run.verdict
    if verdict is not None and verdict.outcome != HYPERFITTED:
        longer = fit_command(run.record, epochs=2 * run.record["config"]["epochs"])
        return [sanitize(longer), f"hypergen evaluate {sanitize(folder)}"]
    prompt = "" if run.record.get("example") is None else ' --prompt "Your own beginning"'
    return [f"hypergen generate {sanitize(folder)}{prompt}", f"hypergen evaluate {sanitize(folder)}"]


def _training(record: dict[str, Any]) -> str:
    """Say how the training ended; a target that it stopped short of is named."""
    training, target = record["training"], record["config"]["target_loss"]
    stopped = training["stopped_by"]
    short = f" (--target-loss {target:g} was not reached)" if stopped == "epochs" and training["loss"] > target else ""
    return (
        f"training loss {training['loss']:.3f}, token accuracy {training['accuracy']:.3f} after "
        f"{training['epochs']} epochs, stopped by {stopped}{short}, {training['tokens_per_second']:,.0f} tokens/s"
    )
