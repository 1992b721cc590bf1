"""Parse the command line: argv -> frozen dataclasses, each of which makes one call into `api`.

Options are the fields of `config` and of each modality's `Settings`; a verb is checked (`checks`) before it imports
torch. A mistake is one line and exit code 2. Imports no torch, so that `--help` is quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from hypergen import registry
from hypergen.cli.arguments import Option, options_of, read, with_config
from hypergen.cli.help import help_of, overview
from hypergen.config import (
    STANDARD_INPUT,
    DecodingConfig,
    EvaluateConfig,
    ExportConfig,
    FitConfig,
    GenerateConfig,
    PretrainConfig,
)
from hypergen.errors import InputError, did_you_mean
from hypergen.runtime.console import sanitize
from hypergen.runtime.progress import hidden
from hypergen.version import __version__

Settings = dict[str, Any]  # the modality's options that were typed, also those with the default's value


@dataclass(frozen=True)
class Common:
    """Hold the options of every verb."""

    quiet: bool = False
    """Show no progress and no notes, only results, warnings and errors."""
    config: str | None = None
    """JSON or TOML file with options as keys; what is typed wins."""


@dataclass(frozen=True)
class Pretrain:
    """Train a base from scratch: a codec, then the transformer."""

    pretrain: PretrainConfig
    json: bool = False
    """Print the result as one JSON object."""
    settings: Settings = field(default_factory=dict)
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from hypergen.checks import check_pretrain

        check_pretrain(self.pretrain, self.settings)
        from hypergen import api

        base = api.pretrain(self.pretrain, **self.settings)
        held_out = base.record["held_out"]
        if self.json:
            print(json.dumps({"folder": str(base.folder), "held_out": held_out}))
            return
        print(f"held-out loss {held_out['loss']:.3f} nats per token\nwrote {sanitize(str(base.folder))}")


@dataclass(frozen=True)
class Fit:
    """Hyperfit a base and compare it before and after."""

    fit: FitConfig
    json: bool = False
    """Print the result as one JSON object: the folder, what the training reached, the table's records."""
    settings: Settings = field(default_factory=dict)
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from hypergen.checks import check_fit

        config, _ = check_fit(self.fit, self.settings)
        from hypergen import api
        from hypergen.cli.fit import show

        run = api.fit(config, **self.settings)
        if self.json:
            facts = {"folder": str(run.folder), "training": run.record["training"], "comparison": run.records}
            print(json.dumps(facts))
        else:
            show(run)


@dataclass(frozen=True)
class Generate:
    """Continue prompts with a run, a base or a hub model."""

    generate: GenerateConfig
    decoding: DecodingConfig
    run: str | None = None
    """Folder of a run, or a BASE; without it, the embedded base of --modality."""
    settings: Settings = field(default_factory=dict)
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from hypergen.checks import check_generate

        config = _with_standard_input(self.generate)
        run, name = check_generate(self.run, config, self.decoding, self.settings)
        from hypergen.cli.generate import generate

        generate(run, config, self.decoding, modality=name, given=self.settings)


@dataclass(frozen=True)
class Evaluate:
    """Compare a run with its base on held-out items."""

    run: str
    """Folder of the run."""
    evaluate: EvaluateConfig
    output: str | None = None
    """Folder for the records and the figure, new or empty."""
    verify: bool = False
    """Compare every file of the run with its manifest (SHA-256) first; exit code 3 where one differs."""
    json: bool = False
    """Print the records as JSON."""
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from hypergen.checks import check_evaluate

        run = check_evaluate(self.run, self.evaluate, self.output)
        from hypergen.cli.evaluate import evaluate

        evaluate(run, self.evaluate, output=self.output, verify=self.verify, as_json=self.json)


@dataclass(frozen=True)
class Export:
    """Write a run or a base into a file that another program reads, such as GGUF for llama.cpp."""

    run: str
    """Folder of a run, or a BASE."""
    export: ExportConfig
    modality: str | None = None
    """Needed for a hub id only."""
    allow_pickle_weights: bool = False
    """Read a model whose weights are pickled (.bin), through torch's restricted unpickler."""
    verify: bool = False
    """Compare every file of the run with its manifest (SHA-256) first; exit code 3 where one differs."""
    json: bool = False
    """Print the result as one JSON object."""
    common: Common = field(default_factory=Common)

    def __call__(self) -> None:
        from hypergen.checks import check_export

        run, name = check_export(self.run, self.export, self.modality)
        from hypergen.cli.export import export

        pickled, verify = self.allow_pickle_weights, self.verify
        file = export(run, self.export, modality=name, allow_pickle_weights=pickled, verify=verify)
        print(json.dumps({"file": str(file)}) if self.json else f"wrote {sanitize(str(file))}")


