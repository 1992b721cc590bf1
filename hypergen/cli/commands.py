"""Parse the command line: argv -> frozen dataclasses, each of which makes one call into `api`.

Flags are generated from `config` and from each modality's `Settings`; a flag of another modality is refused by name.
A mistake is one line and exit code 2. Imports no torch, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import tyro
from tyro.conf import OmitArgPrefixes as Flat

from hypergen import registry
from hypergen.cli.arguments import Takes, one_line, prepare, typed_flags, unveil, with_config
from hypergen.config import (
    DecodingConfig,
    EvaluateConfig,
    ExportConfig,
    FitConfig,
    GenerateConfig,
    PretrainConfig,
    flag,
)
from hypergen.errors import InputError
from hypergen.runtime.console import sanitize
from hypergen.runtime.redaction import redact
from hypergen.storage.file_names import FIGURE, REPORT

ConfigFile = Annotated[str | None, tyro.conf.arg(name="config")]


def _given(settings: Any) -> dict[str, Any]:
    """Collect the modality flags that were typed, also those with the default's value, by field name."""
    parts = [getattr(settings, part.name) for part in reversed(fields(settings)) if part.name != "typed"]
    return {
        one.name: getattr(part, one.name) for part in parts for one in fields(part) if flag(one.name) in settings.typed
    }


def _without(settings: Any, taken: set[str]) -> type:
    """Hide the flags that an earlier modality has, too: both mean the same flag, which is one for the parser."""
    marks: Any = tyro.conf  # applied to values, which a type checker does not follow
    hidden = marks.Suppress[marks.Fixed[Any]]
    shared = [(one.name, hidden, field(default=one.default)) for one in fields(settings) if one.name in taken]
    if not shared:
        return cast(type, settings)
    return make_dataclass(settings.__name__, shared, bases=(settings,), frozen=True, kw_only=True)


def _settings_class() -> type:
    """Make the dataclass of the modalities' options: a field for the `Settings` of each, and which flags were typed."""
    parts: dict[str, type] = {}
    for name in registry.MODALITIES:
        taken = {one.name for part in parts.values() for one in fields(part)}
        parts[name] = _without(registry.settings_class(name), taken)
    flat: Any = Flat  # applied to values, which a type checker does not follow
    nested = [(name, flat[part], field(default_factory=part)) for name, part in parts.items()]
    typed = ("typed", tyro.conf.Suppress[tuple[str, ...]], field(default=()))
    return make_dataclass("Settings", [*nested, typed], frozen=True, namespace={"given": _given})


if TYPE_CHECKING:
    from typing import Protocol

    class Settings(Protocol):
        def given(self) -> dict[str, Any]: ...
else:
    Settings = _settings_class()


def with_sources(command: type) -> type:
    """Add to the description of a verb what `--data` may name for each modality."""
    named = "; ".join(f"{name}: {registry.sources(name)}" for name in registry.MODALITIES)
    command.__doc__ = f"{command.__doc__} Sources of items are, for {named}."
    return command


def with_bases(command: type) -> type:
    """Add to the description of a verb which bases have a name."""
    named = [base for name in registry.MODALITIES for base in registry.named_bases(name)]
    command.__doc__ = f"{command.__doc__} Bases with a name are {', '.join(named)}."
    return command


@with_sources
@dataclass(frozen=True)
class Pretrain:
    """Train a base from scratch: a codec, then the transformer."""

    pretrain: Flat[PretrainConfig]
    settings: Flat[Settings] = field(default_factory=Settings)
    config: ConfigFile = None
    """JSON or TOML file with flags as keys; what is typed wins."""

    def __call__(self) -> None:
        from hypergen import api

        base = api.pretrain(self.pretrain, **self.settings.given())
        held_out = base.record["held_out"]
        print(f"held-out loss {held_out['loss']:.3f} nats per token\nwrote {sanitize(str(base.folder))}")


@with_bases
@with_sources
@dataclass(frozen=True)
class Fit:
    """Hyperfit a base and compare it before and after."""

    fit: Flat[FitConfig]
    settings: Flat[Settings] = field(default_factory=Settings)
    config: ConfigFile = None
    """JSON or TOML file with flags as keys; what is typed wins."""

    def __call__(self) -> None:
        from hypergen import api
        from hypergen.report.columns import Columns
        from hypergen.report.terminal import terminal

        run = api.fit(self.fit, **self.settings.given())
        training = run.record["training"]
        print(
            f"training loss {training['loss']:.3f}, token accuracy {training['accuracy']:.3f} after "
            f"{training['epochs']} epochs, stopped by {training['stopped_by']}, "
            f"{training['tokens_per_second']:,.0f} tokens/s"
        )
        columns = Columns.of(registry.adapter(run.record["modality"]).METRICS)
        terminal(run.records, columns, columns.brief(run.records))
        pages = [*sorted(run.folder.glob(f"{FIGURE}.*")), run.folder / REPORT]
        print("wrote " + " and ".join(sanitize(str(page)) for page in pages))


