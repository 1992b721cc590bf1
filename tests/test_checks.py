"""A wrong call is refused before torch is imported. Alone: pytest tests/test_checks.py"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hypergen
from hypergen import checks
from hypergen.config import DecodingConfig, EvaluateConfig, ExportConfig, FitConfig, GenerateConfig, PretrainConfig
from hypergen.errors import InputError
from tests.conftest import QUICK_TOY

pytestmark = pytest.mark.usefixtures("registered", "offline")

GREEDY = DecodingConfig()
PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(toy_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return str(hypergen.fit(model=toy_base, output=str(folder), **QUICK_TOY).folder)


@pytest.fixture
def full(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    return str(tmp_path / "full")


def refused(said, call, *arguments):
    with pytest.raises(InputError, match=said):
        call(*arguments)


def test_a_right_fit_gets_its_modality(toy_base, tmp_path):
    config = FitConfig(model=toy_base, data="numbers", output=str(tmp_path / "new"))
    assert checks.check_fit(config, {"modulus": 8}) == (config, "toy")
    assert checks.check_fit(FitConfig(modality="text", data="self", prompts="stories"), {})[1] == "text"
    for data in ("hub:a/b", "cifar10", "cifar10:test"):
        assert checks.check_fit(FitConfig(modality="image", data=data), {})[1] == "image"


def test_a_folder_of_the_hub_s_cache_becomes_its_snapshot(toy_base, tmp_path):
    import shutil

    shutil.copytree(toy_base, tmp_path / "models--org--name" / "snapshots" / "abc")
    config, _ = checks.check_fit(FitConfig(model=str(tmp_path / "models--org--name")), {})
    assert config.model.endswith("/snapshots/abc")


@pytest.mark.parametrize(
    "options, given, said",
    [
        ({}, {}, "^--modality is needed"),
        ({"modality": "toy"}, {}, "has no embedded base; give --model"),
        ({"modality": "text"}, {"mirror": True}, "^--mirror: not an option of modality 'text'"),
        ({"modality": "image"}, {"mirror": True}, "^--mirror: only pretrain reads it$"),
        ({"modality": "text"}, {"chat": True}, "^--chat: only generate reads it$"),
        ({"modality": "text", "data": "nowhere.txt"}, {}, "^nowhere.txt: no such file or folder; allowed are a .txt"),
        ({"modality": "image", "data": "cifar-10"}, {}, "^cifar-10: no such .*; did you mean cifar10"),
        ({"modality": "text", "prompts": "nowhere.txt"}, {}, "^nowhere.txt: no such file or folder"),
        ({"modality": "text", "output": "full"}, {}, "^--output full: is not empty"),
    ],
)
def test_a_fit_that_cannot_be(options, given, said, full):
    refused(said, checks.check_fit, FitConfig(**options), given)


def test_python_gets_the_same_answers(full):
    refused("^mirror: only pretrain reads it$", lambda: hypergen.fit(modality="image", mirror=True))
    refused("^output full: is not empty", lambda: hypergen.fit(modality="text", output="full"))
    refused("^nowhere.txt: no such", lambda: hypergen.pretrain(modality="text", data="nowhere.txt", output="new"))


@pytest.mark.parametrize(
    "options, given, said",
    [
        ({"modality": "texts"}, {}, "^modality 'texts': allowed are .*; did you mean text"),
        ({"data": "nowhere.txt"}, {}, "^nowhere.txt: no such"),
        ({"held_out": "nowhere.txt"}, {}, "^nowhere.txt: no such"),
        ({"output": "full"}, {}, "^--output full: is not empty"),
        ({}, {"offload": True}, "^--offload: only fit and generate read it$"),
    ],
)
def test_a_pretraining_that_cannot_be(options, given, said, full):
    config = PretrainConfig(**{"modality": "text", "data": "stories", "output": "new"} | options)
    refused(said, checks.check_pretrain, config, given)
    checks.check_pretrain(PretrainConfig(modality="text", data="stories", output="new"), {"sequence_length": 9})


def test_a_right_generation_gets_model_and_modality(run):
    assert checks.check_generate(run, GenerateConfig(count=8), GREEDY, {}) == (run, "toy")
    base, name = checks.check_generate(None, GenerateConfig(modality="text", prompt=("a",)), GREEDY, {})
    assert base.endswith("text-base") and name == "text"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"count": 9}, "^--count 9: there are 8 prompts$"),
        ({"count": 3, "prompt": ("a", "b")}, "^--count 3: there are 2 prompts$"),
        ({"prompts": "nowhere.txt"}, "^nowhere.txt: no such file or folder"),
        ({"output": "full"}, "^--output full: is not empty"),
        ({"output": "nowhere/a.jsonl"}, "^--output nowhere/a.jsonl: folder nowhere does not exist$"),
        ({"output": "full/thesis.txt"}, "exists already$"),
    ],
)
def test_a_generation_that_cannot_be(options, said, run, full):
    refused(said, checks.check_generate, run, GenerateConfig(**options), GREEDY, {})


def test_a_base_has_nothing_to_start_from_or_to_quote(toy_base):
    refused("; give --prompt or --prompts$", checks.check_generate, toy_base, GenerateConfig(), GREEDY, {})
    prompted, blocking = GenerateConfig(prompt=("a",)), DecodingConfig(block_citations=3)
    refused("only a hyperfitted run has it$", checks.check_generate, toy_base, prompted, blocking, {})
    mixed = GenerateConfig(prompt=("a",), interpolate=0.5)
    refused("does not say which base", checks.check_generate, toy_base, mixed, GREEDY, {})
    refused("^generate: needs RUN, or --modality", checks.check_generate, None, prompted, GREEDY, {})


def test_a_right_comparison(run):
    assert checks.check_evaluate(run, EvaluateConfig(count=8), None) == run


@pytest.mark.parametrize(
    "options, output, said",
    [
        ({"count": 9}, None, "^--count 9: there are 8 prompts that were not trained on$"),
        ({"data": "nowhere.jsonl"}, None, "^nowhere.jsonl: no such file or folder"),
        ({"completions": "nowhere.jsonl"}, None, "^--completions nowhere.jsonl: no such file$"),
        ({"baseline": "/nowhere/at/all"}, None, "its base /nowhere/at/all is not there"),
        ({}, "full", "^--output full: is not empty"),
    ],
)
def test_a_comparison_that_cannot_be(options, output, said, run, full):
    refused(said, checks.check_evaluate, run, EvaluateConfig(**options), output)


def test_a_base_is_not_compared(toy_base):
    refused("only a hyperfitted run has it$", checks.check_evaluate, toy_base, EvaluateConfig(), None)


def test_an_export_knows_its_modality(run):
    assert checks.check_export(run, ExportConfig(), None) == (run, "toy")
    refused("^nowhere: no such folder", checks.check_export, "nowhere", ExportConfig(), None)
    refused("^--type f32: must be count or sum$", checks.check_export, run, ExportConfig(type="f32"), None)


def test_prompts_are_counted_without_torch(run):
    checks.require_prompts(None, 0)
    checks.require_prompts(2, 2)
    refused("^--count 3: there are 2 prompts$", checks.require_prompts, 3, 2)


WRONG_CALLS = [
    "fti",
    "fit",
    "fit --epoch 3",
    "fit --lr 1e-4",
    "fit --modality audio",
    "fit --modality text --epochs 0",
    "fit --modality text --precision fp16",
    "fit --modality text --data nowhere.jsonl",
    "fit --modality text --prompts nowhere.txt",
    "fit --modality text --output full",
    "fit --modality text --image-size 32",
    "fit --model nowhere",
    "generate nowhere --prompt a",
    "generate --prompt a",
    "generate RUN --top-p .9",
    "generate RUN --count 99",
    "generate RUN --prompt a --prompts b.txt",
    "generate BASE --prompt a --block-citations 5",
    "evaluate BASE",
    "evaluate RUN --count 99",
    "evaluate RUN --output full",
    "export nowhere",
    "export RUN --type f99",
    "pretrain --modality text --data nowhere.txt --output new",
]


def test_a_wrong_call_imports_no_torch(run, toy_base, full):
    """One process for all of them, because starting one takes longer than any of them."""
    calls = [[{"RUN": run, "BASE": toy_base}.get(word, word) for word in call.split()] for call in WRONG_CALLS]
    script = (
        f"import json, sys\nsys.path.insert(0, {str(PROJECT)!r})\n"
        "from hypergen import registry\nfrom hypergen.cli.main import main\n"
        "registry.MODALITIES['toy'] = 'tests.toy'\n"
        "codes = [main(call) for call in json.loads(sys.argv[1])]\n"
        "print(json.dumps([codes, sorted({'torch', 'transformers', 'PIL'} & sys.modules.keys())]))"
    )
    done = subprocess.run([sys.executable, "-c", script, json.dumps(calls)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[2] * len(calls), []], done.stderr
    assert len(done.stderr.splitlines()) == len(calls)


@pytest.mark.parametrize("verb", ["fit", "generate"])
def test_a_system_without_file_locks_is_told_in_one_line(verb, tmp_path):
    script = (
        "import sys\nsys.modules['fcntl'] = None\n"
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'fcntl' else find(name, *rest)\n"
        "from hypergen.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    arguments = {"fit": ["fit", "--modality", "text"], "generate": ["generate", "RUN", "--prompt", "a"]}[verb]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("hypergen: this system has no file locks (fcntl)")
