"""Compare hyperfitting with everything else that one would do: text and pictures x strategies x seeds, with intervals.

    python benchmarks/cross_domain.py --preset tiny [--image-data PICTURES.zip]

Every row of a table has the same prompts and length (`hypergen.evaluation.baselines`, and the rows of `experiment` that
need a training of their own). Each row and seed is one JSON file in `benchmarks/records/cross-domain-PRESET/`; a suite
that was stopped goes on with the records that are missing, and trainings are runs in --work that are used again.
Beside the records: `table.md`, the trade-off by epoch as `tradeoff-*.svg`, and `times.json`, the only file in which two
runs on one machine differ. `paper` needs a GPU, the data files and the hub.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiment import Experiment
from presets import PICTURES, PRESETS, TEXTS, BasePlan
from suite_records import pool_seeds, section
from trade_off_chart import trade_off_file

from hypergen.errors import HypergenError, InputError, Interrupted
from hypergen.report.trade_off import way_of
from hypergen.runtime.signals import SignalWatch


def main(arguments: list[str] | None = None) -> int:
    """Run the suite of the command line; the exit code is that of `hypergen`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, required=True)
    parser.add_argument("--only", nargs="+", help="names of bases")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument(TEXTS, help="texts to train on, as --data of hypergen fit")
    parser.add_argument(PICTURES, help="pictures to train on, as --data of hypergen fit")
    parser.add_argument("--records", type=Path, help="folder of the records")
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
    except (HypergenError, Interrupted) as error:
        print(f"cross_domain: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def suite(
    bases: Sequence[BasePlan],
    seeds: Sequence[int],
    sources: dict[str, str | None],
    records: Path,
    work: Path,
    device: str = "auto",
) -> str:
    """Compute the records that are missing; write the table and return it.

    Args:
        bases: one table each, and one for each length of completions.
        seeds: of trainings and prompts.
        sources: what the user gives for `PICTURES` and `TEXTS`; None: nothing.
        records: folder of the records.
        work: folder of the trainings.
        device: as `--device` of hypergen.
    """
    records.mkdir(parents=True, exist_ok=True)
    sections = []
    for base in bases:
        experiments = [Experiment(base, seed, sources, work, device) for seed in seeds]
        for experiment in experiments:
            experiment.prepare(records)
        for new in base.new_tokens:
            rows = [experiment.record(row, new, records) for experiment in experiments for row in experiment.rows]
            title = f"{base.name}{'' if new is None else f', {new} new tokens'}: {base.count} prompts"
            filled = [row for row in rows if row.values]
            short = f"No row of originals: they have fewer than {new} tokens after the prompt."
            missing = [experiments[0].missing, short * (len(filled) < len(rows))]
            sections.append(section(title, filled, list(filter(None, missing)), experiments[0].columns))
            for experiment in experiments if new == base.new_tokens[0] else []:
                of_seed = [pool_seeds([row]) for row in filled if row.seed == experiment.seed]
                chart = trade_off_file(f"{base.name}, seed {experiment.seed}", of_seed, way_of(experiment.log()))
                (records / f"tradeoff-{base.name}-seed{experiment.seed}.svg").write_text(chart)
    table = "\n".join(sections)
    (records / "table.md").write_text(table)
    return table


if __name__ == "__main__":
    sys.exit(main())
