"""Write the files of a finished run or base: model, record, stored sequences, samples, figure, report, model card."""

from __future__ import annotations

import json
import shlex
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from hypergen import registry
from hypergen.config import FitConfig, flag
from hypergen.data.hub import HUB, HUB_ID
from hypergen.evaluation import baselines
from hypergen.evaluation.comparison import Comparison
from hypergen.modality import Figure, Modality
from hypergen.report.columns import Columns
from hypergen.report.model_card import CardFacts, model_card
from hypergen.report.page import Head, curves, page
from hypergen.report.trade_off import way_of
from hypergen.report.verdicts import Verdict, titled
from hypergen.runtime.redaction import redact
from hypergen.storage.file_names import CARD, HELD_OUT_TOKENS, RECORD, REPORT, SAMPLES, TRAINING_TOKENS
from hypergen.storage.metrics_log import read_metrics
from hypergen.storage.token_files import save_tokens

NO_RECIPE = ("output", "resume", "checkpoint_every")  # options that a run made again has no use for


def write_run(temporary: Path, folder: Path, modality: Modality, compare: Comparison, facts: dict[str, Any]) -> None:
    """Write a run into `temporary`, from where it is moved into `folder`, whose log it reads."""
    modality.save(temporary)
    save_tokens(temporary / TRAINING_TOKENS, compare.training, compare.training_mask)
    save_tokens(temporary / HELD_OUT_TOKENS, compare.held_out, compare.held_out_mask)
    (temporary / RECORD).write_text(json.dumps(facts, indent=1))
    completions = compare.columns[baselines.HYPERFITTED_GREEDY]
    modality.write(modality.render(prompts=list(compare.prompts), completions=completions), temporary / SAMPLES)
    figure = compare.figure(baselines.SHOWN)
    figure.save(temporary)
    (temporary / REPORT).write_text(report_page(folder, facts, figure), encoding="utf-8")
    (temporary / CARD).write_text(run_card(folder, facts), encoding="utf-8")


def report_page(folder: Path, facts: dict[str, Any], figure: Figure) -> str:
    """Render `report.html` of a run."""
    shown = run_recipe(facts)
    shown |= {"seconds": round(facts["training"]["seconds"], 1), "compared": facts["compared"]}
    columns = Columns.of(registry.adapter(facts["modality"]).METRICS)
    log = [{"epoch": 0} | facts["look_before"], *read_metrics(folder)]
    verdict = Verdict.of_record(facts)
    head = Head(
        facts={
            "model": _base_name(facts),
            "data": facts["config"]["data"],
            "training": f"{facts['training']['epochs']} epochs in {facts['training']['seconds']:,.0f} s",
            "machine": facts["machine"]["device"],
            **({"date": facts["date"]} if "date" in facts else {}),
        },
        command=fit_command(facts),
        verdict=verdict,
    )
    return page(
        f"hypergen: {folder.name}",
        titled(facts["comparison"], verdict),
        columns,
        head=head,
        facts=shown,
        curves=curves(log),
        way=way_of(log),
        figure=figure.html(),
    )


def fit_command(facts: dict[str, Any], **changes: Any) -> str:
    """Write the command that makes a run again: every option that is not the default, those of its recipe among them.

    Args:
        facts: of the run.
        changes: fields with other values.
    """
    options = {**facts["settings"], **facts["config"], **changes}
    known = [*fields(FitConfig), *fields(registry.settings_class(facts["modality"]))]
    words = ["hypergen", "fit"]
    for one in known:
        value = options.get(one.name)
        default = one.default if one.default is not MISSING else None
        if one.name not in NO_RECIPE and value is not None and value != default:
            words += _as_arguments(one.name, value)
    return shlex.join(words)


def _as_arguments(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name if value else f"no_{name}")]
    return [flag(name), *map(str, value if isinstance(value, list | tuple) else [value])]


