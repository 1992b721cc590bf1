"""What the rows share: a toy base, an uninterrupted run of 60 steps, and how a case is judged."""

import random
import shutil
import signal
from dataclasses import replace

import pytest

from hypergen.storage import manifest
from tests.conftest import tree, unless
from tests.faults.child import Case, execute
from tests.faults.inject import WRITING, Fault

OPTIONS = (
    "--data numbers --num-samples 24 --batch-size 8 --epochs 20 --learning-rate 3e-3 --target-loss 0 "
    "--held-out-samples 4 --max-new-tokens 4 --device cpu --precision fp32 --checkpoint-every 1"
)
STEPS = 60
SAMPLE = 3  # cases of a long row that always run


MOST_POINTS = 250  # more than the uses of the disk of a fit of 2 epochs, from the lock to the manifest of the run
SHORT = "--epochs 2"


def cases(count, always=SAMPLE):
    """Numbers from 1 on; those after the first ones run with the whole matrix only."""
    return some(range(1, count + 1), lambda place: place < always)


def spread(count, always=SAMPLE):
    """Numbers from 1 on, of which some, evenly spread, always run."""
    return some(range(1, count + 1), lambda place: place % max(1, count // always) == 0)


def some(values, is_fast):
    whole = pytest.mark.faults
    return [pytest.param(value, marks=[] if is_fast(place) else whole) for place, value in enumerate(values)]


class Fits:
    """Runs `hypergen fit` in processes of their own and compares with the uninterrupted run."""

    def __init__(self, folder, base, extra=""):
        self.folder, self.base, self.extra = folder, base, extra.split()
        self.log = folder / "log"

    def case(self, name="run", *, resume=False, **changes):
        options = [*unless(self.extra, OPTIONS.split()), *self.extra]
        arguments = ["fit", "--model", self.base, *options, "--output", str(self.folder / name)]
        case = Case(arguments=[*arguments, "--resume"] if resume else arguments)
        return replace(case, final_state=str(self.folder / f"{name}.state"), **changes)

    def __call__(self, name="run", **changes):
        return execute(self.case(name, **changes), self.log)

    def result(self, name="run"):
        """All that must be equal bit for bit: weights, optimizer state, losses."""
        run = self.folder / name
        manifest.check_manifest(run)
        assert not [path for path in tree(run) if ".tmp-" in path] and not (run / "checkpoints").exists()
        files = (run / "model.safetensors", self.folder / f"{name}.state", run / "metrics.jsonl")
        return [path.read_bytes() for path in files]

    def goes_on(self, expected, name="run", **changes):
        """Resumed, it ends as the uninterrupted run did; gives what it told."""
        outcome = self(name, resume=True, **changes)
        assert outcome.code == 0, outcome.told
        assert self.result(name) == expected
        return outcome.told

    def copy(self, other):
        """The same folder of another test, to damage."""
        shutil.copytree(other, self.folder, dirs_exist_ok=True)
        return self


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory, toy_base):
    """Uninterrupted runs, by extra options."""
    done = {}

    def run(extra=""):
        if extra not in done:
            fits = Fits(tmp_path_factory.mktemp("whole"), toy_base, extra)
            outcome = fits()
            assert outcome.code == 0, outcome.told
            done[extra] = fits.result()
        return done[extra]

    return run


@pytest.fixture
def whole(whole_folder):
    return whole_folder()


@pytest.fixture
def fits(tmp_path, toy_base):
    return Fits(tmp_path, toy_base)


@pytest.fixture(scope="session")
def stopped(tmp_path_factory, toy_base):
    """A folder with a run that was killed at step 31 and has the checkpoints of steps 27 and 30."""
    fits = Fits(tmp_path_factory.mktemp("stopped"), toy_base)
    outcome = fits(place="train", call=31, signals=(signal.SIGKILL,))
    assert outcome.code == -signal.SIGKILL, outcome.told
    assert sorted(path.name for path in (fits.folder / "run" / "checkpoints").iterdir()) == ["step-27", "step-30"]
    return fits.folder


@pytest.fixture
def damaged(fits, stopped):
    """The stopped run of `stopped`, in a folder of its own, and its checkpoints, newest first."""
    fits.copy(stopped)
    newest, before = sorted((fits.folder / "run" / "checkpoints").iterdir(), reverse=True)
    return fits, newest, before


@pytest.fixture
def draw(request):
    """Random numbers of a case's own."""
    return random.Random(request.node.name)


@pytest.fixture(scope="session")
def points(tmp_path_factory, toy_base):
    """How often a fit of 2 epochs uses the disk: all of it, and where that needs room."""
    numbers = {}
    for name, only in {"all": (), "writing": WRITING}.items():
        fits = Fits(tmp_path_factory.mktemp("points"), toy_base, SHORT)
        numbers[name] = fits(fault=Fault("count", only=only)).points
    assert SAMPLE < numbers["writing"] < numbers["all"] < MOST_POINTS
    return numbers
