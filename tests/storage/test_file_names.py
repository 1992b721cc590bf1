"""The file formats keep their names, which released runs have. Alone: pytest tests/storage/test_file_names.py"""

import ast
from pathlib import Path

import hypergen
from hypergen.storage import file_names

NAMES = {
    "MANIFEST": "manifest.json",
    "RECORD": "hypergen.json",
    "METRICS": "metrics.jsonl",
    "TRAINING_TOKENS": "training_tokens.safetensors",
    "HELD_OUT_TOKENS": "held_out_tokens.safetensors",
    "SAMPLES": "samples",
    "REPORT": "report.html",
    "TOKENS": "tokens",
    "LOSS_MASK": "loss_mask",
    "CARD": "README.md",
    "FIGURE": "grid",
    "LOCK": ".lock",
    "TEMPORARY": ".tmp-",
    "MARK": ".process",
    "CHECKPOINTS": "checkpoints",
    "STATE_TENSORS": "state.safetensors",
    "STATE_NUMBERS": "state.json",
    "UNFINISHED": ".unfinished",
    "RECORDS_JSON": "records.json",
    "RECORDS_MARKDOWN": "records.md",
}


FOREIGN = {("tables.py", "state.json")}  # `save_to_disk` of `datasets` has a file of the same name


def test_the_names_are_those_of_released_runs():
    assert {name: value for name, value in vars(file_names).items() if name.isupper()} == NAMES


def test_no_other_module_spells_one_out():
    """Ordinary words are not looked for."""
    names = {name for name in NAMES.values() if "." in name}
    package = Path(hypergen.__file__).parent
    for path in package.rglob("*.py"):
        constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        spelled = {name for name in names & constants if (path.name, name) not in FOREIGN}
        assert path.name == "file_names.py" or not spelled, path
