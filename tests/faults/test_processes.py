"""Row A, last line: two processes train together, as `accelerate launch` starts them, and one is killed.

Alone: pytest tests/faults/test_processes.py
"""

import signal
import socket
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from hypergen import disk
from tests.conftest import tree
from tests.faults.child import ended, join_processes, start
from tests.faults.conftest import SHORT, Fits, some
from tests.faults.inject import Fault

KILL = signal.SIGKILL
SECONDS = 60


def together(fits, *changes, resume=False):
    """Two processes with what happens to each; their outcomes and how long the slower one took after the first end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    logs = [fits.folder / f"log-{rank}" for rank in range(2)]
    begun = [
        start(fits.case(resume=resume, act=partial(join_processes, rank, 2, port), **changes[rank]), logs[rank])
        for rank in range(2)
    ]
    while all(process.is_alive() for process in begun):
        time.sleep(0.01)
    first_end = time.monotonic()
    outcomes = [ended(process, log, SECONDS) for process, log in zip(begun, logs, strict=True)]
    return outcomes, time.monotonic() - first_end


def test_two_make_the_steps_of_one(tmp_path, toy_base):
    """Up to rounding, which is what adding up in another order changes; the first process alone writes."""
    both, one = Fits(tmp_path, toy_base, SHORT), Fits(tmp_path, toy_base, SHORT)
    outcomes, _ = together(both, {}, {})
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert "training loss" in outcomes[0].told and "training loss" not in outcomes[1].told
    assert one("one").code == 0
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "one"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3)
    both.result()


def test_a_signal_to_one_stops_both(tmp_path, toy_base):
    fits = Fits(tmp_path, toy_base, SHORT)
    outcomes, _ = together(fits, {}, {"place": "train", "call": 2, "signals": (signal.SIGTERM,)})
    assert [outcome.code for outcome in outcomes] == [143, 143], outcomes
    assert all("after step 2; --resume continues" in outcome.told for outcome in outcomes)
    assert (tmp_path / "run" / "checkpoints" / "step-2").is_dir()


DEATHS = {
    "the second in a step": ({}, {"place": "train", "call": 5, "signals": (KILL,)}),
    "the first in a step": ({"place": "train", "call": 5, "signals": (KILL,)}, {}),
    "the first in a save": ({"fault": Fault("kill", 1, only=("weights",), below="step-6")}, {}),
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
    assert [path.name for path in checkpoints] == ["step-3"] and disk.check_manifest(checkpoints[0])
    again, _ = together(fits, {}, {}, resume=True)
    assert [outcome.code for outcome in again] == [0, 0], again
    whole = Fits(tmp_path / "whole", toy_base, "--epochs 3")
    whole.folder.mkdir()
    assert [outcome.code for outcome in together(whole, {}, {})[0]] == [0, 0]
    assert fits.result() == whole.result() and not [path for path in tree(tmp_path / "run") if ".tmp-" in path]
