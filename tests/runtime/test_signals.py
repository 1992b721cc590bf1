"""A signal ends a block at once or is noted for its loop. Alone: pytest tests/runtime/test_signals.py"""

import signal
import subprocess
import sys
import threading

import pytest

from hypergen.errors import InputError, Interrupted
from hypergen.runtime.signals import WATCHED, SignalWatch


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, the former handlers are there after each block."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run below nohup
    before = [signal.getsignal(number) for number in WATCHED]
    yield
    assert [signal.getsignal(number) for number in WATCHED] == before


@pytest.mark.parametrize("number", WATCHED)
def test_it_ends_the_block(number):
    with pytest.raises(Interrupted) as error, SignalWatch():
        signal.raise_signal(number)
        raise AssertionError("still there")
    assert error.value.exit_code == 128 + number


def test_those_that_end_a_process_are_watched():
    assert {one.name for one in WATCHED} == {"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU"}


def test_a_closed_terminal_that_is_ignored_stays_so():
    """As `nohup` has it."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalWatch() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.number() is None
    finally:
        signal.signal(signal.SIGHUP, former)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU])
def test_what_repeats_by_itself_is_no_second_signal(number):
    """The kernel sends SIGXCPU every second, shell and kernel both a SIGHUP."""
    with pytest.raises(Interrupted, match=f"signal {signal.SIGTERM}"), SignalWatch() as signals, signals.noting():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(number)


def test_no_handler_on_the_way_takes_it_for_a_failure():
    def careless():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:
            raise InputError("a model cannot be loaded") from error

    with pytest.raises(Interrupted), SignalWatch():
        careless()


def test_it_is_noted_for_a_loop_and_ends_the_block_after_it():
    reached = []
    with pytest.raises(Interrupted), SignalWatch() as signals:
        with signals.noting():
            assert signals.number() is None
            signal.raise_signal(signal.SIGTERM)
            reached.append(signals.number())
        reached.append("too far")
    assert reached == [signal.SIGTERM]


def test_what_the_loop_raises_itself_is_kept():
    with pytest.raises(Interrupted, match="after step 7"), SignalWatch() as signals, signals.noting():
        signal.raise_signal(signal.SIGINT)
        raise Interrupted(signals.number(), "after step 7")


def test_one_inside_the_other():
    with pytest.raises(Interrupted), SignalWatch():
        with SignalWatch() as inner, inner.noting():
            pass
        signal.raise_signal(signal.SIGINT)


def test_other_errors_pass():
    with pytest.raises(KeyError), SignalWatch():
        raise KeyError


def test_in_another_thread_nothing_is_watched():
    def work():
        with SignalWatch() as signals:
            numbers.append(signals.number())

    numbers = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers == [None]


def test_a_second_signal_leaves_at_once():
    code = (
        "import signal; from hypergen.runtime.signals import SignalWatch\n"
        "with SignalWatch() as signals, signals.noting():\n"
        "    signal.raise_signal(signal.SIGINT); print('finishing', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT); print('never')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (130, "finishing\n")


def test_among_several_processes_a_copy_of_the_signal_is_no_second_one(monkeypatch):
    for name, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Interrupted) as error, SignalWatch() as signals, signals.noting():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # of the launcher, at the same moment
    assert error.value.exit_code == 143
