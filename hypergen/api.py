"""The verbs: the table of contents of the program.

`fit` reads as the main job does: build, encode, measure before, hyperfit, measure after, publish.
Does not know: what a token means (`registry`), how training and decoding work, how arguments are parsed.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen import lineup, registry, run
from hypergen.batches import steps_per_epoch
from hypergen.checkpoints import KEPT, Checkpoints
from hypergen.comparison import Comparison, new_tokens, require_count, unseen
from hypergen.completions import read_completions
from hypergen.config import (
    HELD_OUT_SAMPLES,
    PAPER_RECIPE,
    DecodingConfig,
    EvaluateConfig,
    FitConfig,
    PretrainConfig,
    fill,
    flag,
)
from hypergen.disk import bytes_in, check_space
from hypergen.errors import InputError
from hypergen.hyperfit import FitResult, Plan, hyperfit, state_bytes
from hypergen.launcher import are_several
from hypergen.loaded import HELD_OUT_TOKENS, TRAINING_TOKENS, Run, checked_ids, stored_tokens
from hypergen.looks import Looks
from hypergen.measures import predictions
from hypergen.own_samples import draw
from hypergen.processes import Processes, join
from hypergen.record import facts_of, fixed, fixed_data, fixed_weights, lasting, machine, write_base, write_run
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
    stored_settings,
)
from hypergen.signals import SignalWatch

GREEDY = DecodingConfig(stop_at_end=False)
CHECKPOINT_SECONDS = 600.0  # between checkpoints of a fit that does not say how many epochs
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
    config, settings = fill(config, recipe | {"modality": name}), make_settings(name, given, recipe)
    folder = Path(config.output) if config.output else run.free_output(name)
    processes = join(config.device)
    if processes.is_first:
        run.check_output(folder, config.resume)
    device = pick_device(config.device, config.precision)
    training_items, held_out_items = read_items(adapter, settings, config)

    with run.locked(folder) if processes.is_first else nullcontext(), SignalWatch() as signals:
        modality = adapter.load(base, settings, config.allow_pickle_weights, config.last_layers)
        _check_last_layers(modality.model, config.last_layers or 0)
        modality.model.to(device)
        if processes.is_first:
            _check_space(folder, modality.model, config.last_layers or 0, config.checkpoint_every)
        tokens = _training(modality, training_items, config)
        processes.check_equal("training sequences", fixed_data(tokens))
        count = config.held_out_samples or HELD_OUT_SAMPLES
        held_out = _held_out(modality, held_out_items, count, config.seed, tokens)
        require_count("--held-out-samples", config.held_out_samples, held_out)

        compare = _comparison(modality, tokens, held_out, config.max_new_tokens, config.seed)
        if processes.is_first:
            compare.add("base greedy", GREEDY, describe_model=True)
            compare.add("base top-p", DecodingConfig(strategy="top-p", stop_at_end=False, seed=config.seed))
        facts = facts_of(name, config, settings, tokens, device) | {"base": lasting(base) if config.model else name}
        checkpoints = Checkpoints(
            folder=folder / run.CHECKPOINTS,
            facts=fixed(config, settings) | fixed_data(tokens) | fixed_weights(modality.model, config.last_layers or 0),
            machine=machine(device) | {"processes": processes.count},
            resume=config.resume,
            signals=signals,
        )
        looks = Looks(folder=folder, glance=compare.glance, every=config.measure_every, max_overlap=config.max_overlap)
        result = _train(modality, tokens, _fit_plan(config, len(tokens)), looks, checkpoints, processes)
        processes.leave()
        compare.add("hyperfitted greedy", GREEDY, describe_model=True)
        compare.add_original()

        facts |= {"training": asdict(result), "comparison": compare.records}
        facts |= {"compared": compare.sizes}
        facts |= {"look_before": compare.look_before()}
        run.finish(folder, lambda temporary: write_run(temporary, folder, modality, compare, facts))
    return Run(folder, modality, facts)


def pretrain(config: PretrainConfig | None = None, **options: Any) -> Run:
    """Train a base from scratch: a codec, then the transformer, through the training loop of `fit`.

    Args:
        config: ready-made options; else every field of `PretrainConfig` is a keyword.
        options: those keywords, and the fields of the modality's `Settings`.
    """
    config, given = split_options(PretrainConfig, config, options)
    if are_several():
        raise InputError("pretrain: runs in one process; fit takes several")
    adapter = registry.adapter(config.modality)
    settings = make_settings(config.modality, given, PAPER_RECIPE)
    folder = Path(config.output)
    run.check_output(folder, config.resume)
    device = pick_device(config.device, config.precision)
    items = adapter.read(config.data, settings, config.skip_bad)
    if config.held_out is None:
        share = max(1, len(items) // 50)
        items, held_out_items = split_items(items, share, config.seed, config.data, "--held-out")
    else:
        held_out_items = adapter.read(config.held_out, settings, config.skip_bad)

    with run.locked(folder), SignalWatch() as signals:
        checkpoints = Checkpoints(
            folder=folder / run.CHECKPOINTS,
            facts=fixed(config, settings),
            machine=machine(device),
            resume=config.resume,
            signals=signals,
        )
        modality = adapter.build(items, settings, config, checkpoints.part("codec", {}))
        modality.model.to(device)
        _check_space(folder, modality.model, 0, config.checkpoint_every)
        tokens = modality.encode(items)
        held_out = modality.encode(held_out_items)[:PRETRAIN_HELD_OUT]
        plan = Plan(
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            precision=config.precision,
            pretraining=True,
            checkpoint_every=config.checkpoint_every,
        )
        facts = facts_of(config.modality, config, settings, tokens, device)
        result = _train(modality, tokens, plan, Looks(folder=folder), checkpoints.part(".", fixed_data(tokens)))
        facts |= {"training": asdict(result), "held_out": predictions(modality.model, held_out)}
        run.finish(folder, lambda temporary: write_base(temporary, modality, facts))
    return Run(folder, modality, facts)


def load(
    source: str | Path,
    *,
    modality: str | None = None,
    device: str = "auto",
    allow_pickle_weights: bool = False,
    **settings: Any,
) -> Run:
    """A run, a base folder or a hub id; a folder tells its modality, a hub id needs `modality`.

    Args:
        allow_pickle_weights: read pickled weights (.bin), through torch's restricted unpickler, where no others are.

    Raises:
        InputError: there is nothing to load, or nothing tells the modality.
    """
    source = str(source)
    name, resolved = stored_settings(source, modality, settings)
    target = pick_device(device)
    loaded = registry.adapter(name).load(source, resolved, allow_pickle_weights)
    loaded.model.to(target).eval()
    return Run(Path(source), loaded, read_record(source))


def evaluate(trained: Run | str | Path, config: EvaluateConfig | None = None, **options: Any) -> Comparison:
    """A run beside everything that one would try on its base instead (`lineup`), each row with its intervals.

    Args:
        trained: a run, or its folder.
        options: fields of `EvaluateConfig`.

    Returns:
        `.records` (the table), `.figure()` (the pictures or texts) and `.notes` (how the costlier measures were made).

    Raises:
        InputError: not a hyperfitted run, it does not say its base, the base does not fit it, or there are fewer
            examples than asked for.
    """
    config, others = split_options(EvaluateConfig, config, options)
    if others:
        raise InputError(f"{flag(min(others))}: not an option of evaluate")
    folder = trained.folder if isinstance(trained, Run) else Path(trained)
    training, held_out = stored_tokens(folder, TRAINING_TOKENS), stored_tokens(folder, HELD_OUT_TOKENS)
    name, settings = stored_settings(str(folder), None, {})
    base = _baseline(folder, config.baseline, name)
    items = None if config.data is None else registry.adapter(name).read(config.data, settings, config.skip_bad)

    settings = trained.modality.settings if isinstance(trained, Run) else settings
    how = asdict(settings) | {"modality": name, "device": config.device}
    untrained = load(base, allow_pickle_weights=config.allow_pickle_weights, **how).modality
    modality = (trained if isinstance(trained, Run) else load(folder, device=config.device)).modality
    if untrained.model.num_tokens != modality.model.num_tokens:
        sizes = f"{untrained.model.num_tokens} ids, the run {modality.model.num_tokens}"
        raise InputError(f"--baseline {base}: its model has {sizes}")
    if items is not None:
        wanted = config.count or len(held_out)
        held_out = _held_out(modality, items, wanted + len(training), config.seed, training)[:wanted]
    require_count("--count", config.count, held_out)
    held_out = checked_ids(str(folder / HELD_OUT_TOKENS), held_out, untrained.model.num_tokens)
    compare = _comparison(untrained, training, held_out[: config.count], config.max_new_tokens, config.seed)
    external = None
    if config.completions is not None:
        external = read_completions(config.completions, compare.prompts, compare.num_new, modality.model.num_tokens)
    compare.yardstick = untrained.yardstick(training, compare.held_out)
    models = lineup.Models(untrained.model, modality.model, compare.held_out)
    for row in lineup.rows(config.seed):
        lineup.add(compare, row, models)
    if external is not None:
        compare.append(Path(config.completions or "").name, external)
    compare.add_original()
    return compare


def _baseline(folder: Path, asked: str | None, name: str) -> str:
    """Where the base of a run is.

    Raises:
        InputError: the run does not say it and nobody else does, or it is of another modality.
    """
    base = asked or read_record(str(folder)).get("base")
    if not isinstance(base, str):
        raise InputError(f"{folder}: does not say which base it started from; give --baseline")
    run.check_finished(Path(base))
    found = registry.identify(Path(base)) if Path(base).is_dir() else None
    if found not in (None, name):
        raise InputError(f"--baseline {base}: is of modality '{found}', {folder} of '{name}'")
    return embedded_base(name) if base == name else base


def _check_last_layers(model: Any, last_layers: int) -> None:
    if last_layers > len(model.blocks):
        raise InputError(f"--last-layers {last_layers}: the model has {len(model.blocks)} blocks")


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
        micro_batch_size=config.micro_batch_size,
        recompute=config.recompute,
        checkpoint_every=(config.checkpoint_every or 0) * per_epoch,
        checkpoint_seconds=CHECKPOINT_SECONDS if config.checkpoint_every is None else math.inf,
    )


def _training(modality: Any, items: Any, config: FitConfig) -> Tensor:
    """(N, T) tokens of the items; of the model's own samples where there are no items."""
    if items is None:
        return draw(modality, config.num_samples or 0, modality.sequence_length, config.seed, "training")
    return modality.encode(items, config.num_samples, config.seed)


