"""Run the verbs: the table of contents of the program.

`fit` reads as the main job does: resolve, build, encode, measure before, hyperfit, measure after, publish.

Shape letters: N sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from hypergen import registry
from hypergen.checks import check_fit, check_pretrain
from hypergen.config import DecodingConfig, EvaluateConfig, FitConfig, PretrainConfig
from hypergen.data.base_card import base_card
from hypergen.data.loss_mask import cut_prompts, num_completed
from hypergen.data.splits import require_count, split_items, unseen
from hypergen.decoding.self_samples import sample_training_set
from hypergen.errors import InputError
from hypergen.evaluation import baselines
from hypergen.evaluation.comparison import Comparison
from hypergen.evaluation.external_completions import read_completions
from hypergen.evaluation.interpolation import require_alike
from hypergen.evaluation.predictions import predictions
from hypergen.keywords import (
    DecodingAndSettingsKeywords,
    EvaluateKeywords,
    FitKeywords,
    Items,
    OnEpoch,
    PretrainKeywords,
    SettingsKeywords,
    speaks_python,
)
from hypergen.modality import Adapter, Encoded, Item, Modality, TrainableModel
from hypergen.objects import are_ids, chosen_ids, split_objects
from hypergen.options import (
    ResolvedFit,
    base_of,
    embedded_base,
    fit_plan,
    fit_recipe,
    make_settings,
    modality_of,
    num_held_out,
    only_options,
    pretrain_plan,
    read_card,
    read_items,
    read_record,
    split_options,
    stored_settings,
)
from hypergen.publish import write_base, write_run
from hypergen.report.columns import Columns
from hypergen.report.verdicts import Verdict
from hypergen.run import Run, load_run
from hypergen.runtime.devices import describe_machine, pick_device
from hypergen.runtime.distributed import Processes, join_processes
from hypergen.runtime.progress import note
from hypergen.runtime.signals import SignalWatch
from hypergen.storage import metrics_log, run_folder
from hypergen.storage.atomic import bytes_in, check_space
from hypergen.storage.file_names import CHECKPOINTS, HELD_OUT_TOKENS, TRAINING_TOKENS
from hypergen.storage.lock import lock_folder
from hypergen.storage.run_record import (
    data_fingerprint,
    differing_option,
    fixed_options,
    held_out_fingerprint,
    lasting_name,
    run_facts,
)
from hypergen.storage.token_files import checked_ids, stored_loss_mask, stored_tokens
from hypergen.training.batch_order import steps_per_epoch
from hypergen.training.checkpoints import KEPT, Checkpoints
from hypergen.training.loop import hyperfit
from hypergen.training.monitor import Tracker, TrainingMonitor
from hypergen.training.parameters import base_fingerprint, check_last_layers, checkpoint_bytes
from hypergen.training.plan import FitResult, Plan

PRETRAIN_HELD_OUT = 64  # sequences, at most, whose loss a new base reports


@speaks_python(FitKeywords)
def fit(
    config: FitConfig | None = None,
    *,
    tokenizer: object = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = True,
    **options: Unpack[FitKeywords],
) -> Run:
    """Hyperfit a base and compare its completions before and after.

    Args:
        config: ready-made options; else every field of `FitConfig` is a keyword.
        tokenizer: of a model that is given as an object; by default the one that lies where that was loaded from.
        on_epoch: called after each epoch with its number, from 1, and its metrics by name.
        progress: False shows none.
        options: those keywords, and the fields of the modality's `Settings`. `data` and `prompts` may be lists, a
            `datasets.Dataset`, a pandas DataFrame or an (N, T) tensor of ids; `model` a Run or a model of transformers,
            which is trained in place.

    Returns:
        The published run: `.verdict` says whether it is hyperfitted, `.records` is the before/after table,
        `.folder / "report.html"` the page.

    Raises:
        HypergenError: one line that says what, where, the value, what is allowed (see `hypergen.errors`).
    """
    # 1. Resolve: the base, the options, the items.
    told, objects = split_objects(options, tokenizer)
    typed, given = split_options(FitConfig, config, told)
    typed, name = check_fit(typed, given, objects.sources)
    base, adapter = typed.model or embedded_base(name), registry.adapter(name)
    card = read_card(adapter, name, typed.model)
    recipe = fit_recipe(card, typed.data)
    resolved = ResolvedFit.of(typed, name, recipe)
    settings = adapter.prepare_fit(settings=make_settings(name, given, recipe), config=resolved)
    folder = Path(resolved.output) if resolved.output else None
    processes = join_processes(resolved.device)
    if folder is not None and run_folder.is_finished(folder, resolved.resume):
        return _finished(folder, resolved, settings, processes)
    device = pick_device(resolved.device, resolved.precision)
    training_items, held_out_items = read_items(adapter, settings, resolved, objects)

    with _workplace(folder, processes, name) as (folder, signals):
        # 2. Build the model.
        modality = objects.load(adapter, base, settings, allow_pickle_weights=resolved.allow_pickle_weights)
        settings = modality.settings
        check_last_layers(modality.model, resolved.last_layers)
        modality.model.to(device)
        if processes.is_first:
            _check_space(folder, modality.model, resolved.last_layers, resolved.checkpoint_every)

        # 3. Encode the training set and the held-out items; count these before a training set is drawn.
        if training_items is None and held_out_items is not None and resolved.held_out_samples is not None:
            held_out = modality.encode_held_out(held_out_items, count=resolved.held_out_samples, seed=resolved.seed)
            require_count("--held-out-samples", resolved.held_out_samples, held_out.tokens)
        training = _training_tokens(modality, training_items, resolved)
        data = data_fingerprint(*training)
        processes.check_equal("training sequences", data)
        held_out = _held_out_tokens(modality, held_out_items, num_held_out(resolved), resolved.seed, training)
        require_count("--held-out-samples", resolved.held_out_samples, held_out.tokens)

        # 4. Measure before.
        compare = _comparison(modality, training, held_out, resolved.max_new_tokens, resolved.seed)
        before, after = baselines.fit_baselines(resolved.seed)
        if processes.is_first:
            compare.add_all(before)

        # 5. Hyperfit.
        facts = run_facts(
            resolved, settings, training.tokens, device, libraries=adapter.LIBRARIES, loss_mask=training.loss_mask
        )
        facts |= {"base": _recorded_base(name, resolved.model)}
        label = "hash the base" if processes.is_first else ""
        checkpoints = Checkpoints(
            folder=folder / CHECKPOINTS,
            facts=fixed_options(resolved, settings)
            | data
            | held_out_fingerprint(*held_out)
            | base_fingerprint(modality.model, resolved.last_layers, label=label),
            machine=describe_machine(device) | {"processes": processes.count},
            resume=resolved.resume,
            signals=signals,
        )
        monitor = TrainingMonitor(
            folder=folder,
            quick_metrics=compare.quick_metrics,
            every=resolved.measure_every,
            max_overlap=resolved.max_overlap,
            trackers=_trackers(on_epoch),
        )
        plan = fit_plan(resolved, len(training.tokens))
        result = _train(modality, training, plan, monitor, checkpoints, processes)
        processes.finish_other_ranks()

        # 6. Measure after.
        compare.add_all(after)
        compare.add_original(baselines.ORIGINAL)

        # 7. Publish.
        facts |= {"training": asdict(result), "comparison": compare.records, "compared": compare.sizes}
        facts |= {"look_before": compare.initial_metrics(baselines.BASE_GREEDY), "base_card": _base_card(base, card)}
        verdict = _judge(compare, folder, adapter)
        facts |= {"verdict": None if verdict is None else verdict.as_record(), "example": compare.example()}
        facts |= {"date": f"{datetime.now(UTC):%Y-%m-%d}"}
        run_folder.finish(folder, lambda temporary: write_run(temporary, folder, modality, compare, facts))
    return Run(folder, modality, facts)


@speaks_python(PretrainKeywords)
def pretrain(
    config: PretrainConfig | None = None,
    *,
    on_epoch: OnEpoch | None = None,
    progress: bool = True,
    **options: Unpack[PretrainKeywords],
) -> Run:
    """Train a base from scratch: a codec, then the transformer, through the training loop of `fit`.

    Args:
        config: ready-made options; else every field of `PretrainConfig` is a keyword.
        on_epoch: called after each epoch with its number, from 1, and its metrics by name.
        progress: False shows none.
        options: those keywords, and the fields of the modality's `Settings`; `data` and `held_out` may be objects, as
            in `fit`, but no ids.
    """
    # 1. Resolve: the options, the items.
    told, objects = split_objects(options)
    resolved, given = split_options(PretrainConfig, config, told)
    check_pretrain(resolved, given, objects.sources)
    adapter = registry.adapter(resolved.modality)
    settings = make_settings(resolved.modality, given, registry.paper_recipe(resolved.modality))
    folder = Path(resolved.output)
    if run_folder.is_finished(folder, resolved.resume):
        return _finished(folder, resolved, settings, Processes())
    device = pick_device(resolved.device, resolved.precision)
    items = objects.read(adapter, "data", resolved.data, settings, resolved.skip_bad)
    if resolved.held_out is None:
        share = max(1, len(items) // 50)
        items, held_out_items = split_items(
            items,
            share,
            resolved.seed,
            resolved.data,
            "--held-out",
            cut=lambda item: adapter.cut(item=item, count=PRETRAIN_HELD_OUT, settings=settings),
        )
    else:
        held_out_items = objects.read(adapter, "held_out", resolved.held_out, settings, resolved.skip_bad)
    if are_ids(items) or are_ids(held_out_items):
        raise InputError("--data: is a tensor of ids; pretrain makes the codec first, and needs items")

    with _workplace(folder, Processes(), resolved.modality) as (folder, signals):
        # 2. Build the codec and an untrained model.
        checkpoints = Checkpoints(
            folder=folder / CHECKPOINTS,
            facts=fixed_options(resolved, settings),
            machine=describe_machine(device),
            resume=resolved.resume,
            signals=signals,
        )
        codec_checkpoints = checkpoints.part("codec", {})
        modality = adapter.build(items=items, settings=settings, config=resolved, checkpoints=codec_checkpoints)
        modality.model.to(device)
        _check_space(folder, modality.model, 0, resolved.checkpoint_every)

        # 3. Encode the training set and the held-out items.
        tokens = modality.encode(items)
        held_out = modality.encode(held_out_items)[:PRETRAIN_HELD_OUT]

        # 4. Train, measure and publish.
        facts = run_facts(resolved, settings, tokens, device, libraries=adapter.LIBRARIES)
        of_model = checkpoints.part(".", data_fingerprint(tokens) | held_out_fingerprint(held_out))
        monitor = TrainingMonitor(
            folder=folder, quick_metrics=None, every=0, max_overlap=None, trackers=_trackers(on_epoch)
        )
        result = _train(modality, Encoded(tokens), pretrain_plan(resolved), monitor, of_model, Processes())
        facts |= {"training": asdict(result), "held_out": predictions(modality.model, held_out)}
        run_folder.finish(folder, lambda temporary: write_base(temporary, folder, modality, facts))
    return Run(folder, modality, facts)


@speaks_python(SettingsKeywords)
def load(
    source: str | PathLike[str] | None = None,
    *,
    modality: str | None = None,
    device: str = "auto",
    allow_pickle_weights: bool = False,
    progress: bool = True,
    **settings: Unpack[SettingsKeywords],
) -> Run:
    """Load a run, a base (folder, file or name) or a hub id, which alone does not tell its modality.

    Args:
        source: the folder, file, name or id; None takes the embedded base of the modality.
        modality: its modality, where the source does not tell.
        device: auto, cpu, cuda, cuda:N or mps.
        allow_pickle_weights: read pickled weights (.bin), through torch's restricted unpickler, where no others are.
        progress: False shows none.
        settings: fields of the modality's `Settings`.

    Raises:
        InputError: there is nothing to load, or nothing tells the modality.
    """
    source = embedded_base(modality_of(modality, None)[0]) if source is None else str(source)
    source, name, resolved = stored_settings(source, modality, dict(settings))
    return load_run(source, name, resolved, device=device, allow_pickle_weights=allow_pickle_weights)


@speaks_python(DecodingAndSettingsKeywords)
def generate(
    source: Run | str | PathLike[str] | None = None,
    prompts: Items = None,
    *,
    max_new_tokens: int | None = None,
    modality: str | None = None,
    device: str = "auto",
    allow_pickle_weights: bool = False,
    progress: bool = True,
    **options: Unpack[DecodingAndSettingsKeywords],
) -> list[Item]:
    """Load a run or base and continue prompts with it, in one call: `load` and `Run.generate`.

    Args:
        source: a run, or what `load` takes; None takes the embedded base of the modality.
        prompts: one item or several; None takes the prompts of the run's held-out sequences.
        max_new_tokens: None is the modality's choice.
        modality: as in `load`.
        device: as in `load`.
        allow_pickle_weights: as in `load`.
        progress: False shows none.
        options: fields of `DecodingConfig`, and of the modality's `Settings` where a source is loaded.
    """
    _, others = split_options(DecodingConfig, None, dict(options))
    if not isinstance(source, Run):
        how = {"modality": modality, "device": device, "allow_pickle_weights": allow_pickle_weights}
        source = load(source, **how, **others)  # type: ignore[arg-type]
    elif others:
        only_options(DecodingConfig, None, dict(options), "generate with a run that is loaded")
    given = {name: value for name, value in options.items() if name not in others}
    return source.generate(prompts, max_new_tokens=max_new_tokens, **given)  # type: ignore[arg-type]


@speaks_python(EvaluateKeywords)
def evaluate(
    trained: Run | str | PathLike[str],
    config: EvaluateConfig | None = None,
    *,
    progress: bool = True,
    **options: Unpack[EvaluateKeywords],
) -> Comparison:
    """Compare a run with every baseline that its base allows (`evaluation.baselines`), each row with its intervals.

    Args:
        trained: a run, or its folder.
        config: ready-made options; else every field of `EvaluateConfig` is a keyword.
        progress: False shows none.
        options: those keywords; `data` may be an object, as in `fit`.

    Returns:
        `.verdict` (whether it is hyperfitted), `.records` (the table), `.figure()` (the pictures or texts) and `.notes`
        (how the costlier metrics were made).

    Raises:
        InputError: not a hyperfitted run, it does not say its base, the base does not fit it, or there are fewer
            examples than asked for.
    """
    # 1. Resolve: the run's stored sequences, its base, the items.
    told, objects = split_objects(options)
    resolved = only_options(EvaluateConfig, config, told, "evaluate")
    folder = trained.folder if isinstance(trained, Run) else Path(registry.identify(str(trained)).source)
    training, held_out = (
        Encoded(stored_tokens(folder, name), stored_loss_mask(folder, name))
        for name in (TRAINING_TOKENS, HELD_OUT_TOKENS)
    )
    _, name, settings = stored_settings(str(folder), None, {})
    recorded, is_typed = read_record(str(folder)).get("base"), resolved.baseline is not None
    base = base_of(folder, resolved.baseline or recorded, name, "; give --baseline", is_typed=is_typed)
    items = None
    if resolved.data is not None:
        items = objects.read(registry.adapter(name), "data", resolved.data, settings, resolved.skip_bad)

    # 2. Load both models.
    settings = trained.modality.settings if isinstance(trained, Run) else settings
    how = asdict(settings) | {"modality": name, "device": resolved.device}
    untrained = load(base, allow_pickle_weights=resolved.allow_pickle_weights, **how).modality
    modality = (trained if isinstance(trained, Run) else load(folder, device=resolved.device)).modality
    if untrained.model.num_tokens != modality.model.num_tokens:
        sizes = f"{untrained.model.num_tokens} ids, the run {modality.model.num_tokens}"
        raise InputError(f"--baseline {base}: its model has {sizes}")
    if resolved.interpolations:
        require_alike(untrained.model, modality.model)

    # 3. Encode the held-out items.
    if items is not None:
        wanted = resolved.count or len(held_out.tokens)
        held_out = _held_out_tokens(modality, items, wanted + len(training.tokens), resolved.seed, training)
        held_out = _first(held_out, wanted)
    require_count("--count", resolved.count, held_out.tokens)
    checked_ids(str(folder / HELD_OUT_TOKENS), held_out.tokens, untrained.model.num_tokens)
    held_out = _first(held_out, resolved.count)

    # 4. Decode and measure every row.
    compare = _comparison(untrained, training, held_out, resolved.max_new_tokens, resolved.seed, with_references=True)
    external = None
    if resolved.completions is not None:
        external = read_completions(
            resolved.completions, compare.prompts, compare.num_new, modality.model.num_tokens, compare.end_tokens
        )
    models = baselines.Models(untrained.model, modality.model, *held_out)
    for baseline in baselines.baselines(resolved.seed):
        baselines.add_row(compare, baseline, models)
    for alpha in resolved.interpolations:
        baselines.add_interpolated(compare, alpha, models)
    if resolved.completions is not None and external is not None:
        compare.append(Path(resolved.completions).name, external)
    compare.add_original(baselines.ORIGINAL)
    _judge(compare, folder, registry.adapter(name))
    return compare


def _judge(compare: Comparison, folder: Path, adapter: Adapter) -> Verdict | None:
    """Judge a run by its comparison and by the log of its training."""
    losses = [row["loss"] for row in metrics_log.read_metrics(folder) if "loss" in row]
    return compare.judge(Columns.of(adapter.METRICS), (losses[0], losses[-1]) if losses else None)


def _recorded_base(modality: str, model: str | None) -> str:
    """Name the base so that `evaluate` finds it from anywhere; a modality's name stands for its embedded base."""
    if model is None:
        return modality
    return model if registry.is_named(model) else lasting_name(model)


