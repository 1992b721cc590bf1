"""A stopped fit leaves a checkpoint or nothing, and goes on bit for bit. Alone: pytest tests/test_interruption.py"""

import errno
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

import hypergen
from hypergen import api, publish
from hypergen.cli import main as cli
from hypergen.config import DecodingConfig
from hypergen.storage import atomic
from hypergen.training import monitor
from tests.conftest import QUICK_TOY, tree
from tests.storage.faulty_disk import flip


@pytest.fixture(scope="module")
def whole(toy_base, tmp_path_factory):
    """An uninterrupted run, 3 epochs of 3 steps."""
    return fit(toy_base, tmp_path_factory.mktemp("whole") / "run")


def fit(base, output, **options):
    return hypergen.fit(model=base, output=str(output), **QUICK_TOY | options)


def interrupt(monkeypatch, module, name, number, call=1):
    """A signal arrives when module.NAME is called for the call-th time."""
    real, left = getattr(module, name), [call]

    def stopped(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(number)
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, stopped)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_training_leaves_a_checkpoint_to_continue(number, code, toy_base, whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, monitor, "append_metrics", number, call=2)
        with pytest.raises(KeyboardInterrupt, match=f"stopped by signal {number:d} after step 6") as error:
            fit(toy_base, folder)
    assert error.value.exit_code == code
    assert {path.split("/")[0] for path in tree(folder)} == {"checkpoints", "metrics.jsonl"}
    resumed = fit(toy_base, folder, resume=True)
    assert weights(folder) == weights(whole.folder) and resumed.records == whole.records
    assert (folder / "metrics.jsonl").read_text() == (whole.folder / "metrics.jsonl").read_text()
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


@pytest.mark.parametrize(
    "module, name, call",
    [
        (api, "check_last_layers", 1),
        (api, "_held_out_tokens", 1),
        (api.Comparison, "add", 1),
        (api.Comparison, "add", 2),
    ],
)
def test_a_signal_before_training_leaves_nothing(module, name, call, toy_base, tmp_path, monkeypatch):
    interrupt(monkeypatch, module, name, signal.SIGTERM, call)
    with pytest.raises(KeyboardInterrupt, match="stopped by signal 15"):
        fit(toy_base, tmp_path / "runs" / "toy")
    assert not tree(tmp_path)


