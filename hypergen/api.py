"""The verbs: the table of contents of the program.

`fit` reads as the main job does: build, encode, measure before, hyperfit, measure after, publish.
Does not know: what a token means (`registry`), how training and decoding work, how arguments are parsed.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hypergen import registry, report, run
from hypergen.batches import steps_per_epoch
from hypergen.comparison import Comparison, new_tokens
from hypergen.config import PAPER_RECIPE, DecodingConfig, EvaluateConfig, FitConfig, PretrainConfig, fill
from hypergen.errors import InputError
from hypergen.hyperfit import FitResult, Plan, hyperfit
from hypergen.loaded import HELD_OUT_TOKENS, TRAINING_TOKENS, Run
from hypergen.measures import predictions
from hypergen.own_samples import draw
from hypergen.resolve import (
    embedded_base,
    fit_recipe,
    make_settings,
    modality_of,
    pick_device,
    read_items,
    read_record,
    split_items,
    split_options,
)
from hypergen.signals import SignalWatch

GREEDY = DecodingConfig(stop_at_end=False)
PRETRAIN_HELD_OUT = 64  # sequences, at most, whose loss a new base reports


def fit(config: FitConfig | None = None, **options: Any) -> Run:
    """Hyperfit a base and compare its completions before and after.

    Args:
        config: ready-made options; else every field of `FitConfig` is a keyword.
        options: those keywords, and the fields of the modality's `Settings`.

    Returns:
        The published run: `.records` is the before/after table, `.folder / "report.html"` the page.

    Raises:
        HypergenError: one line that says what, where, the value, what is allowed (see `hypergen.errors`).
    """
    config, given = split_options(FitConfig, config, options)
    name = modality_of(config.modality, config.model)
    base = config.model or embedded_base(name)
    adapter = registry.adapter(name)
    recipe = fit_recipe(read_record(base) if config.model is None else {}, config.data)
    config, settings = fill(config, recipe), make_settings(name, given, recipe)
    folder = Path(config.output) if config.output else run.free_output(name)
    run.check_output(folder, config.resume)
    device = pick_device(config.device)
    training_items, held_out_items = read_items(adapter, settings, config)

    with run.locked(folder), SignalWatch() as signals:
        modality = adapter.load(base, settings)
        modality.model.to(device)
        held_out = _sequences(modality, settings, held_out_items, config.held_out_samples, config.seed, "held-out")
        tokens = _sequences(modality, settings, training_items, config.num_samples, config.seed, "training")

        compare = _comparison(modality, tokens, held_out, config.max_new_tokens, config.seed)
        compare.add("base greedy", GREEDY, describe_model=True)
        compare.add("base top-p", DecodingConfig(strategy="top-p", stop_at_end=False, seed=config.seed))
        facts = _facts(name, config, settings, tokens) | {"base": base if config.model else name}
        result = _train(modality, tokens, _fit_plan(config, len(tokens)), folder, facts, config.resume, signals.number)
        compare.add("hyperfitted greedy", GREEDY, describe_model=True)
        compare.add_original()

        facts |= {"training": asdict(result), "comparison": compare.records}
        run.finish(folder, lambda temporary: _write_run(temporary, folder, modality, compare, facts))
    return Run(folder, modality, facts)


def pretrain(config: PretrainConfig | None = None, **options: Any) -> Run:
    """Train a base from scratch: a codec, then the transformer, through the training loop of `fit`.

    Args:
        config: ready-made options; else every field of `PretrainConfig` is a keyword.
        options: those keywords, and the fields of the modality's `Settings`.
    """
    config, given = split_options(PretrainConfig, config, options)
    adapter = registry.adapter(config.modality)
    settings = make_settings(config.modality, given, PAPER_RECIPE)
    folder = Path(config.output)
    run.check_output(folder, config.resume)
    device = pick_device(config.device)
    items = adapter.read(config.data, settings)
    if config.held_out is None:
        items, held_out_items = split_items(items, max(1, len(items) // 50), config.seed, config.data)
    else:
        held_out_items = adapter.read(config.held_out, settings)

    with run.locked(folder), SignalWatch() as signals:
        modality = adapter.build(items, settings, config)
        modality.model.to(device)
        tokens = modality.encode(items)
        plan = Plan(
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            precision=config.precision,
            pretraining=True,
            checkpoint_every=config.checkpoint_every,
        )
        facts = _facts(config.modality, config, settings, tokens)
        result = _train(modality, tokens, plan, folder, facts, config.resume, signals.number)
        held_out = modality.encode(held_out_items)[:PRETRAIN_HELD_OUT]
        facts |= {"training": asdict(result), "held_out": predictions(modality.model, held_out)}
        run.finish(folder, lambda temporary: _write_base(temporary, modality, facts))
    return Run(folder, modality, facts)


def load(source: str | Path, *, modality: str | None = None, device: str = "auto", **settings: Any) -> Run:
    """A run, a base folder or a hub id; a folder tells its modality, a hub id needs `modality`.

    Raises:
        InputError: there is nothing to load, or nothing tells the modality.
    """
    source = str(source)
    name = modality_of(modality, source)
    record = read_record(source)
    resolved = make_settings(name, record.get("settings", {}) | settings, PAPER_RECIPE)
    target = pick_device(device)
    loaded = registry.adapter(name).load(source, resolved)
    loaded.model.to(target).eval()
    return Run(Path(source), loaded, record)


def evaluate(trained: Run | str | Path, config: EvaluateConfig | None = None, **options: Any) -> Comparison:
    """Greedy completions of a run beside greedy and top-p ones of its base.

    Args:
        trained: a run, or its folder.
        options: fields of `EvaluateConfig`.

    Returns:
        `.records` (the table) and `.figure()` (the pictures or texts).

    Raises:
        InputError: not a hyperfitted run, or it does not say its base.
    """
    config = fill(config or EvaluateConfig(**options), {})
    tuned = trained if isinstance(trained, Run) else load(trained, device=config.device)
    modality, name = tuned.modality, tuned.modality.name
    base = config.baseline or tuned.record.get("base")
    if base is None:
        raise InputError(f"{tuned.folder}: does not say which base it started from; give --baseline")
    training = tuned.tokens(TRAINING_TOKENS)
    if config.data is None:
        held_out = tuned.tokens(HELD_OUT_TOKENS)[: config.count]
    else:
        items = registry.adapter(name).read(config.data, modality.settings)
        held_out = _sequences(modality, modality.settings, items, config.count, config.seed, "held-out")
    untrained = load(embedded_base(name) if base == name else base, modality=name, device=config.device).modality
    compare = _comparison(untrained, training, held_out, config.max_new_tokens, config.seed)
    compare.add("base greedy", GREEDY, describe_model=True)
    compare.add("base top-p", DecodingConfig(strategy="top-p", stop_at_end=False, seed=config.seed))
    compare.modality = modality
    compare.add("hyperfitted greedy", GREEDY, describe_model=True)
    compare.add_original()
    return compare


def _fit_plan(config: FitConfig, count: int) -> Plan:
    if config.num_samples is None or config.epochs is None or config.batch_size is None:
        raise InputError("num_samples, epochs, batch_size: the recipe left one open")
    per_epoch = steps_per_epoch(count, config.batch_size)
    return Plan(
        steps=config.epochs * per_epoch,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or 0.0,
        seed=config.seed,
        target_loss=config.target_loss,
        last_layers=config.last_layers or 0,
        precision=config.precision,
        checkpoint_every=config.checkpoint_every * per_epoch,
    )


def _sequences(modality: Any, settings: Any, items: Any, count: int | None, seed: int, purpose: str) -> Tensor:
    """(N, T) tokens of the items; of the model's own samples where there are no items."""
    if items is not None:
        return modality.encode(items, count, seed) if purpose == "training" else modality.examples(items, count, seed)
    return draw(modality, count or 0, modality.sequence_length, seed, purpose)