def _base_card(base: str, card: Mapping[str, Any]) -> dict[str, str]:
    """Find license and hub id of a base: in the card of a named one, else in its folder or on the hub."""
    if "source" in card:
        return {"base_model": card["source"], "license": card["license"]}
    return base_card(base)


@contextmanager
def _workplace(folder: Path | None, processes: Processes, modality: str) -> Iterator[tuple[Path, SignalWatch]]:
    """Lock the run folder, or a new one where none is named, in the first process; and watch for signals."""
    if not processes.is_first:
        with SignalWatch() as signals:
            yield folder or run_folder.free_output(modality), signals
        return
    with (
        nullcontext(folder) if folder is not None else run_folder.new_output(modality) as place,
        lock_folder(place),
        SignalWatch() as signals,
    ):
        yield place, signals


def _finished(folder: Path, config: ResolvedFit | PretrainConfig, settings: Any, processes: Processes) -> Run:
    """Load a run that is to be continued and is finished already.

    Raises:
        InputError: it was made with other options.
    """
    run = load(folder, modality=config.modality, device=config.device, **asdict(settings))
    other = differing_option(run.record, fixed_options(config, run.modality.settings))
    if other is not None:
        raise InputError(f"--output {folder}: holds a finished run with {other}; name a new folder")
    processes.finish_other_ranks()
    run_folder.remove_traces(folder)
    note(f"--resume: {folder} is finished already")
    return run


