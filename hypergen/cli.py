"""The command line: argv -> frozen dataclasses -> one call into `api`.

Flags are generated from `config` and from each modality's `Settings`; a flag of another modality is refused by name.
A mistake is one line and exit code 2.
Does not know: what any option means. Imports no torch, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes as Flat

from hypergen import registry
from hypergen.arguments import check_flags, one_line, typed_flags, with_config
from hypergen.config import DecodingConfig, EvaluateConfig, FitConfig, PretrainConfig, flag, require_at_least
from hypergen.errors import DiskError, HypergenError, InputError
from hypergen.scrub import scrub
from hypergen.signals import SignalWatch
from hypergen.versions import require_versions

LONGEST_MESSAGE = 2000  # characters; a file may hold any value
ConfigFile = Annotated[str | None, tyro.conf.arg(name="config")]


def _given(settings: Any) -> dict[str, Any]:
    """Values of the modality flags that were typed, also those with the default's value, by field name."""
    parts = [getattr(settings, part.name) for part in fields(settings) if part.name != "typed"]
    return {
        one.name: getattr(part, one.name) for part in parts for one in fields(part) if flag(one.name) in settings.typed
    }


def _settings_class() -> type:
    """Options that only one modality has: a field for the `Settings` of each that is registered, and what was typed."""
    parts = {name: registry.settings_class(name) for name in registry.MODALITIES}
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


@dataclass(frozen=True)
class Pretrain:
    """A base from scratch: BPE or VQ, then the transformer."""

    pretrain: Flat[PretrainConfig]
    settings: Flat[Settings] = field(default_factory=Settings)
    config: ConfigFile = None
    """JSON or TOML file with flags as keys; what is typed wins."""

    def __call__(self) -> None:
        from hypergen import api

        base = api.pretrain(self.pretrain, **self.settings.given())
        held_out = base.record["held_out"]
        print(f"held-out loss {held_out['loss']:.3f} nats per token; base in {printable(str(base.folder))}")


@dataclass(frozen=True)
class Fit:
    """Hyperfit a base and compare it before and after."""

    fit: Flat[FitConfig]
    settings: Flat[Settings] = field(default_factory=Settings)
    config: ConfigFile = None
    """JSON or TOML file with flags as keys; what is typed wins."""

    def __call__(self) -> None:
        from hypergen import api, report

        run = api.fit(self.fit, **self.settings.given())
        training = run.record["training"]
        print(
            f"training loss {training['loss']:.3f} after {training['epochs']} epochs, stopped by "
            f"{training['stopped_by']}, {training['tokens_per_second']:,.0f} tokens/s"
        )
        report.terminal(run.records, report.brief(run.records))
        pages = [run.folder / name for name in ("grid.png", "report.html") if (run.folder / name).exists()]
        print("look at " + " and ".join(printable(str(page)) for page in pages))


@dataclass(frozen=True)
class Generate:
    """Continue prompts with a run, a base or a hub model."""

    run: tyro.conf.Positional[str]
    """Folder or hub id."""
    prompt: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...")] = ()
    """Texts to continue."""
    prompts: str | None = None
    """File, folder or zip with prompts; by default the held-out sequences of the run."""
    count: int | None = None
    """Prompts that are used, from the first on; by default all."""
    max_new_tokens: int | None = None
    """Tokens of a completion, at most; by default 256, or the rest of the picture."""
    output: str | None = None
    """A .jsonl file (text), a .png file (pictures, one grid) or a folder (one file each); the same command again
    continues a job that was stopped."""
    json: bool = False
    """Print one JSON object a completion, with its token ids."""
    modality: str | None = None
    """Needed for a hub id only."""
    skip_bad: int = 0
    """Bad rows or pictures of --prompts that are passed over and counted, at most."""
    allow_pickle_weights: bool = False
    """Read a model whose weights are pickled (.bin), through torch's restricted unpickler."""
    verify: bool = False
    """Compare every file of the run with its manifest (SHA-256) first; exit code 3 where one differs."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    decoding: Flat[DecodingConfig] = field(default_factory=DecodingConfig)
    settings: Flat[Settings] = field(default_factory=Settings)
    config: ConfigFile = None
    """JSON or TOML file with flags as keys; what is typed wins."""

    def __post_init__(self) -> None:
        for name in ("count", "max_new_tokens"):
            require_at_least(self, name, 1)
        require_at_least(self, "skip_bad", 0)

    def __call__(self) -> None:
        from hypergen import output

        output.generate(self)


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
        from hypergen import output

        output.evaluate(self)


VERBS: dict[str, Callable[..., Any]] = {"pretrain": Pretrain, "fit": Fit, "generate": Generate, "evaluate": Evaluate}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (see `hypergen.errors`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _be_able_to_print()
    try:
        with SignalWatch():
            command = parse(arguments)
            require_versions()
            command()
            sys.stdout.flush()
    except HypergenError as error:
        print(f"hypergen: {printable(scrub(str(error)))[:LONGEST_MESSAGE]}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone; nobody is to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename is not None:
            raise
        print(f"hypergen: standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what waits to be written would fail once more
        return DiskError.exit_code
    return 0


def _be_able_to_print() -> None:
    """A closed standard output takes everything, and one of few characters gets others as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse(arguments: list[str]) -> Any:
    """argv -> one of the commands above; `--help` prints and exits.

    Raises:
        InputError: whatever does not fit, in one line.
    """
    if arguments and arguments[0] in VERBS:
        arguments = [arguments[0], *with_config(arguments[1:])]
        check_flags(arguments[0], arguments[1:], {*_flags(VERBS[arguments[0]]), "--help"})
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = tyro.extras.subcommand_cli_from_dict(
                VERBS, prog="hypergen", args=arguments, sort_subcommands=False, config=(tyro.conf.DisallowNone,)
            )
    except SystemExit as leave:
        if leave.code in (0, None):
            raise
        if scrub(arguments) != arguments:  # the parser breaks lines, maybe inside a secret: let it complain without
            parse(scrub(arguments))
        raise InputError(one_line(complaint.getvalue())) from None
    if not hasattr(command, "settings"):
        return command
    return replace(command, settings=replace(command.settings, typed=tuple(sorted(typed_flags(arguments)))))


def printable(text: str) -> str:
    """One line without control characters, so that no file name or value can steer a terminal."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _flags(command: Any) -> list[str]:
    """Every flag of a command, nested dataclasses flat."""
    nested = {
        "pretrain": PretrainConfig,
        "fit": FitConfig,
        "evaluate": EvaluateConfig,
        "decoding": DecodingConfig,
        "settings": Settings,
        **{name: registry.settings_class(name) for name in registry.MODALITIES},
    }
    names = [one.name for one in fields(command) if one.name not in ("run", "typed")]  # neither is a flag
    return [name for one in names for name in (_flags(nested[one]) if one in nested else [flag(one)])]


if __name__ == "__main__":
    sys.exit(main())
