"""What changes from epoch to epoch, in `metrics.jsonl`: training loss and, every so often, a look at held-out prompts.

Diversity and overlap with the training set grow together, so training can also end on the overlap: `--max-overlap`
stops at the first look at which greedy completions share longer runs with the training set, on average, than allowed.
Does not know: training, what a token means, how a look is taken (`Comparison.glance`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypergen import run


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Writes the log of one training."""

    folder: Path
    glance: Callable[[], dict[str, float]] | None = None
    """`Comparison.glance`; none where there is nothing to look at."""
    every: int = 1
    """Epochs between looks; 0: none."""
    max_overlap: float | None = None
    """Tokens, mean over the completions looked at; none: no such rule."""

    def on_epoch(self, epoch: int, loss: float) -> None:
        run.log(self.folder, {"epoch": epoch, "loss": loss} | self._look(epoch))

    def stop_rule(self, epoch: int) -> Literal["overlap"] | None:
        """From the log, so that a training that goes on from its end stops again."""
        if self.max_overlap is None:
            return None
        overlaps = [row.get("overlap_mean", 0.0) for row in run.read_log(self.folder) if row["epoch"] == epoch]
        return "overlap" if overlaps and overlaps[-1] > self.max_overlap else None

    def _look(self, epoch: int) -> dict[str, float]:
        is_due = self.every > 0 and epoch % self.every == 0
        return self.glance() if self.glance is not None and is_due else {}