def _training_tokens(modality: Modality, items: Sequence[Item] | None, config: ResolvedFit) -> Encoded:
    """Encode the items, or sample sequences from the base where there are none."""
    if items is None:
        return Encoded(sample_training_set(modality, config.num_samples, seed=config.seed, purpose="training"))
    if are_ids(items):
        return chosen_ids(items, modality, config.num_samples, config.seed)
    return modality.encode_training(items, count=config.num_samples, seed=config.seed)


def _held_out_tokens(
    modality: Modality, items: Sequence[Item] | None, count: int, seed: int, training: Encoded
) -> Encoded:
    """Encode at most `count` sequences that are not trained on; own samples where there are no items."""
    if items is None:
        own = sample_training_set(modality, count, seed=seed, purpose="held-out")
        return unseen(Encoded(own), training.tokens)
    if are_ids(items):
        return unseen(chosen_ids(items, modality, min(count, len(items)), seed), training.tokens)
    return unseen(modality.encode_held_out(items, count=count, seed=seed), training.tokens)


def _first(sequences: Encoded, count: int | None) -> Encoded:
    """Keep the first sequences; all where there is no count."""
    tokens, loss_mask = sequences
    return Encoded(tokens[:count], None if loss_mask is None else loss_mask[:count])


def _comparison(
    modality: Modality,
    training: Encoded,
    held_out: Encoded,
    max_new_tokens: int | None,
    seed: int,
    *,
    with_references: bool = False,
) -> Comparison:
    """Start a comparison; the modality chooses the length of completions that the user leaves open.

    The costlier metrics compare sequences of one length, so there are none of examples with a loss mask.
    """
    prompts = cut_prompts(modality, *held_out)
    num_left = num_completed(prompts, held_out.tokens.shape[1], modality.model.context_length)
    references = None
    if with_references and held_out.loss_mask is None:
        references = modality.reference_metrics(training=training.tokens, originals=held_out.tokens)
    compare = Comparison(
        modality,
        training.tokens,
        held_out.tokens,
        num_new=modality.num_compared_tokens(num_left) if max_new_tokens is None else max_new_tokens,
        seed=seed,
        base=modality.model if with_references else None,
        reference_metrics=references,
        training_mask=training.loss_mask,
        held_out_mask=held_out.loss_mask,
        columns=Columns.of(registry.adapter(modality.name).METRICS),
    )
    if with_references and references is None:
        compare.remarks["reference metrics"] = "not measured: the examples have a loss mask, and not one length"
    return compare


