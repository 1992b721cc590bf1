"""Row B: a disk that is full, falters or is shared. Alone: pytest tests/faults/test_disks.py"""

import os
import re
import signal
import stat
import time

import pytest

import hypergen
from hypergen.cli import main as cli
from hypergen.errors import InputError
from hypergen.storage import atomic, manifest
from tests.conftest import tree
from tests.faults.child import ended, start
from tests.faults.conftest import MOST_POINTS, SHORT, Fits, cases, some, spread
from tests.faults.inject import WRITING, Fault

KILL = signal.SIGKILL


def checkpoints(folder):
    return [manifest.check_manifest(path) for path in (folder / "run" / "checkpoints").glob("step-*")]


@pytest.mark.parametrize("point", spread(MOST_POINTS, 9))
def test_b1_full_at_a_write(point, points, tmp_path, toy_base, whole_folder):
    """Exit 6 with path and bytes; every checkpoint that is there is whole, and with room again the run goes on."""
    if point > points["writing"]:
        pytest.skip("there are fewer")
    fits = Fits(tmp_path, toy_base, SHORT)
    outcome = fits(fault=Fault("ENOSPC", point, only=WRITING))
    assert outcome.code == 6, outcome.told
    lines = [line for line in outcome.told.splitlines() if line.startswith("hypergen: ")]
    assert len(lines) == 1 and re.search(r"/run.*No space left on device; .* [\d,]+ bytes are free", lines[0])
    assert not [path for path in tree(tmp_path) if ".tmp-" in path]
    checkpoints(tmp_path)
    if (tmp_path / "run" / atomic.MANIFEST).is_file():  # full when the name of what is whole was flushed
        manifest.check_manifest(tmp_path / "run")
    else:
        fits.goes_on(whole_folder(SHORT))


@pytest.mark.parametrize("number", cases(5, 1))
@pytest.mark.parametrize("kind", ["EIO", "ESTALE"])
def test_b2_a_moment_s_failure_is_tried_again(kind, number, tmp_path, toy_base, whole_folder):
    name = WRITING[number]
    fits = Fits(tmp_path, toy_base, SHORT)
    outcome = fits(fault=Fault(kind, 1, only=(name,), below=".tmp-"))
    assert outcome.code == 0 and outcome.told.count("trying once more") == 1, outcome.told
    assert fits.result() == whole_folder(SHORT)


PLACES = ["file", "file/below", "x" * 256, "with space/and ünïcode/deep/er", "y" * 255, "link"]


@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
def test_b3_odd_places(place, tmp_path, toy_base, capsys):
    """Refused before a model is loaded, or made."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("link")
    allowed = place in PLACES[3:5]
    before = tree(tmp_path)
    base = toy_base if allowed else str(tmp_path / "no such base")
    options = ["--modality", "toy", "--data", "numbers", "--num-samples", "8", "--epochs", "1", "--device", "cpu"]
    code = cli.main(["fit", "--model", base, *options, "--output", str(tmp_path / place)])
    told = capsys.readouterr().err
    if allowed:
        assert code == 0 and (tmp_path / place / atomic.MANIFEST).is_file()
    else:
        assert code == 2 and "Traceback" not in told and tree(tmp_path) == before
        assert str(tmp_path) in told.splitlines()[-1] and "no such base" not in told


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_b4_modes_follow_the_umask(umask, tmp_path, toy_base):
    fits = Fits(tmp_path, toy_base, SHORT)
    assert fits(umask=umask).code == 0
    for path in (tmp_path / "run").rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize("number", cases(10, 2))
def test_b5_two_fits_at_once(number, fits, whole):
    logs = [fits.folder / "log-0", fits.folder / "log-1"]
    both = [start(fits.case(), log) for log in logs]
    outcomes = [ended(process, log) for process, log in zip(both, logs, strict=True)]
    assert sorted(outcome.code for outcome in outcomes) == [0, 4], [outcome.told for outcome in outcomes]
    refused = next(place for place, outcome in enumerate(outcomes) if outcome.code == 4)
    assert f"run: in use by process {both[1 - refused].pid} on {os.uname().nodename}" in outcomes[refused].told
    assert fits.result() == whole


LEFT = [("train", 1), ("train", 20), ("publish", 1)]


@pytest.mark.parametrize("place, call", LEFT)
def test_b6_the_lock_of_a_killed_process_is_no_obstacle(place, call, fits, whole):
    assert fits(place=place, call=call, signals=(KILL,)).code == -KILL
    assert (fits.folder / "run" / ".lock").is_file()
    fits.goes_on(whole)


@pytest.mark.parametrize("point", some(range(1, 21), lambda place: place in (0, 12, 19)))
def test_b7_a_reader_sees_a_whole_model_or_none(point, tmp_path, toy_base, whole_folder):
    """The run stops for a moment at each of the last 20 moves of its publication, and is read."""
    fits = Fits(tmp_path, toy_base, SHORT)
    at_the_end = fits("probe", fault=Fault("count", only=("replace", "rmdir", "unlink"))).points
    case = fits.case(fault=Fault("stop", at_the_end - 20 + point, only=("replace", "rmdir", "unlink")))
    process = start(case, fits.log)
    deadline = time.monotonic() + 60
    while _state_of(process.pid) != "T":
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    try:
        loaded = hypergen.load(tmp_path / "run", device="cpu")
    except InputError as error:
        assert "is an unfinished run; wait for it" in str(error) and not (tmp_path / "run" / atomic.MANIFEST).is_file()
    else:
        manifest.check_manifest(tmp_path / "run")
        assert loaded.tokens().shape == (24, 16) and loaded.records
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert ended(process, fits.log).code == 0
    assert fits.result() == whole_folder(SHORT)


def _state_of(process):
    """The letter of /proc: T is stopped."""
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