@pytest.mark.parametrize(
    "module, name, call",
    [(api.Comparison, "add", 3), (api, "write_run", 1), (publish, "save_tokens", 2), (shutil, "copyfile", 1)],
)
def test_a_signal_after_training_leaves_no_half_run(module, name, call, toy_base, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, module, name, signal.SIGTERM, call)
        with pytest.raises(KeyboardInterrupt, match="stopped by signal 15"):
            fit(toy_base, tmp_path / "run", checkpoint_every=1)
    assert {path.split("/")[0] for path in tree(tmp_path / "run")} == {"checkpoints", "metrics.jsonl"}
    fit(toy_base, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(whole.folder)


def test_a_full_disk_at_the_end_is_exit_6_and_the_run_goes_on(toy_base, whole, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no")

    with monkeypatch.context() as patch:
        patch.setattr(publish, "save_tokens", full)
        with pytest.raises(hypergen.HypergenError, match="No space left on device; what was there") as error:
            fit(toy_base, tmp_path / "run", checkpoint_every=1)
    assert error.value.exit_code == 6
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoints", "metrics.jsonl"}
    fit(toy_base, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(whole.folder)


def test_a_disk_without_room_is_exit_6_before_anything_is_measured(toy_base, tmp_path, monkeypatch):
    monkeypatch.setattr(api.Comparison, "add", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(
        hypergen.HypergenError, match="bytes are needed for checkpoints and the result, 1,000 are free"
    ) as error:
        fit(toy_base, tmp_path / "run")
    assert error.value.exit_code == 6 and not tree(tmp_path)


def test_a_resumed_run_needs_no_room_for_the_checkpoints_that_it_has(toy_base, whole, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(api, "check_space", lambda folder, needed: asked.append(needed))
    held = sum(map(atomic.bytes_in, stopped(toy_base, tmp_path / "run", monkeypatch)))
    fit(toy_base, tmp_path / "run", resume=True, checkpoint_every=1)
    assert 0.9 * held < asked[0] - asked[1] <= held and asked[1] > 0


def stopped(base, folder, monkeypatch, **options):
    """A folder with two checkpoints of a fit that was stopped after its second epoch."""
    with monkeypatch.context() as patch:
        interrupt(patch, monitor, "append_metrics", signal.SIGTERM, call=2)
        with pytest.raises(KeyboardInterrupt):
            fit(base, folder, checkpoint_every=1, **options)
    return sorted((folder / "checkpoints").iterdir())


def test_a_damaged_checkpoint_falls_back_to_the_one_before(toy_base, whole, tmp_path, monkeypatch, capsys):
    _, newest = stopped(toy_base, tmp_path / "run", monkeypatch)
    flip(newest / "state.safetensors")
    fit(toy_base, tmp_path / "run", resume=True)
    assert capsys.readouterr().err.count("skipping a damaged checkpoint") == 1
    assert weights(tmp_path / "run") == weights(whole.folder)


def test_all_damaged_is_exit_3_and_nothing_is_lost(toy_base, tmp_path, monkeypatch):
    for checkpoint in stopped(toy_base, tmp_path / "run", monkeypatch):
        flip(checkpoint / "state.json")
    before = tree(tmp_path)
    with pytest.raises(hypergen.HypergenError, match="none of its 2 checkpoints is whole") as error:
        fit(toy_base, tmp_path / "run", resume=True)
    assert error.value.exit_code == 3 and tree(tmp_path) == before


OTHERS = [
    {"epochs": 4},
    {"learning_rate": 1e-3},
    {"seed": 1},
    {"last_layers": 1},
    {"prompt_length": 5},
    {"data": "self"},
]


def test_other_options_are_refused_by_name(toy_base, tmp_path, monkeypatch):
    stopped(toy_base, tmp_path / "run", monkeypatch)
    before = tree(tmp_path)
    for other in OTHERS:
        ((name, value),) = other.items()
        with pytest.raises(hypergen.InputError, match=f"was started with {name} .*, not {value}"):
            fit(toy_base, tmp_path / "run", resume=True, **other)
    assert tree(tmp_path) == before


def test_other_training_data_under_the_same_name_are_refused(toy_base, tmp_path, monkeypatch):
    data = tmp_path / "items.jsonl"
    lines = [str([n % 16, (n * 3) % 16, n // 16]) for n in range(60)]
    data.write_text("\n".join(lines))
    stopped(toy_base, tmp_path / "run", monkeypatch, data=str(data))
    data.write_text("\n".join(reversed(lines)))
    with pytest.raises(hypergen.InputError, match="was started with training data of SHA-256"):
        fit(toy_base, tmp_path / "run", resume=True, data=str(data))


@pytest.mark.parametrize("last_layers, differs", [(1, "frozen weights"), (0, "trained weights at the start")])
def test_another_base_under_the_same_name_is_refused(last_layers, differs, toy_base, tmp_path, monkeypatch):
    """What is trained comes from the checkpoint, but the comparison is with the base as a whole."""
    base = shutil.copytree(toy_base, tmp_path / "base")
    stopped(base, tmp_path / "run", monkeypatch, last_layers=last_layers)
    other = hypergen.load(base, device="cpu").modality
    with torch.no_grad():
        next(other.model.blocks[0].parameters()).add_(1)
    other.save(base)
    with pytest.raises(hypergen.InputError, match=f"was started with {differs} of SHA-256"):
        fit(base, tmp_path / "run", resume=True, last_layers=last_layers)


def test_resume_starts_where_there_is_nothing_yet(toy_base, whole, tmp_path):
    fit(toy_base, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(whole.folder)


def test_a_finished_run_is_the_output_of_its_own_command_alone(toy_base, whole):
    assert fit(toy_base, whole.folder, resume=True).record == whole.record
    for options in ({}, {"resume": True, "seed": 1}):
        with pytest.raises(hypergen.InputError, match=r"not empty|holds a finished run"):
            fit(toy_base, whole.folder, **options)


def test_a_text_run_killed_in_its_process_goes_on(text_base, text_data, tmp_path):
    options = "--sequence-length 16 --prompt-length 4 --num-samples 24 --epochs 60 --target-loss 0 --learning-rate 1e-3"
    common = ["fit", "--model", text_base, "--data", text_data, "--device", "cpu", *options.split(), "--output"]
    folder, log = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    command = [sys.executable, "-m", "hypergen", *common, str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (log.is_file() and log.read_text()):
            time.sleep(0.005)
        taken = cli.main([*common, str(folder)])
        process.send_signal(signal.SIGTERM)
        complaint = process.communicate()[1]
    assert (taken, process.returncode) == (4, 143), complaint
    assert complaint.splitlines()[-1].startswith("hypergen: stopped by signal 15 after step ")
    assert cli.main([*common, str(folder), "--resume"]) == 0
    assert cli.main([*common, str(tmp_path / "whole")]) == 0
    assert weights(folder) == weights(tmp_path / "whole")
    check_greedy_ids(folder)


def check_greedy_ids(folder):
    """What transformers makes of the folder is the same model."""
    ours = hypergen.load(folder, device="cpu")
    prompts = torch.stack(ours.prompt_rows())[:4]
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    mask = torch.ones_like(prompts)
    ids = theirs.generate(prompts, attention_mask=mask, max_new_tokens=12, min_new_tokens=12, eos_token_id=[])
    assert ids[:, prompts.shape[1] :].equal(ours.complete(list(prompts), DecodingConfig(stop_at_end=False), 12))


def test_a_signal_through_the_command_line(toy_base, tmp_path, monkeypatch, capsys):
    interrupt(monkeypatch, monitor, "append_metrics", signal.SIGINT)
    options = ["--num-samples", "8", "--data", "numbers", "--device", "cpu", "--output", str(tmp_path / "run")]
    assert cli.main(["fit", "--model", toy_base, *options]) == 130
    assert "--resume continues" in capsys.readouterr().err
