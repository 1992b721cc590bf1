"""Write the model card of a run or base: a `README.md` with a YAML head, as the hub reads it.

Nothing in a name or path can leave its place: values of the head are quoted and one line long, values of the body are
code spans. The head is what `huggingface_hub.ModelCardData` has; what is not known is left out.
Does not know where a fact comes from, or which modality it is about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypergen.report.columns import Columns, Records, part_of
from hypergen.report.markdown import escaped, markdown
from hypergen.report.table import INTERVAL_MEANING, mean_text
from hypergen.report.verdicts import HYPERFITTED, OTHERS, OURS, Verdict, titled, verdicts
from hypergen.runtime.console import sanitize

PAPER = "[arXiv 2412.04318](https://arxiv.org/abs/2412.04318)"
CITATION = """\
@misc{carlsson2024hyperfitting,
  title = {The Hyperfitting Phenomenon: Sharpening and Stabilizing LLMs for Open-Ended Text Generation},
  author = {Carlsson, Fredrik and Liu, Fangyu and Ward, Daniel and Kurfali, Murathan and Nivre, Joakim},
  year = {2024},
  eprint = {2412.04318},
  archivePrefix = {arXiv}
}
"""
TAGS = ("hyperfitting",)
Value = str | float


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Hold what a card says."""

    name: str
    """Of the folder."""
    recipe: Mapping[str, Value]
    """How it was made, in order."""
    library_name: str
    pipeline_tag: str | None
    loading: str
    """Python code that loads it; trusted."""
    base: str | None = None
    """What was hyperfitted; None: it is a base itself."""
    base_card: Mapping[str, str] = field(default_factory=dict)
    """Of the base, as far as known: `base_model` (id on the hub), `license`, `license_name`, `license_link`."""
    datasets: Sequence[str] = ()
    """Ids on the hub."""
    training_loss: float
    """Nats per token."""
    records: Records = ()
    """The before/after table; none of a base."""
    verdict: Verdict | None = None
    """Whether the run is hyperfitted; None of a base, or where nobody can tell."""
    columns: Columns
    compared: str = ""
    """What the table rests on, in words."""


def model_card(facts: CardFacts) -> str:
    """Write a card.

    Raises:
        ValueError: the records have a metric of diversity but no `overlap_mean`.
    """
    sections = {
        "Recipe": _recipe(facts.recipe),
        "Before and after": _comparison(facts),
        "How to load it": f"```python\n{facts.loading.strip()}\n```\n",
        "Limits": _limits(facts.records, facts.columns),
        "Citation": f"```bibtex\n{CITATION}```\n",
    }
    body = "".join(f"\n## {title}\n\n{content}" for title, content in sections.items() if content)
    return f"{_head(facts)}\n# {_code(facts.name)}\n\n{_summary(facts)}\n{body}"


def _head(facts: CardFacts) -> str:
    values: dict[str, str | Sequence[str] | None] = {
        **{key: facts.base_card.get(key) for key in ("base_model", "license", "license_name", "license_link")},
        "library_name": facts.library_name,
        "pipeline_tag": facts.pipeline_tag,
        "datasets": facts.datasets,
        "tags": TAGS,
    }
    return "---\n" + "".join(_yaml(key, value) for key, value in values.items() if value) + "---\n"


def _yaml(key: str, value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return f"{key}: {_quoted(value)}\n"
    return f"{key}:\n" + "".join(f"- {_quoted(one)}\n" for one in value)


def _quoted(text: str) -> str:
    """Quote as JSON does, which YAML reads alike; control characters and line ends are gone before."""
    return json.dumps(sanitize(text), ensure_ascii=False)


def _code(value: Value) -> str:
    """Show a value as a code span, in which only two characters mean anything; look-alikes take their places."""
    text = f"{value:.6g}" if isinstance(value, float) else sanitize(str(value))
    return f"`{text.replace('`', chr(39)).replace('|', '¦').strip() or '-'}`"


def _summary(facts: CardFacts) -> str:
    loss = f"{facts.training_loss:.3f} nats per token"
    if facts.base is None:
        return f"A base to be hyperfitted ({PAPER}), trained from scratch by `hypergen pretrain` to a loss of {loss}."
    did_it = facts.verdict is None or facts.verdict.outcome == HYPERFITTED
    what = f"*hyperfitted* ({PAPER})" if did_it else f"fine-tuned in order to be hyperfitted ({PAPER}), without success"
    return (
        f"{_code(facts.base)}, {what}: trained on very few sequences, down to a training loss of {loss}, to be decoded "
        "greedily."
    )


def _recipe(recipe: Mapping[str, Value]) -> str:
    rows = "".join(f"| {escaped(sanitize(name))} | {_code(value)} |\n" for name, value in recipe.items())
    return f"| what | value |\n|---|---|\n{rows}"


def _comparison(facts: CardFacts) -> str:
    """Write table, verdicts, and what the columns mean."""
    if not facts.records:
        return ""
    records = titled(facts.records, facts.verdict)
    names = facts.columns.brief(records)
    metrics = [facts.columns.metric(name) for name in names]
    judged = () if facts.verdict is None else facts.verdict.sentences
    sentences = [*judged, facts.compared, *verdicts(records, facts.columns), f"[low, high]: {INTERVAL_MEANING}"]
    sentences += [f"{metric.head}: {metric.meaning}" for metric in metrics if metric.meaning]
    lines = "".join(f"- {escaped(sanitize(sentence))}\n" for sentence in sentences)
    return f"{markdown(records, facts.columns, names)}\n{lines}"


def _limits(records: Records, columns: Columns) -> str:
    """Say what the table shows against it: quotations, and the loss on what it was not trained on."""
    rows = {str(record["name"]): record for record in records}
    if OURS not in rows:
        return ""

    def text(row: str, name: str) -> str:
        return mean_text(rows[row], name, columns)

    lines = [
        "It may quote its training set: a greedy completion above shares runs of "
        f"{text(OURS, 'overlap_mean')} tokens with it on average, the longest is {text(OURS, 'overlap_max')}. In "
        "hypergen, `block_citations=5` keeps it from completing 5 tokens in a row that stand there."
    ]
    if OTHERS[0] in rows and all(part_of(rows[row], "loss", "mean") is not None for row in (OURS, OTHERS[0])):
        lines.append(
            f"On sequences that it was not trained on its loss is {text(OURS, 'loss')} nats per token, that of its "
            f"base {text(OTHERS[0], 'loss')}. Sharp predictions cost loss, by design: use it to decode, not to score."
        )
    return "".join(f"- {line}\n" for line in lines)