def run_recipe(facts: dict[str, Any]) -> dict[str, str | float]:
    """Choose what a reader needs to make a run again, in order."""
    training, config = facts["training"], facts["config"]
    counted = facts.get("counted_tokens")
    return {
        "base": facts["base"],
        "data": config["data"],
        "sequences": f"{facts['sequences'][0]} of {facts['sequences'][1]} tokens",
        **({} if counted is None else {"loss over": f"{counted:,} of their tokens"}),
        "trained": f"last {config['last_layers']} blocks" if config["last_layers"] else "all layers",
        "learning rate": config["learning_rate"],
        "epochs": training["epochs"],
        "batch size": config["batch_size"],
        "seed": config["seed"],
        "training loss": round(training["loss"], 3),
        "training token accuracy": round(training["accuracy"], 3),
        "stopped by": training["stopped_by"],
        "SHA-256 of the training sequences": facts["data_sha256"],
        "made with": _versions(facts),
    }


def base_recipe(facts: dict[str, Any]) -> dict[str, str | float]:
    """Choose what a reader needs to make a base again, in order."""
    config = facts["config"]
    return {
        "data": _public(config["data"]),
        "sequences": f"{facts['sequences'][0]} of {facts['sequences'][1]} tokens",
        "transformer": f"{config['num_layers']} blocks of width {config['width']}, {config['num_heads']} heads",
        **{name.replace("_", " "): config[name] for name in ("steps", "batch_size", "learning_rate", "seed")},
        "training loss": round(facts["training"]["loss"], 3),
        "held-out loss": round(facts["held_out"]["loss"], 3),
        "SHA-256 of the training sequences": facts["data_sha256"],
        "made with": _versions(facts),
    }


def run_card(folder: Path, facts: dict[str, Any]) -> str:
    """Render `README.md` of a run; local bases and data appear by name, since a card is for others to read."""
    base = _base_name(facts)
    recipe = run_recipe(facts) | {"base": base, "data": _public(facts["config"]["data"])}
    base = facts["base_card"].get("base_model", base)
    return _card(
        folder,
        facts,
        recipe,
        base=base,
        base_card=facts["base_card"],
        records=facts["comparison"],
        verdict=Verdict.of_record(facts),
        compared=facts["compared"],
    )


def base_card(folder: Path, facts: dict[str, Any]) -> str:
    """Render `README.md` of a base."""
    return _card(folder, facts, base_recipe(facts))


def write_base(temporary: Path, folder: Path, modality: Modality, facts: dict[str, Any]) -> None:
    """Write a base into `temporary`, from where it is moved into `folder`."""
    modality.save(temporary)
    (temporary / RECORD).write_text(json.dumps(facts, indent=1))
    (temporary / CARD).write_text(base_card(folder, facts), encoding="utf-8")


def _card(folder: Path, facts: dict[str, Any], recipe: dict[str, str | float], **others: Any) -> str:
    adapter = registry.adapter(facts["modality"])
    card = CardFacts(
        name=redact(folder.name),
        recipe=recipe,
        library_name=adapter.LIBRARY_NAME,
        pipeline_tag=adapter.PIPELINE_TAG,
        loading=adapter.LOADING,
        datasets=_datasets(facts["config"]["data"]),
        training_loss=facts["training"]["loss"],
        columns=Columns.of(adapter.METRICS),
        **others,
    )
    return model_card(card)


def _base_name(facts: dict[str, Any]) -> str:
    """Name the base for others to read: a local one without its path."""
    is_embedded = facts["base"] == facts["modality"]
    return f"{facts['modality']} base of hypergen" if is_embedded else _public(facts["base"])


def _datasets(source: str) -> list[str]:
    """Name the data set of `hub:ID[:SPLIT]`; none where the source is another one."""
    name = source.removeprefix(HUB).split(":")[0]
    return [name] if source.startswith(HUB) and HUB_ID.fullmatch(name) else []


def _public(source: str) -> str:
    """Shorten an absolute path, which tells of one machine, to its last part."""
    return Path(source).name if Path(source).is_absolute() else source


def _versions(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
