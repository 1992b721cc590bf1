"""Log epoch metrics to `metrics.jsonl`, and stop a training on them: `--max-overlap`.

Every epoch logs its training loss and token accuracy, and every `--measure-every` epochs the metrics of held-out
prompts. Diversity and overlap with the training set grow together, so a training can also end on the overlap: at the
first epoch whose greedy completions share longer runs with the training set, on average, than allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from hypergen.storage.metrics_log import append_metrics, read_metrics
from hypergen.training.plan import EpochMetrics


class Tracker(Protocol):
    """Shows the metrics of each epoch elsewhere, beside `metrics.jsonl`."""

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Report an epoch."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingMonitor:
    """Write the log of one training, and apply the rule that reads it."""

    folder: Path
    """The run folder."""
    quick_metrics: Callable[[], dict[str, float]] | None
    """Computes the held-out metrics (`Comparison.quick_metrics`); none where there is nothing to compute."""
    every: int
    """Epochs between held-out metrics; 0: never."""
    max_overlap: float | None
    """Tokens, mean over the held-out completions; none: no such rule."""
    trackers: Sequence[Tracker] = ()
    """Told of each epoch, too."""

    def on_epoch(self, epoch: int, training: EpochMetrics) -> None:
        """Log an epoch."""
        metrics = training._asdict() | self._held_out_metrics(epoch)
        append_metrics(self.folder, {"epoch": epoch} | metrics)
        for tracker in self.trackers:
            tracker.log(epoch, metrics)

    def stop_rule(self, epoch: int) -> Literal["overlap"] | None:
        """Compare an epoch's overlap with the limit; read from the log, so that a resumed training stops again."""
        if self.max_overlap is None:
            return None
        overlaps = [row.get("overlap_mean", 0.0) for row in read_metrics(self.folder) if row["epoch"] == epoch]
        return "overlap" if overlaps and overlaps[-1] > self.max_overlap else None

    def _held_out_metrics(self, epoch: int) -> dict[str, float]:
        is_due = self.every > 0 and epoch % self.every == 0
        return self.quick_metrics() if self.quick_metrics is not None and is_due else {}
