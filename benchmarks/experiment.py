"""Run one base of the cross-domain suite with one seed: trainings, comparisons, and a record for each row."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from presets import SELF, BasePlan
from suite_records import (
    FORMAT,
    SuiteRecord,
    read,
    short_hash,
    slug,
    to_json,
    to_tensor,
    with_file_hashes,
    write,
)
from torch import Tensor

import hypergen
from hypergen import registry
from hypergen.errors import InputError
from hypergen.evaluation import baselines
from hypergen.evaluation.baselines import Baseline
from hypergen.evaluation.bootstrap import summaries
from hypergen.evaluation.comparison import ComparedModel, Comparison
from hypergen.options import embedded_base, read_record
from hypergen.report.columns import Columns
from hypergen.run import Run
from hypergen.storage.file_names import HELD_OUT_TOKENS, MANIFEST
from hypergen.storage.metrics_log import read_metrics
from hypergen.storage.run_record import tensor_sha256

OWN_TRAININGS = ("early", "layers", "other-data")  # of rows that need more than base and main run


class Experiment:
    """Run one base with one seed: its trainings, each made when first needed, and its records."""

    def __init__(self, base: BasePlan, seed: int, sources: dict[str, str | None], work: Path, device: str):
        self.base_plan, self.seed, self.work, self.device = base, seed, work, device
        self.data, self.other_data = (sources.get(one, one) for one in (base.data, base.other_data))
        if self.data is None:
            raise InputError(f"{base.data}: needed for {base.name}")
        self._loaded: dict[str, Run] = {}
        self._comparisons: dict[tuple[bool, int | None], Comparison] = {}

    @property
    def missing(self) -> str:
        """A sentence below the table about a row that it lacks; empty: there is none."""
        if self.other_data is not None:
            return ""
        return f"The row of the training on real data needs {self.base_plan.other_data}."

    @property
    def columns(self) -> Columns:
        """Every metric that the tables may have."""
        return Columns.of(registry.adapter(self.base_plan.options["modality"]).METRICS)

    @property
    def rows(self) -> list[Baseline]:
        """Baselines, rows with a training of their own, and the originals."""
        kind = "real data" if self.data == SELF else "own samples"
        layers = f"last {self.base_plan.other_layers} blocks" if self.base_plan.other_layers else "all blocks"
        further = {"early": "early-stopped greedy", "layers": f"hyperfitted {layers}, greedy"}
        if self.other_data is not None:
            further["other-data"] = f"hyperfitted on {kind}, greedy"
        trained = [Baseline(name=name, model=key, describes=True) for key, name in further.items()]
        return [*baselines.baselines(self.seed), *trained, Baseline(name=baselines.ORIGINAL, model="original")]

    # The trainings.

    def prepare(self, records: Path) -> None:
        """Make the trainings that missing records need, before any model is loaded.

        The 8B base, its run and the state of another training together are more than a GPU holds.
        """
        wanted = [(row, new) for row in self.rows for new in self.base_plan.new_tokens]
        missing = [row.model for row, new in wanted if self.recorded(row, new, records) is None]
        further = [name for name in OWN_TRAININGS if name in {*missing, self.prompts_run}]
        for name in ("hyperfitted", *further) if missing else ():
            self.trained(name)

    def options(self, name: str) -> dict[str, Any]:
        """Choose the keywords of `hypergen.fit` for one of the trainings, the early-stopped one without its epochs."""
        changes: dict[str, dict[str, Any]] = {
            "other-data": {"data": self.other_data},
            "layers": {"last_layers": self.base_plan.other_layers},
            "early": {"target_loss": 0.0},
        }
        shared = {"data": self.data, "seed": self.seed, "held_out_samples": self.base_plan.count}
        shared["measure_every"] = int(name == "hyperfitted")  # whose curves are drawn and give the early stop
        return self.base_plan.options | shared | changes.get(name, {})

    def trained(self, name: str) -> Path:
        """Train, or go on with a training, where that is not done; return its folder."""
        options = self.options(name)
        folder = self.work / f"{self.base_plan.name}-{name}-seed{self.seed}-{short_hash(with_file_hashes(options))}"
        if not (folder / MANIFEST).is_file():
            if name == "early":
                options |= {"epochs": self.best_epoch()}
            hypergen.fit(**options, output=str(folder), device=self.device, resume=True)
        return folder

    def run(self, name: str) -> Run:
        """Load the run of a training."""
        if name not in self._loaded:
            folder = self.trained(name)
            for other in self._loaded.keys() - {"hyperfitted"}:
                del self._loaded[other]  # one at a time beside base and main run
            self._loaded[name] = hypergen.load(folder, device=self.device)
        return self._loaded[name]

    def log(self) -> list[dict[str, Any]]:
        """Read the metrics of the main run by epoch, epoch 0 included."""
        folder = self.trained("hyperfitted")
        return [{"epoch": 0} | read_record(str(folder))["look_before"], *read_metrics(folder)]

    def best_epoch(self) -> int:
        """Find the epoch with the lowest held-out loss, 1 or later.

        The order of batches depends on seed and epoch alone, so a training of that many epochs ends at just that
        checkpoint.
        """
        return min(self.log()[1:], key=lambda row: row["held_out_loss"])["epoch"]

    # The models by name, for `baselines.add_row`.

    @cached_property
    def base_run(self) -> Run:
        """The base, loaded."""
        options = self.base_plan.options
        source = options.get("model") or embedded_base(options["modality"])
        how = {name: options[name] for name in ("modality", "allow_pickle_weights") if name in options}
        return hypergen.load(source, device=self.device, **how)

    @cached_property
    def controls(self) -> baselines.Models:
        """The models that are computed from base and main run."""
        return baselines.Models(self.base_run.modality.model, self.run("hyperfitted").modality.model, self.held_out)

    def __getitem__(self, name: str) -> ComparedModel:
        """Look a model up: the base, a control, or that of a training."""
        if name in ("entropy_matched", "logit_biased"):
            return self.controls[name]
        return (self.base_run if name == "base" else self.run(name)).modality.model

    # The records.

    @property
    def prompts_run(self) -> str:
        """The training whose held-out items everything is compared on: of real data where there are any."""
        return "other-data" if self.data == SELF and self.other_data is not None else "hyperfitted"

    @cached_property
    def held_out(self) -> Tensor:
        """(N, T) sequences that no training has seen."""
        held_out = self.run(self.prompts_run).tokens(HELD_OUT_TOKENS)
        if len(held_out) < self.base_plan.count:
            raise InputError(f"{self.base_plan.name}: {self.base_plan.count} prompts asked, there are {len(held_out)}")
        return held_out[: self.base_plan.count]

    def comparison(self, row: Baseline, new: int | None) -> Comparison:
        """Prepare the comparison with the training set of the row's own run: that is what it may quote."""
        is_other = row.model == "other-data"
        if (is_other, new) not in self._comparisons:
            modality, held_out = self.base_run.modality, self.held_out
            num_left = held_out.shape[1] - modality.prompts(held_out).shape[1]
            training = self.run("other-data" if is_other else "hyperfitted").tokens()
            self._comparisons[is_other, new] = Comparison(
                modality,
                training,
                held_out,
                num_new=new or modality.num_compared_tokens(num_left),
                seed=self.seed,
                base=modality.model,
                reference_metrics=modality.reference_metrics(training, held_out),
            )
        return self._comparisons[is_other, new]

    def record(self, row: Baseline, new: int | None, records: Path) -> SuiteRecord:
        """Read the record of a row, or make one where there is none of the same plan.

        Originals that are too short for the completions give one without values.
        """
        recorded = self.recorded(row, new, records)
        if recorded is not None:
            return recorded
        path = self.path(row, new, records)
        values = self.measure(row, new, records, path.stem)
        facts = self.facts(self.run(self.training_of(row))) | self.numbers(values, self.comparison(row, new), row)
        plan = self.plan(row, new)
        made = SuiteRecord(base=self.base_plan.name, row=row.name, seed=self.seed, new_tokens=new, plan=plan, **facts)
        write(path, asdict(made))
        return made

    def recorded(self, row: Baseline, new: int | None, records: Path) -> SuiteRecord | None:
        """Read the record on the disk, where it is of this plan."""
        path = self.path(row, new, records)
        found = read(path)
        return SuiteRecord(**found) if found.get("plan") == self.plan(row, new) else None

    def path(self, row: Baseline, new: int | None, records: Path) -> Path:
        """Name the file of a record."""
        length = "" if new is None else f"-{new}"
        return records / f"{self.base_plan.name}{length}-seed{self.seed}-{slug(row.name)}.json"

    def plan(self, row: Baseline, new: int | None) -> dict[str, Any]:
        """List everything that a record depends on, as JSON gives it back."""
        names = dict.fromkeys((self.prompts_run, "hyperfitted", self.training_of(row)))
        plan = {"format": FORMAT, "hypergen": hypergen.__version__, "row": asdict(row)}
        plan |= {"prompts": self.base_plan.count, "new_tokens": new}
        plan |= {"trainings": {name: with_file_hashes(self.options(name)) for name in names}}
        return json.loads(json.dumps(plan))

    def training_of(self, row: Baseline) -> str:
        """Name the training that a row's facts are of; the main one for rows of the base."""
        return row.model if row.model in OWN_TRAININGS else "hyperfitted"

    def measure(self, row: Baseline, new: int | None, records: Path, name: str) -> dict[str, Tensor]:
        """Decode and measure a row, and note its time under this name."""
        compare = self.comparison(row, new)
        if row.model == "original":
            return compare.add_original(row.name) or {}
        _ = self[row.model]  # training and loading are not the row's time
        started = time.perf_counter()
        values = baselines.add_row(compare, row, self)
        write(records / "times.json", read(records / "times.json") | {name: round(time.perf_counter() - started, 2)})
        return values

    def facts(self, trained: Run) -> dict[str, Any]:
        """Describe training, prompts, versions and machine behind a record."""
        record = trained.record
        training = {key: record["training"][key] for key in ("loss", "epochs", "stopped_by")}
        config = record["config"] | record["settings"] | {"output": None, "device": None}
        return {
            "run_config": config | with_file_hashes({"data": config["data"]}),
            "training": training,
            "data_sha256": record["data_sha256"],
            "prompts_sha256": tensor_sha256(self.held_out),
            "prompts": [tensor_sha256(row)[:8] for row in self.held_out],
            "versions": record["versions"],
            "machine": record["machine"],
        }

    def numbers(self, values: dict[str, Tensor], compare: Comparison, row: Baseline) -> dict[str, Any]:
        """Summarize the metrics of a row, and keep the number of each example."""
        examples = {name: to_json(value) for name, value in values.items() if not bool(value.isnan().all())}
        numbers = summaries({name: to_tensor(value) for name, value in examples.items()}, self.seed)
        notes = {key: note for key, note in compare.notes.items() if key == row.name or key not in compare.remarks}
        return {"examples": examples, "values": numbers, "notes": notes}
