"""Write help texts: the verbs with an example each, and the options of one verb by group.

Meanings are the lines below the fields of the dataclasses, read from their source; defaults are said in words. Plain
text, as wide as the terminal.
"""

from __future__ import annotations

import ast
import inspect
import shutil
import textwrap
from collections.abc import Collection, Iterable, Mapping
from functools import cache

from hypergen import registry
from hypergen.cli.arguments import Option

WIDEST = 100  # characters of a line
COLUMN = 26  # where meanings start
GROUPS = {  # in this order, after the examples; what stands nowhere belongs to the group of its dataclass
    "Data": "modality model data prompt prompts held_out skip_bad count baseline completions codec_from",
    "Recipe": "",
    "Decoding": "",
    "Comparison": "",
    "Model": "",
    "Output": "output format type resume checkpoint_every verify json quiet config",
    "Machine": "device precision micro_batch_size recompute native allow_pickle_weights",
}
GROUP_OF = {
    "PretrainConfig": "Model",
    "FitConfig": "Recipe",
    "GenerateConfig": "Decoding",
    "DecodingConfig": "Decoding",
    "EvaluateConfig": "Comparison",
}
OWN_GROUP = {  # (dataclass, field) that belongs elsewhere than its name or its dataclass says
    ("FitConfig", "prompts"): "Comparison",
    ("FitConfig", "held_out_samples"): "Comparison",
    ("FitConfig", "max_new_tokens"): "Comparison",
    ("FitConfig", "measure_every"): "Comparison",
    **{("PretrainConfig", name): "Recipe" for name in ("steps", "batch_size", "learning_rate", "seed")},
}
VALUES = {  # what stands for the value of an option
    "model": "BASE",
    "baseline": "BASE",
    "codec_from": "FOLDER",
    "data": "SOURCE",
    "prompts": "SOURCE",
    "held_out": "SOURCE",
    "output": "PATH",
    "config": "FILE",
    "completions": "FILE",
    "prompt": "TEXT",
}
KINDS = {int: "N", float: "X"}


def overview(verbs: Mapping[str, type], examples: Mapping[str, str]) -> str:
    """Write what `hypergen --help` shows: each verb, what it does, and an example."""
    lines = [
        "usage: hypergen COMMAND [options]",
        "",
        "Fine-tune a next-token model on few sequences until its training loss is near zero (hyperfitting), and",
        "compare what it writes before and after.",
        "",
    ]
    for name, verb in verbs.items():
        lines += [f"  {name:<{COLUMN - 14}}{_meaning_of(verb)}", f"{'':<{COLUMN - 12}}{examples[name]}", ""]
    return "\n".join([*lines, "hypergen COMMAND --help lists its options, hypergen --version prints the version."])


def help_of(name: str, verb: type, example: str, positional: str, options: Iterable[Option]) -> str:
    """Write the options of a verb, those that it reads, by group.

    Args:
        name: the verb.
        verb: its dataclass.
        example: a whole command.
        positional: RUN, [RUN] or nothing.
        options: all that it takes.
    """
    usage = " ".join(filter(None, ["usage: hypergen", name, positional, "[options]"]))
    lines = [usage, "", *_wrap(_meaning_of(verb)), "", f"  {example}"]
    if positional:
        lines += ["", *_entry("RUN", _meanings(verb)["run"])]
    shown = [one for one in options if name in one.field.metadata.get("verbs", (name,))]
    groups: dict[str, list[Option]] = {title: [] for title in GROUPS}
    for one in shown:
        groups.setdefault(_group(one), []).append(one)
    for title, some in groups.items():
        if some:
            lines += ["", title, *(line for one in some for line in _entry(_typed(one), _explained(one)))]
    return "\n".join([*lines, "", *_words({VALUES.get(one.field.name) for one in shown}, positional)])


def _group(option: Option) -> str:
    """Choose the group of an option; those of a modality have one of their own."""
    name, owner = option.field.name, option.owner.__name__
    for modality in registry.MODALITIES:
        if option.owner is registry.settings_class(modality):
            return f"Only of modality {modality}"
    by_name = next((title for title, names in GROUPS.items() if name in names.split()), None)
    return OWN_GROUP.get((owner, name)) or by_name or GROUP_OF.get(owner, "Output")


def _typed(option: Option) -> str:
    """Spell an option with what stands for its value; a switch that is on by the word that switches it off."""
    if option.takes == "nothing":
        return f"--no-{option.flag[2:]}" if option.field.default is True else option.flag
    return f"{option.flag} {_value(option)}{' ...' if option.takes == 'several' else ''}"


def _value(option: Option) -> str:
    """Choose what stands for the value of an option: its choices where they are short."""
    short = "|".join(option.choices)
    return VALUES.get(option.field.name) or KINDS.get(option.kind) or (short if 0 < len(short) <= 16 else "NAME")


def _explained(option: Option) -> str:
    """Say what an option means, and its default where that is a value."""
    meaning = _meanings(option.owner)[option.field.name].rstrip(".")
    if option.field.default is True:
        meaning = f"Do not {meaning[:1].lower()}{meaning[1:]}"
    return meaning + _default(option)


def _default(option: Option) -> str:
    """Say the default of an option as the end of its meaning; a meaning says what is meant by nothing."""
    if option.is_required:
        return ". Required."
    is_said = option.takes == "nothing" or option.field.default in (None, ())
    return "." if is_said else f"; {option.field.default} unless given."


def _words(values: Collection[str | None], positional: str) -> list[str]:
    """Say what SOURCE and BASE may be, where they stand for a value."""
    lines: list[str] = []
    if "SOURCE" in values:
        named = "; ".join(f"{name}: {registry.sources(name)}" for name in registry.MODALITIES)
        lines += _entry("SOURCE", f"{named}.")
    if "BASE" in values or positional:
        bases, suffixes = ", ".join(registry.all_named_bases()), " or ".join(registry.model_suffixes())
        lines += _entry("BASE", f"A name ({bases}), a folder, a {suffixes} file or a hub id.")
    return lines


def _entry(term: str, meaning: str) -> list[str]:
    """Set a term in the left column and its meaning in the right one, below it where the term is long."""
    head, lines = f"  {term}", _wrap(meaning, COLUMN)
    if len(head) < COLUMN:
        return [head.ljust(COLUMN) + lines[0].lstrip(), *lines[1:]]
    return [head, *lines]


def _wrap(text: str, indent: int = 0) -> list[str]:
    width = max(COLUMN + 30, min(WIDEST, shutil.get_terminal_size().columns))
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=" " * indent)


def _meaning_of(verb: type) -> str:
    return " ".join((verb.__doc__ or "").split())


@cache
def _meanings(owner: type) -> dict[str, str]:
    """Read the line below each field of a dataclass."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found