@dataclass(frozen=True)
class _Callback:
    """Tell a function of each epoch; see `training.monitor.Tracker`."""

    on_epoch: OnEpoch

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Report an epoch."""
        self.on_epoch(epoch, metrics)


def _trackers(on_epoch: OnEpoch | None) -> Sequence[Tracker]:
    return () if on_epoch is None else (_Callback(on_epoch),)


def _check_space(folder: Path, model: TrainableModel, last_layers: int, checkpoint_every: int | None) -> None:
    """Refuse a disk without room for the result and the checkpoints that are kept while another one is written.

    A resumed run has some of them already.
    """
    result = 4 * sum(parameter.numel() for parameter in model.parameters())
    one = checkpoint_bytes(model, last_layers)
    states = one * (1 if checkpoint_every == 0 else KEPT + 1)
    check_space(folder, result + max(one, states - bytes_in(folder / CHECKPOINTS)))


def _train(
    modality: Modality,
    training: Encoded,
    plan: Plan,
    monitor: TrainingMonitor,
    checkpoints: Checkpoints,
    processes: Processes,
) -> FitResult:
    """Run the training loop with the run folder attached, by the first process: metrics, checkpoints, resume."""
    hooks, label = checkpoints.hooks(), ""
    if processes.is_first:
        per_epoch = steps_per_epoch(len(training.tokens), plan.batch_size)
        done = 0 if hooks.state is None else hooks.state.step // per_epoch
        metrics_log.rewind_metrics(monitor.folder, done)
        hooks = replace(hooks, on_epoch=monitor.on_epoch, on_checkpoint=checkpoints.save, stop_rule=monitor.stop_rule)
        label = "pretrain" if plan.pretraining else "hyperfit"
    return hyperfit(
        modality.model,
        training.tokens,
        plan,
        hooks,
        label=label,
        processes=processes,
        loss_mask=training.loss_mask,
    )
