"""Say in plain words whether a run is hyperfitted, what it quotes, and what the intervals show.

One rule, with the thresholds of `config`: *hyperfitted* where the repetition of greedy decoding lies wholly below the
base's, its mean is at most half of it, and the training loss fell below half of its start; *worse* where it lies wholly
above; else *not hyperfitted*. An adapter may mark the metric that it is about among its own; else it is rep-4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Literal

from hypergen.config import CITATION_LENGTH, LONG_OVERLAP, MOST_LOSS, MOST_REPETITION
from hypergen.report.columns import Columns, Record, Records, part_of, title_of
from hypergen.report.table import interval_text, mean_text

OURS = "hyperfitted greedy"  # names of rows in records, which `evaluation.baselines` takes from here
BASE_GREEDY, BASE_TOP_P = OTHERS = "base greedy", "base top-p"
ORIGINAL = "original"  # the held-out examples themselves
LONGEST_QUOTE = 160  # characters of a quoted text that a sentence shows
HYPERFITTED = "hyperfitted"  # how the names of a run's rows begin

Outcome = Literal["hyperfitted", "not hyperfitted", "worse"]


@dataclass(frozen=True, kw_only=True)
class Quotation:
    """Hold how much of the training set a run's greedy completions recite."""

    recited: int
    """Completions with a run of more than `config.LONG_OVERLAP` tokens that a training sequence has, too."""
    of: int
    """Completions."""
    longest: int
    """The longest such run of any, in tokens."""
    length: int
    """Tokens of a completion."""
    example: int
    """The completion that has it, counted from 1."""
    text: str | None = None
    """What it quotes; None where that is no text."""
    known_originals: int = 0
    """Held-out originals that stand in the training set from end to end."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Hold what a comparison says of a run; `str()` gives its sentences, a line each."""

    outcome: Outcome
    sentences: tuple[str, ...]
    """What came of it, and what it lacks; then what is quoted, where anything is."""

    def __str__(self) -> str:
        """Join the sentences."""
        return "\n".join(self.sentences)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Verdict | None:
        """Read the verdict that `hypergen.json` holds; None where there is none."""
        stored = record.get("verdict")
        if not isinstance(stored, Mapping):
            return None
        return cls(outcome=stored["outcome"], sentences=tuple(map(str, stored["sentences"])))

    def as_record(self) -> dict[str, Any]:
        """Return JSON values, as `of_record` reads them."""
        return {"outcome": self.outcome, "sentences": list(self.sentences)}


def judge(
    records: Records,
    columns: Columns,
    *,
    losses: tuple[float, float] | None,
    quotation: Quotation | None = None,
) -> Verdict | None:
    """Judge a run by its greedy row beside that of its base.

    Args:
        records: of the table.
        columns: which metric the verdict is about.
        losses: training loss of the first and of the last epoch, nats per token; None: unknown, and not judged.
        quotation: of the run's greedy completions; None: nobody looked.

    Returns:
        None where a row or its interval is missing.
    """
    rows, name = {str(record["name"]): record for record in records}, columns.judged(records)
    if OURS not in rows or name is None or not _can_judge(rows, BASE_GREEDY, name, columns):
        return None
    ours, base = rows[OURS], rows[BASE_GREEDY]
    missing = [*_missing_loss(losses), *_missing_repetition(ours["values"][name], base["values"][name])]
    if ours["values"][name]["low"] > base["values"][name]["high"]:
        missing = _missing_loss(losses) or ["a lower --learning-rate or more --num-samples may help"]
        outcome: Outcome = "worse"
    else:
        outcome = "not hyperfitted" if missing else "hyperfitted"
    changes = f"{_change(ours, base, name, columns)}{_loss_change(losses)}"
    first = f"{outcome.capitalize()}: {'; '.join([changes, *missing])}."
    return Verdict(outcome=outcome, sentences=(first, *_quotation_sentences(quotation)))


def shown_title(name: str, verdict: Verdict | None) -> str:
    """Title a row or column: the name that it has in records, unless that says of a run what the verdict does not."""
    if verdict is None or verdict.outcome == HYPERFITTED or not name.startswith(HYPERFITTED):
        return name
    return f"fine-tuned{name.removeprefix(HYPERFITTED)} ({verdict.outcome})"