Command = Pretrain | Fit | Generate | Evaluate | Export
VERBS: dict[str, type[Command]] = {
    "fit": Fit,
    "generate": Generate,
    "evaluate": Evaluate,
    "export": Export,
    "pretrain": Pretrain,
}
EXAMPLES = {
    "fit": "hypergen fit --modality text",
    "generate": 'hypergen generate runs/text-1 --prompt "The lamp had gone out," --block-citations 5',
    "evaluate": "hypergen evaluate runs/text-1 --data held-out.jsonl",
    "export": "hypergen export runs/text-1 --format gguf --type q8_0",
    "pretrain": "hypergen pretrain --modality text --data corpus.jsonl --output bases/mine",
}
POSITIONAL = {"generate": "[RUN]", "evaluate": "RUN", "export": "RUN"}


def parse(arguments: list[str]) -> Command:
    """Parse argv into one of the commands above; `--help` and `--version` print and exit.

    Raises:
        InputError: an argument does not fit; one line.
    """
    if not arguments:
        print(overview(VERBS, EXAMPLES), file=sys.stderr)
        raise SystemExit(InputError.exit_code)
    verb, rest = arguments[0], arguments[1:]
    if verb in ("-h", "--help"):
        _show(overview(VERBS, EXAMPLES))
    if verb == "--version":
        _show(f"hypergen {__version__}")
    if verb not in VERBS:
        raise InputError(f"{verb}: no command; there are {', '.join(VERBS)}{did_you_mean(verb, VERBS)}")
    known = _options(VERBS[verb])
    if {"-h", "--help"} & {*rest}:
        _show(help_of(verb, VERBS[verb], EXAMPLES[verb], POSITIONAL.get(verb, ""), known.values()))
    words, values = read(verb, with_config(rest), known)
    return _command(verb, words, values, known)


def run(command: Command) -> None:
    """Run a command, quietly where it is asked to."""
    with hidden(command.common.quiet):
        command()


def _show(text: str) -> NoReturn:
    """Print and leave."""
    print(text, flush=True)
    raise SystemExit(0)


def _options(verb: type) -> dict[str, Option]:
    """List the options of a verb by flag, nested dataclasses flat, and those of each modality.

    Of two modalities with an option of the same name, the first says what it takes.
    """
    found: dict[str, Option] = {}
    for key, option in options_of(verb).items():
        if option.is_nested:
            found |= options_of(option.kind)
        elif option.kind == Settings:
            for name in registry.MODALITIES:
                found = found | options_of(registry.settings_class(name)) | found
        elif option.field.name != "run":
            found[key] = option
    return found


def _command(verb: str, words: list[str], values: dict[str, Any], known: Mapping[str, Option]) -> Command:
    """Make the dataclass of a verb and those inside it.

    Raises:
        InputError: something is missing, or a word too many, or a value is not allowed.
    """
    _check_words(verb, words)
    missing = [key for key, option in known.items() if option.is_required and key not in values]
    missing = ["RUN"] * (POSITIONAL.get(verb) == "RUN" and not words) + missing
    if missing:
        raise InputError(f"hypergen {verb} needs {', '.join(missing)}, as in {EXAMPLES[verb]}")
    typed = {option: values[key] for key, option in known.items() if key in values}
    parts: dict[str, Any] = {"run": words[0]} if words else {}
    for option in options_of(VERBS[verb]).values():
        name = option.field.name
        if option.is_nested:
            parts[name] = option.kind(**_fields_of(option.kind, typed))
        elif option.kind == Settings:
            parts[name] = {}
            for own in map(registry.settings_class, registry.MODALITIES):
                given = _fields_of(own, typed)
                own(**given)  # checks the values
                parts[name] |= given
        elif option.flag in values and name != "run":
            parts[name] = values[option.flag]
    return VERBS[verb](**parts)


def _fields_of(owner: type, typed: Mapping[Option, Any]) -> dict[str, Any]:
    """Select the values of one dataclass by the names of its fields."""
    return {option.field.name: value for option, value in typed.items() if option.owner is owner}


def _check_words(verb: str, words: list[str]) -> None:
    """Refuse words that belong to no option, but for RUN.

    Raises:
        InputError: with the option that they may be meant for.
    """
    if verb in POSITIONAL and words and not words[0]:
        raise InputError("RUN: is empty")
    for word in words[verb in POSITIONAL :]:
        known = {"generate": f"a prompt is written --prompt {word!r}", "fit": f"a base is written --model {word}"}
        raise InputError(f"{word}: belongs to no option of {verb}; {known.get(verb, f'see hypergen {verb} --help')}")


def _with_standard_input(config: GenerateConfig) -> GenerateConfig:
    """Read the prompts that come through standard input, a line each.

    Raises:
        InputError: they are not UTF-8, or there are none.
    """
    if config.prompts != STANDARD_INPUT:
        return config
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"--prompts {STANDARD_INPUT}: standard input is not UTF-8 ({error.reason})") from error
    lines = tuple(line for line in text.splitlines() if line.strip())
    if not lines:
        raise InputError(f"--prompts {STANDARD_INPUT}: standard input has no prompt; one a line is read")
    return replace(config, prompt=lines, prompts=None)