def _comparison(modality: Any, training: Tensor, held_out: Tensor, asked: int | None, seed: int) -> Comparison:
    prompts = modality.prompts(held_out)
    fixed = modality.end_token is None
    return Comparison(modality, training, held_out, prompts, asked or new_tokens(held_out, prompts, fixed), seed)


def _train(
    modality: Any,
    tokens: Tensor,
    plan: Plan,
    folder: Path,
    facts: dict[str, Any],
    resume: bool,
    stop_signal: Callable[[], int | None],
) -> FitResult:
    """The training loop with the run folder attached: metrics, checkpoints, resume."""
    fixed = {"plan": asdict(plan), "data_sha256": facts["data_sha256"]}
    return hyperfit(
        modality.model,
        tokens,
        plan,
        label="pretrain" if plan.pretraining else "hyperfit",
        state=run.newest_state(folder, fixed) if resume else None,
        on_epoch=lambda epoch, loss: run.log(folder, {"epoch": epoch, "loss": loss}),
        on_checkpoint=lambda state: run.save_checkpoint(folder, state, fixed),
        stop_signal=stop_signal,
    )


def _facts(name: str, config: FitConfig | PretrainConfig, settings: Any, tokens: Tensor) -> dict[str, Any]:
    """What `hypergen.json` records."""
    libraries = ("hypergen", "torch", "transformers", "diffusers", "safetensors")
    return {
        "modality": name,
        "settings": asdict(settings),
        "config": asdict(config),
        "data_sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
        "sequences": list(tokens.shape),
        "versions": {library: metadata.version(library) for library in libraries} | {"python": platform.python_version()},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
    }


def _write_run(temporary: Path, folder: Path, modality: Any, compare: Comparison, facts: dict[str, Any]) -> None:
    modality.save(temporary)
    save_file({"tokens": compare.training}, temporary / TRAINING_TOKENS)
    save_file({"tokens": compare.held_out}, temporary / HELD_OUT_TOKENS)
    (temporary / run.RECORD).write_text(json.dumps(facts, indent=1))
    samples = temporary / "samples"
    completions = compare.columns["hyperfitted greedy"]
    modality.write(modality.assemble(list(compare.prompts), completions), samples)
    figure = compare.figure()
    if not isinstance(figure, str):
        figure.save(temporary / "grid.png")
        figure = (temporary / "grid.png").read_bytes()
    (temporary / "report.html").write_text(report_page(folder, facts, figure), encoding="utf-8")


def report_page(folder: Path, facts: dict[str, Any], figure: str | bytes) -> str:
    """`report.html` of a run."""
    training, config = facts["training"], facts["config"]
    shown = {
        "base": facts["base"],
        "data": config["data"],
        "sequences": f"{facts['sequences'][0]} of {facts['sequences'][1]} tokens",
        "trained": f"last {config['last_layers']} blocks" if config["last_layers"] else "all layers",
        "learning rate": config["learning_rate"],
        "epochs": training["epochs"],
        "training loss": round(training["loss"], 3),
        "stopped by": training["stopped_by"],
        "seconds": round(training["seconds"], 1),
        "seed": config["seed"],
    }
    losses = [(row["epoch"], row["loss"]) for row in run.read_log(folder)]
    return report.page(f"hypergen: {folder.name}", facts["comparison"], shown, {"training loss": losses}, figure)


def _write_base(temporary: Path, modality: Any, facts: dict[str, Any]) -> None:
    modality.save(temporary)
    (temporary / run.RECORD).write_text(json.dumps(facts, indent=1))
