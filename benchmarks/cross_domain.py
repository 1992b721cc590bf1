"""Is hyperfitting better than what one would do otherwise? Text and pictures x strategies x seeds, with intervals.

    python benchmarks/cross_domain.py --preset tiny [--image-data PICTURES.zip]

Every row of a table has the same prompts and length (`hypergen.lineup` and the rows below that need a training of their
own). Each cell is one JSON file in `benchmarks/records/cross-domain-PRESET/`; a suite that was stopped goes on with the
cells that are missing, and trainings are runs in --work that are used again. Beside the cells: `table.md`, the
trade-off by epoch as `tradeoff-*.svg`, and `times.json`, the only file that differs between two runs on one machine.
Does not know: how anything works; it calls the package. `paper` needs a GPU, the data files and the hub.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from cells import FORMAT, Cell, described, read, rounded, section, short_hash, slug, tensor_of, write
from presets import PICTURES, PRESETS, SELF, TEXTS, Base
from torch import Tensor

import hypergen
from hypergen import lineup, report, report_chart, run
from hypergen.comparison import Comparison, new_tokens, summaries
from hypergen.errors import HypergenError, InputError
from hypergen.lineup import Row
from hypergen.loaded import HELD_OUT_TOKENS
from hypergen.record import sha256
from hypergen.resolve import embedded_base, read_record
from hypergen.signals import SignalWatch

OWN_TRAININGS = ("early", "layers", "other-data")  # of rows that need more than base and main run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--only", nargs="+", help="names of bases")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument(TEXTS, help="texts to train on, as --data of hypergen fit")
    parser.add_argument(PICTURES, help="pictures to train on, as --data of hypergen fit")
    parser.add_argument("--records", type=Path, help="folder of the cells")
    parser.add_argument("--work", type=Path, help="folder of the trainings")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    bases, seeds = PRESETS[given.preset]
    records = given.records or Path(__file__).parent / "records" / f"cross-domain-{given.preset}"
    work = given.work or Path("runs") / f"cross-domain-{given.preset}"
    try:
        chosen = [base for base in bases if given.only is None or base.name in given.only]
        if given.only and len(chosen) < len(set(given.only)):
            raise InputError(f"--only {' '.join(given.only)}: must be of {', '.join(base.name for base in bases)}")
        sources = {TEXTS: given.text_data, PICTURES: given.image_data}
        with SignalWatch():
            table = suite(chosen, given.seeds or seeds, sources, records, work, given.device)
        print(table)
    except HypergenError as error:
        print(f"cross_domain: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def suite(
    bases: Any, seeds: Any, sources: dict[str, str | None], records: Path, work: Path, device: str = "auto"
) -> str:
    """Compute the cells that are missing; write the table and return it."""
    records.mkdir(parents=True, exist_ok=True)
    sections = []
    for base in bases:
        contests = [Contest(base, seed, sources, work, device) for seed in seeds]
        for contest in contests:
            contest.prepare(records)
        for new in base.new_tokens:
            cells = [contest.cell(row, new, records) for contest in contests for row in contest.rows]
            title = f"{base.name}{'' if new is None else f', {new} new tokens'}: {base.count} prompts"
            filled = [cell for cell in cells if cell.values]
            short = f"No row of originals: they have fewer than {new} tokens after the prompt."
            missing = [contests[0].missing, short * (len(filled) < len(cells))]
            sections.append(section(title, filled, list(filter(None, missing))))
        for contest in contests:
            chart = report_chart.standalone(contest.curves())
            (records / f"tradeoff-{base.name}-seed{contest.seed}.svg").write_text(chart)
    table = "\n".join(sections)
    (records / "table.md").write_text(table)
    return table


class Contest:
    """One base and seed: its trainings, each made when first needed, and its cells."""

    def __init__(self, base: Base, seed: int, sources: dict[str, str | None], work: Path, device: str):
        self.base_plan, self.seed, self.work, self.device = base, seed, work, device
        self.data, self.other_data = (sources.get(one, one) for one in (base.data, base.other_data))
        if self.data is None:
            raise InputError(f"{base.data}: needed for {base.name}")
        self._loaded: dict[str, Any] = {}
        self._comparisons: dict[tuple[bool, int | None], Comparison] = {}

    @property
    def missing(self) -> str:
        """What the table lacks, for a sentence below it; empty: nothing."""
        if self.other_data is not None:
            return ""
        return f"The row of the training on real data needs {self.base_plan.other_data}."

    @property
    def rows(self) -> list[Row]:
        kind = "real data" if self.data == SELF else "own samples"
        layers = f"last {self.base_plan.other_layers} blocks" if self.base_plan.other_layers else "all blocks"
        further = {"early": "early-stopped greedy", "layers": f"hyperfitted {layers}, greedy"}
        if self.other_data is not None:
            further["other-data"] = f"hyperfitted on {kind}, greedy"
        rows = lineup.rows(self.seed) + [Row(name=name, model=key, describes=True) for key, name in further.items()]
        return [*rows, Row(name="original", model="original")]

    # The trainings.

    def prepare(self, records: Path) -> None:
        """Make the trainings that missing cells need before any model is loaded: the 8B base, its run and the state of
        another training together are more than a GPU holds."""
        cells = [(row, new) for row in self.rows for new in self.base_plan.new_tokens]
        missing = [row.model for row, new in cells if self.recorded(row, new, records) is None]
        further = [name for name in OWN_TRAININGS if name in {*missing, self.prompts_run}]
        for name in ("hyperfitted", *further) if missing else ():
            self.trained(name)

    def options(self, name: str) -> dict[str, Any]:
        """Keywords of `hypergen.fit` for one of the trainings, the early-stopped one without its epochs."""
        changes: dict[str, dict[str, Any]] = {
            "other-data": {"data": self.other_data},
            "layers": {"last_layers": self.base_plan.other_layers},
            "early": {"target_loss": 0.0},
        }
        shared = {"data": self.data, "seed": self.seed, "held_out_samples": self.base_plan.count}
        shared["measure_every"] = int(name == "hyperfitted")  # whose curves are drawn and give the early stop
        return self.base_plan.options | shared | changes.get(name, {})

    def trained(self, name: str) -> Path:
        """The folder of a finished training; trained now, or continued, where it is not there."""
        options = self.options(name)
        folder = self.work / f"{self.base_plan.name}-{name}-seed{self.seed}-{short_hash(described(options))}"
        if not (folder / "manifest.json").is_file():
            if name == "early":
                options |= {"epochs": self.best_epoch()}
            hypergen.fit(**options, output=str(folder), device=self.device, resume=True)
        return folder

    def run(self, name: str) -> Any:
        """A training's run, loaded."""
        if name not in self._loaded:
            folder = self.trained(name)
            for other in self._loaded.keys() - {"hyperfitted"}:
                del self._loaded[other]  # one at a time beside base and main run
            self._loaded[name] = hypergen.load(folder, device=self.device)
        return self._loaded[name]

    def log(self) -> list[dict[str, Any]]:
        """The main run by epoch, epoch 0 included."""
        folder = self.trained("hyperfitted")
        return [{"epoch": 0} | read_record(str(folder))["look_before"], *run.read_log(folder)]

    def best_epoch(self) -> int:
        """The epoch with the lowest held-out loss, 1 or later. The order of batches depends on seed and epoch alone, so
        a training of so many epochs ends at just that checkpoint."""
        return min(self.log()[1:], key=lambda row: row["held_out_loss"])["epoch"]

    def curves(self) -> dict[str, Any]:
        return report.curves(self.log())

    # The models by name, for `lineup.add`.

    @property
    def base(self) -> Any:
        return self.base_run.modality.model

    @cached_property
    def base_run(self) -> Any:
        options = self.base_plan.options
        source = options.get("model") or embedded_base(options["modality"])
        how = {name: options[name] for name in ("modality", "allow_pickle_weights") if name in options}
        return hypergen.load(source, device=self.device, **how)

    @cached_property
    def controls(self) -> lineup.Models:
        return lineup.Models(self.base, self.run("hyperfitted").modality.model, self.held_out)

    def __getitem__(self, name: str) -> Any:
        if name in ("matched", "biased"):
            return self.controls[name]
        return self.base if name == "base" else self.run(name).modality.model

    # The cells.

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

    def comparison(self, row: Row, new: int | None) -> Comparison:
        """With the training set of the row's own run: that is what it may quote."""
        is_other = row.model == "other-data"
        if (is_other, new) not in self._comparisons:
            modality, held_out = self.base_run.modality, self.held_out
            prompts = modality.prompts(held_out)
            length = new or new_tokens(held_out, prompts, modality.end_token is None)
            training = self.run("other-data" if is_other else "hyperfitted").tokens()
            compare = Comparison(modality, training, held_out, prompts, length, self.seed)
            compare.yardstick = modality.yardstick(training, held_out)
            self._comparisons[is_other, new] = compare
        return self._comparisons[is_other, new]

    def cell(self, row: Row, new: int | None, records: Path) -> Cell:
        """The recorded cell, or a new one where there is none of the same plan. Originals that are too short for the
        completions give one without values."""
        recorded = self.recorded(row, new, records)
        if recorded is not None:
            return recorded
        path = self.path(row, new, records)
        values = self.measure(row, new, records, path.stem)
        facts = self.facts(self.run(self.training_of(row))) | self.numbers(values, self.comparison(row, new), row)
        plan = self.plan(row, new)
        cell = Cell(base=self.base_plan.name, row=row.name, seed=self.seed, new_tokens=new, plan=plan, **facts)
        write(path, asdict(cell))
        return cell

    def recorded(self, row: Row, new: int | None, records: Path) -> Cell | None:
        """The cell on the disk, where it is of this plan."""
        path = self.path(row, new, records)
        found = read(path)
        return Cell(**found) if found.get("plan") == self.plan(row, new) else None

    def path(self, row: Row, new: int | None, records: Path) -> Path:
        length = "" if new is None else f"-{new}"
        return records / f"{self.base_plan.name}{length}-seed{self.seed}-{slug(row.name)}.json"

    def plan(self, row: Row, new: int | None) -> dict[str, Any]:
        """Everything that a cell depends on, as JSON gives it back."""
        names = dict.fromkeys((self.prompts_run, "hyperfitted", self.training_of(row)))
        plan = {"format": FORMAT, "hypergen": metadata.version("hypergen"), "row": asdict(row)}
        plan |= {"prompts": self.base_plan.count, "new_tokens": new}
        plan |= {"trainings": {name: described(self.options(name)) for name in names}}
        return json.loads(json.dumps(plan))

    def training_of(self, row: Row) -> str:
        """The training that a row's facts are of; the main one for rows of the base."""
        return row.model if row.model in OWN_TRAININGS else "hyperfitted"

    def measure(self, row: Row, new: int | None, records: Path, name: str) -> dict[str, Tensor]:
        compare = self.comparison(row, new)
        if row.model == "original":
            return compare.add_original() or {}
        _ = self[row.model]  # training and loading are not the row's time
        started = time.perf_counter()
        values = lineup.add(compare, row, self)
        write(records / "times.json", read(records / "times.json") | {name: round(time.perf_counter() - started, 2)})
        return values

    def facts(self, trained: Any) -> dict[str, Any]:
        record = trained.record
        training = {key: record["training"][key] for key in ("loss", "epochs", "stopped_by")}
        config = record["config"] | record["settings"] | {"output": None, "device": None}
        return {
            "run_config": config | described({"data": config["data"]}),
            "training": training,
            "data_sha256": record["data_sha256"],
            "prompts_sha256": sha256(self.held_out),
            "prompts": [sha256(row)[:8] for row in self.held_out],
            "versions": record["versions"],
            "machine": record["machine"],
        }

    def numbers(self, values: dict[str, Tensor], compare: Comparison, row: Row) -> dict[str, Any]:
        examples = {name: rounded(value) for name, value in values.items() if not bool(value.isnan().all())}
        numbers = summaries({name: tensor_of(value) for name, value in examples.items()}, self.seed)
        notes = {key: note for key, note in compare.notes.items() if key == row.name or key not in compare.remarks}
        return {"examples": examples, "values": numbers, "notes": notes}


if __name__ == "__main__":
    sys.exit(main())
