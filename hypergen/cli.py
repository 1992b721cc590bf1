"""The command line: argv -> frozen dataclasses -> one call into `api`.

Flags are generated from `config` and from each modality's `Settings`; a flag of another modality is refused by name.
`--config FILE` gives flags as JSON or TOML keys; what is typed wins. A mistake is one line and exit code 2.
Does not know: what any option means. Imports no torch, so that `--help` is quick.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from hypergen.config import DecodingConfig, EvaluateConfig, FitConfig, PretrainConfig, flag
from hypergen.errors import HypergenError, InputError
from hypergen.image.config import Settings as ImageSettings
from hypergen.text.config import Settings as TextSettings

Flat = tyro.conf.OmitArgPrefixes


@dataclass(frozen=True)
class Settings:
    """Options that only one modality has."""

    text: Flat[TextSettings] = field(default_factory=TextSettings)
    image: Flat[ImageSettings] = field(default_factory=ImageSettings)

    def given(self) -> dict[str, Any]:
        """What differs from the defaults, by field name."""
        return {
            name.name: getattr(part, name.name)
            for part in (self.text, self.image)
            for name in fields(part)
            if getattr(part, name.name) != name.default
        }


@dataclass(frozen=True)
class Pretrain:
    """A base from scratch: BPE or VQ, then the transformer."""

    pretrain: Flat[PretrainConfig]
    settings: Flat[Settings] = field(default_factory=Settings)

    def __call__(self) -> None:
        from hypergen import api

        base = api.pretrain(self.pretrain, **self.settings.given())
        held_out = base.record["held_out"]
        print(f"held-out loss {held_out['loss']:.3f} nats per token; base in {base.folder}")


@dataclass(frozen=True)
class Fit:
    """Hyperfit a base and compare it before and after."""

    fit: Flat[FitConfig]
    settings: Flat[Settings] = field(default_factory=Settings)

    def __call__(self) -> None:
        from hypergen import api, report

        run = api.fit(self.fit, **self.settings.given())
        training = run.record["training"]
        print(
            f"training loss {training['loss']:.3f} after {training['epochs']} epochs, stopped by "
            f"{training['stopped_by']}, {training['tokens_per_second']:,.0f} tokens/s"
        )
        report.terminal(run.records)
        pages = [run.folder / name for name in ("grid.png", "report.html") if (run.folder / name).exists()]
        print("look at " + " and ".join(map(str, pages)))


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
    """Prompts that are used, at most."""
    max_new_tokens: int | None = None
    """Tokens of a completion, at most; by default 256, or the rest of the picture."""
    output: str | None = None
    """A .jsonl file (text), a .png file (pictures, one grid) or a folder (one file each)."""
    json: bool = False
    """Print one JSON object a completion, with its token ids."""
    modality: str | None = None
    """Needed for a hub id only."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    decoding: Flat[DecodingConfig] = field(default_factory=DecodingConfig)
    settings: Flat[Settings] = field(default_factory=Settings)

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
    json: bool = False
    """Print the records as JSON."""

    def __call__(self) -> None:
        from hypergen import output

        output.evaluate(self)


VERBS = {"pretrain": Pretrain, "fit": Fit, "generate": Generate, "evaluate": Evaluate}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (see `hypergen.errors`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parse(arguments)()
    except HypergenError as error:
        print(f"hypergen: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def parse(arguments: list[str]) -> Any:
    """argv -> one of the commands above; `--help` prints and exits.

    Raises:
        InputError: whatever does not fit, in one line.
    """
    if arguments and arguments[0] in VERBS:
        arguments = [arguments[0], *_with_config(arguments[1:])]
        _check_flags(arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                VERBS, prog="hypergen", args=arguments, sort_subcommands=False, config=(tyro.conf.DisallowNone,)
            )
    except SystemExit as leave:
        if leave.code in (0, None):
            raise
        raise InputError(_one_line(complaint.getvalue())) from None


def printable(text: str) -> str:
    """One line without control characters, so that no file name or value can steer a terminal."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _with_config(arguments: list[str]) -> list[str]:
    """Replace `--config FILE` by the flags it holds; typed flags win."""
    if "--config" not in arguments:
        return arguments
    place = arguments.index("--config")
    if place + 1 == len(arguments):
        raise InputError("--config: needs a .json or .toml file")
    typed = arguments[:place] + arguments[place + 2 :]
    names = {argument.split("=")[0] for argument in typed}
    read = _read_config(Path(arguments[place + 1]))
    return typed + [part for name, value in read.items() if flag(name) not in names for part in _as_flag(name, value)]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"--config {path}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config {path}: must hold keys and values")
    return content


def _as_flag(name: str, value: Any) -> list[str]:
    if value is None or value is False:
        return []
    return [flag(name)] if value is True else [flag(name), str(value)]


def _check_flags(arguments: list[str]) -> None:
    """Name an unknown flag and the nearest known one."""
    known = {*_flags(VERBS[arguments[0]]), "--help", "--config"}
    for argument in arguments[1:]:
        name = argument.split("=")[0]
        positive = name.replace("--no-", "--", 1)
        if name.startswith("--") and not {name.replace("_", "-"), positive} & known:
            near = difflib.get_close_matches(name, known, 1)
            raise InputError(f"{name}: unknown option of {arguments[0]}" + (f"; did you mean {near[0]}?" if near else ""))


def _flags(command: type) -> list[str]:
    """Every flag of a command, nested dataclasses flat."""
    hints = {
        "pretrain": PretrainConfig,
        "fit": FitConfig,
        "evaluate": EvaluateConfig,
        "decoding": DecodingConfig,
        "settings": Settings,
        "text": TextSettings,
        "image": ImageSettings,
    }
    nested = [(one.name, hints.get(one.name)) for one in fields(command)]
    return [name for one, inner in nested for name in (_flags(inner) if inner else [flag(one)])]


def _one_line(box: str) -> str:
    """The sentence inside the box that the parser draws, without its heading and help text."""
    words = "".join(" " if sign in "╭╮╰╯─│┃━" else sign for sign in box).split()
    text = " ".join(words).split(" For full helptext")[0].split(" Argument helptext")[0]
    text = re.sub(r"^(Parsing error|Value error|Unrecognized options|Invalid choice|Missing \w+) (?=\w+ )", "", text)
    text = re.sub(r"^Error parsing __tyro\S* ", "", text)
    return text or "wrong arguments; see hypergen --help"


if __name__ == "__main__":
    sys.exit(main())