@with_bases
@with_sources
@dataclass(frozen=True)
class Generate:
    """Continue prompts with a run, a base or a hub model."""

    run: tyro.conf.Positional[str]
    """Run or base: a folder, a name, a file or a hub id."""
    generate: Flat[GenerateConfig] = field(default_factory=GenerateConfig)
    decoding: Flat[DecodingConfig] = field(default_factory=DecodingConfig)
    settings: Flat[Settings] = field(default_factory=Settings)
    config: ConfigFile = None
    """JSON or TOML file with flags as keys; what is typed wins."""

    def __call__(self) -> None:
        from hypergen.cli.generate import generate

        generate(self.run, self.generate, self.decoding, self.settings.given())


@with_bases
@with_sources
@dataclass(frozen=True)
class Evaluate:
    """Compare a run with its base on held-out items."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    evaluate: Flat[EvaluateConfig] = field(default_factory=EvaluateConfig)
    output: str | None = None
    """Folder for the records and the figure, new or empty."""
    verify: bool = False
    """Compare every file of the run with its manifest (SHA-256) first; exit code 3 where one differs."""
    json: bool = False
    """Print the records as JSON."""
    config: ConfigFile = None
    """JSON or TOML file with flags as keys; what is typed wins."""

    def __call__(self) -> None:
        from hypergen.cli.evaluate import evaluate

        evaluate(self.run, self.evaluate, output=self.output, verify=self.verify, as_json=self.json)


@with_bases
@dataclass(frozen=True)
class Export:
    """Write a run or a base into a file that another program reads, such as GGUF for llama.cpp."""

    run: tyro.conf.Positional[str]
    """Run or base: a folder, a name, a file or a hub id."""
    export: Flat[ExportConfig] = field(default_factory=ExportConfig)
    modality: str | None = None
    """Needed for a hub id only."""
    allow_pickle_weights: bool = False
    """Read a model whose weights are pickled (.bin), through torch's restricted unpickler."""
    verify: bool = False
    """Compare every file of the run with its manifest (SHA-256) first; exit code 3 where one differs."""
    config: ConfigFile = None
    """JSON or TOML file with flags as keys; what is typed wins."""

    def __call__(self) -> None:
        from hypergen.cli.export import export

        export(
            self.run,
            self.export,
            modality=self.modality,
            allow_pickle_weights=self.allow_pickle_weights,
            verify=self.verify,
        )


VERBS: dict[str, Callable[..., Any]] = {
    "pretrain": Pretrain,
    "fit": Fit,
    "generate": Generate,
    "evaluate": Evaluate,
    "export": Export,
}


def parse(arguments: list[str]) -> Any:
    """Parse argv into one of the commands above; `--help` prints and exits.

    Raises:
        InputError: an argument does not fit; one line.
    """
    if arguments and arguments[0] in VERBS:
        known: dict[str, Takes] = {**_flags(VERBS[arguments[0]]), "--help": "nothing"}
        arguments = [arguments[0], *prepare(arguments[0], with_config(arguments[1:]), known)]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = tyro.extras.subcommand_cli_from_dict(
                VERBS, prog="hypergen", args=arguments, sort_subcommands=False, config=(tyro.conf.DisallowNone,)
            )
    except SystemExit as leave:
        if leave.code in (0, None):
            raise
        if redact(arguments) != arguments:  # the parser breaks lines, maybe inside a secret: let it complain without
            parse(redact(arguments))
        raise InputError(one_line(complaint.getvalue())) from None
    command = unveil(command)
    for one in fields(command):
        if getattr(command, one.name) == "":  # a shell variable that was never set
            raise InputError(f"{flag(one.name)}: is empty; leave it out for its default")
    if not hasattr(command, "settings"):
        return command
    return replace(command, settings=replace(command.settings, typed=tuple(sorted(typed_flags(arguments)))))


def _flags(command: Any) -> dict[str, Takes]:
    """List every flag of a command and what it takes, nested dataclasses flat."""
    nested = {
        "pretrain": PretrainConfig,
        "fit": FitConfig,
        "generate": GenerateConfig,
        "evaluate": EvaluateConfig,
        "export": ExportConfig,
        "decoding": DecodingConfig,
        "settings": Settings,
        **{name: registry.settings_class(name) for name in registry.MODALITIES},
    }
    flags: dict[str, Takes] = {}
    for one in fields(command):
        if one.name in nested:
            flags |= _flags(nested[one.name])
        elif one.name not in ("run", "typed"):  # neither is a flag
            flags[flag(one.name)] = _takes(str(one.type))
    return flags


def _takes(annotation: str) -> Takes:
    if annotation == "bool":
        return "nothing"
    return "values" if annotation.startswith("tuple[") else "one value"