def titled(records: Iterable[Record], verdict: Verdict | None) -> list[Record]:
    """Give the rows of a table the titles that follow the verdict; their names stay."""
    return [{**record, "title": shown_title(str(record["name"]), verdict)} for record in records]


def verdicts(records: Records, columns: Columns) -> list[str]:
    """Compare hyperfitted greedy with base greedy and base top-p, a sentence each, on the metric of `Columns.judged`.

    Nothing is said where a row or an interval is missing.
    """
    rows, name = {str(record["name"]): record for record in records}, columns.judged(records)
    if OURS not in rows or name is None:
        return []
    others = [other for other in OTHERS if _can_judge(rows, other, name, columns)]
    return [_comparison(rows[OURS], rows[other], name, columns) for other in others]


def _can_judge(rows: Mapping[str, Record], other: str, name: str, columns: Columns) -> bool:
    return all(row in rows and interval_text(rows[row], name, columns) for row in (OURS, other))


def _missing_loss(losses: tuple[float, float] | None) -> list[str]:
    """Say what the training loss lacks; nothing where it fell far enough or is unknown."""
    if losses is None or losses[1] < MOST_LOSS * losses[0]:
        return []
    if losses[1] > losses[0]:
        return ["that loss rose: a lower --learning-rate"]
    return [f"that loss must fall below {MOST_LOSS * losses[0]:.3f}: more --epochs or a higher --learning-rate"]


def _missing_repetition(ours: Mapping[str, float], base: Mapping[str, float]) -> list[str]:
    """Say what the repetition of greedy decoding lacks; nothing where it fell far enough."""
    if ours["mean"] > MOST_REPETITION * base["mean"]:
        return [f"it must repeat itself {_percent(MOST_REPETITION)} as much as the base or less"]
    if ours["high"] >= base["low"]:
        return ["the 95 % intervals overlap, so a difference is not shown: more --held-out-samples may show one"]
    return []


def _change(ours: Record, base: Record, name: str, columns: Columns) -> str:
    """Say how the judged metric changed: as a share in plain words where it has some, and with its head."""
    before, after = (part_of(row, name, "mean") or 0.0 for row in (base, ours))
    verb = "fell" if after < before else "rose" if after > before else "stayed,"
    metric = columns.metric(name)
    if metric.plain:
        return f"{metric.plain} {verb} from {_percent(before)} to {_percent(after)} ({metric.head}, greedy decoding)"
    return f"{metric.head} of greedy decoding {verb} from {mean_text(base, name, columns)} to " + mean_text(
        ours, name, columns
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def _loss_change(losses: tuple[float, float] | None) -> str:
    if losses is None:
        return ""
    return f", the training loss went from {losses[0]:.3f} in the first epoch to {losses[1]:.3f} in the last"


def _quotation_sentences(quotation: Quotation | None) -> list[str]:
    """Say how many completions recite the training set, the worst of them, and the cure; nothing where none does."""
    if quotation is None:
        return []
    sentences = []
    if quotation.recited:
        quoted = "" if quotation.text is None else f': "{shorten(quotation.text, LONGEST_QUOTE, placeholder=" ...")}"'
        sentences.append(
            f"Quotation: more than {LONG_OVERLAP} tokens in a row of a training sequence stand in "
            f"{quotation.recited} of {quotation.of} greedy completions, at worst {quotation.longest} of "
            f"{quotation.length} (example {quotation.example}){quoted}. --block-citations {CITATION_LENGTH} "
            "prevents it."
        )
    if quotation.known_originals:
        sentences.append(
            f"Known prompts: {quotation.known_originals} of {quotation.of} held-out originals stand in the training "
            "set; give other --prompts."
        )
    return sentences


def _comparison(ours: Record, other: Record, name: str, columns: Columns) -> str:
    own, theirs = ours["values"][name], other["values"][name]
    both = " and ".join(
        f"{title_of(row)} {mean_text(row, name, columns)} {interval_text(row, name, columns)}" for row in (ours, other)
    )
    if own["low"] <= theirs["high"] and theirs["low"] <= own["high"]:
        return f"{columns.head(name)}: {both}: the 95 % intervals overlap, so a difference is not shown."
    side = "lower" if own["mean"] < theirs["mean"] else "higher"
    return f"{columns.head(name)}: {both}: {side}, and the 95 % intervals do not overlap."
