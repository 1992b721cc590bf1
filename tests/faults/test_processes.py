"""Row A, last line: two processes train together, as `accelerate launch` starts them, and one is killed.

Alone: pytest tests/faults/test_processes.py
"""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hypergen import api
from hypergen.cli import main as cli
from hypergen.modality import Encoded
from hypergen.storage import atomic, manifest
from hypergen.storage.metrics_log import read_metrics
from tests.conftest import FIT, tree, unless
from tests.faults.child import ended, join_by_mpi, join_processes, start
from tests.faults.conftest import SHORT, Fits, some
from tests.faults.inject import Fault
from tests.toy.adapter import ToyModality

KILL = signal.SIGKILL
SECONDS = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(fits, *changes, resume=False, join=join_processes):
    """Two processes with what happens to each; their outcomes and how long the slower one took after the first end."""
    port = free_port()
    logs = [fits.folder / f"log-{rank}" for rank in range(2)]
    begun = [
        start(fits.case(resume=resume, **{"act": partial(join, rank, 2, port)} | changes[rank]), logs[rank])
        for rank in range(2)
    ]
    while all(process.is_alive() for process in begun):
        time.sleep(0.01)
    first_end = time.monotonic()
    outcomes = [ended(process, log, SECONDS) for process, log in zip(begun, logs, strict=True)]
    return outcomes, time.monotonic() - first_end


@pytest.mark.parametrize("join", some([join_processes, join_by_mpi], lambda place: place == 0))
def test_two_make_the_steps_of_one(join, tmp_path, toy_base):
    """Up to rounding, which is what adding up in another order changes; the first process alone writes."""
    both, one = Fits(tmp_path, toy_base, SHORT), Fits(tmp_path, toy_base, SHORT)
    outcomes, _ = together(both, {}, {}, join=join)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert "training loss" in outcomes[0].told and "training loss" not in outcomes[1].told
    assert one("one").code == 0
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "one"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)
    together_log, alone_log = (read_metrics(tmp_path / name) for name in ("run", "one"))
    assert together_log[0]["accuracy"] == pytest.approx(alone_log[0]["accuracy"], abs=0.01)  # of the whole batch
    assert together_log[0]["loss"] == pytest.approx(alone_log[0]["loss"], rel=1e-3)
    both.result()


def masked(join):
    """Joined, with a loss mask, by which the two shares of a batch have other numbers of tokens that count."""
    join()
    real = ToyModality.encode_training

    def encode_training(modality, *arguments, **options):
        return real(modality.with_settings(replace(modality.settings, masked=True)), *arguments, **options)

    ToyModality.encode_training = encode_training


def test_two_make_the_masked_steps_of_one(tmp_path, toy_base):
    """The mean is over the tokens that count in the whole batch, not a mean of the two processes' means."""
    both, one = Fits(tmp_path, toy_base, SHORT), Fits(tmp_path, toy_base, SHORT)
    port = free_port()
    changes = [{"act": partial(masked, partial(join_processes, rank, 2, port))} for rank in range(2)]
    outcomes, _ = together(both, *changes)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert one("one", act=partial(masked, os.getpid)).code == 0
    together_log, alone_log = (read_metrics(tmp_path / name) for name in ("run", "one"))
    for found, expected in zip(together_log, alone_log, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=0.01)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "one"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)
    assert "loss_mask" in load_file(tmp_path / "run" / "training_tokens.safetensors")


@pytest.mark.parametrize("copies", some([1, 2], lambda place: place == 1))
def test_a_signal_to_one_stops_both(copies, tmp_path, toy_base):
    """Also one that a batch system and the launcher both pass on."""
    fits = Fits(tmp_path, toy_base, SHORT)
    outcomes, _ = together(fits, {}, {"place": "train", "call": 2, "signals": (signal.SIGTERM,) * copies})
    assert [outcome.code for outcome in outcomes] == [143, 143], outcomes
    assert all("after step 2; --resume continues" in outcome.told for outcome in outcomes)
    assert (tmp_path / "run" / "checkpoints" / "step-2").is_dir()