def _held_out(modality: Any, items: Any, count: int, seed: int, training: Tensor) -> Tensor:
    """At most `count` sequences (N, T) that are not trained on; own samples where there are no items."""
    if items is None:
        return unseen(draw(modality, count, modality.sequence_length, seed, "held-out"), training)
    return unseen(modality.examples(items, count, seed), training)


def _comparison(modality: Any, training: Tensor, held_out: Tensor, asked: int | None, seed: int) -> Comparison:
    prompts = modality.prompts(held_out)
    fixed = modality.end_token is None
    return Comparison(modality, training, held_out, prompts, asked or new_tokens(held_out, prompts, fixed), seed)


def _check_space(folder: Path, model: Any, last_layers: int, checkpoint_every: int | None) -> None:
    """Room for the result, and for the checkpoints that are kept while another one is written; a resumed run has some
    of them already."""
    result = 4 * sum(parameter.numel() for parameter in model.parameters())
    states = state_bytes(model, last_layers) * (1 if checkpoint_every == 0 else KEPT + 1)
    check_space(folder, result + max(state_bytes(model, last_layers), states - bytes_in(folder / run.CHECKPOINTS)))


def _train(
    modality: Any,
    tokens: Tensor,
    plan: Plan,
    looks: Looks,
    checkpoints: Checkpoints,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> FitResult:
    """The training loop with the run folder attached, by the first process: metrics, checkpoints, resume."""
    state = checkpoints.newest()
    writing: dict[str, Any] = {}
    if processes.is_first:
        run.rewind_log(looks.folder, (state.step if state else 0) // steps_per_epoch(len(tokens), plan.batch_size))
        writing = {"on_epoch": looks.on_epoch, "on_checkpoint": checkpoints.save, "stop_rule": looks.stop_rule}
    return hyperfit(
        modality.model,
        tokens,
        plan,
        label="" if not processes.is_first else "pretrain" if plan.pretraining else "hyperfit",
        state=state,
        stop_signal=checkpoints.signals.number,
        whole_steps=checkpoints.signals.noting(),
        processes=processes,
        **writing,
    )