def other_data(join):
    """Joined, with one item that is not as in the other process."""
    join()
    real = api._training_tokens
    api._training_tokens = lambda *arguments: Encoded(real(*arguments).tokens.flip(0))


def test_two_with_different_data_do_not_train(tmp_path, toy_base):
    fits = Fits(tmp_path, toy_base, SHORT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    joins = [partial(join_processes, rank, 2, port) for rank in range(2)]
    outcomes, _ = together(fits, {"act": joins[0]}, {"act": partial(other_data, joins[1])})
    assert [outcome.code for outcome in outcomes] == [1, 1], outcomes
    assert all("training sequences: those of process 1 differ from those of process 0" in one.told for one in outcomes)


LAUNCHERS = {"torchrun": "--nproc-per-node 2", "accelerate": "launch --multi_gpu --num_processes 2"}


@pytest.mark.faults
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launchers(launcher, tmp_path, text_base, text_data):
    """Stopped by a signal to the launcher, two real processes go on and end as one process does, up to rounding."""
    options = [*unless(["--epochs"], FIT), "--model", text_base, "--data", text_data, "--learning-rate", "1e-3"]
    options += ["--held-out-samples", "4"]
    options += ["--max-new-tokens", "4", "--target-loss", "0", "--epochs", "40", "--checkpoint-every", "1"]
    start_two = [str(Path(sys.executable).with_name(launcher)), *LAUNCHERS[launcher].split(), "-m", "hypergen", "fit"]
    command = [*start_two, *options, "--output", str(tmp_path / "run")]
    log = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and not (log.is_file() and log.read_text()):
            time.sleep(0.01)
        process.terminate()
        told = process.communicate(timeout=SECONDS)[0]
    assert told.count("; --resume continues") == 2, told
    assert not (tmp_path / "run" / atomic.MANIFEST).exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0 and sum(line.startswith("training loss") for line in done.stdout.splitlines()) == 1, (
        done.stderr
    )
    assert cli.main(["fit", *options, "--output", str(tmp_path / "one")]) == 0
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "one"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-3)


DEATHS = {
    "the second in a step": ({}, {"place": "train", "call": 5, "signals": (KILL,)}),
    "the first in a step": ({"place": "train", "call": 5, "signals": (KILL,)}, {}),
    "the first in a save": ({"fault": Fault("kill", 2, only=("weights",), below="checkpoints")}, {}),
    "the second while the first saves": ({}, {"place": "train", "call": 4, "signals": (KILL,)}),
}


@pytest.mark.parametrize("death", some(DEATHS, lambda place: place in (0, 2)))
def test_a9_one_of_two_is_killed(death, tmp_path, toy_base):
    """The other leaves, the last checkpoint holds, and both go on to what they would have reached."""
    fits = Fits(tmp_path, toy_base, "--epochs 3")
    outcomes, seconds = together(fits, *DEATHS[death])
    codes = [outcome.code for outcome in outcomes]
    killed = death.startswith("the second")
    assert codes[killed] == -KILL and codes[not killed] not in (0, -KILL) and seconds < SECONDS, outcomes
    assert "another process of this training has ended" in outcomes[not killed].told
    checkpoints = list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert [path.name for path in checkpoints] == ["step-3"] and manifest.check_manifest(checkpoints[0])
    again, _ = together(fits, {}, {}, resume=True)
    assert [outcome.code for outcome in again] == [0, 0], again
    whole = Fits(tmp_path / "whole", toy_base, "--epochs 3")
    whole.folder.mkdir()
    assert [outcome.code for outcome in together(whole, {}, {})[0]] == [0, 0]
    assert fits.result() == whole.result() and not [path for path in tree(tmp_path / "run") if ".tmp-" in path]
