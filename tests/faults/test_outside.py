"""Row G: attacks from outside. What lies in the folder, what is edited between two starts, who listens, what a file
asks for. Alone: pytest tests/faults/test_outside.py
"""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hypergen.cli import main as cli
from hypergen.cli.commands import parse
from hypergen.errors import InputError
from hypergen.image import sources as pictures
from hypergen.storage.manifest import build_manifest, check_manifest
from hypergen.text import sources as texts
from hypergen.text.config import Settings
from hypergen.training import loop
from tests.conftest import tree
from tests.faults.child import ended, start
from tests.faults.conftest import SHORT, Fits, some
from tests.faults.inject import Fault
from tests.faults.test_pictures import PNG

PRECIOUS = b"precious\n"


def one_line(outcome):
    """The line with which a command was refused."""
    lines = [line for line in outcome.told.splitlines() if line.startswith("hypergen: ")]
    assert "Traceback" not in outcome.told and lines, outcome.told
    return lines[-1]


# What lies in the output folder.


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_g_a_lock_that_is_a_link_is_not_followed(kind, fits):
    (fits.folder / "run").mkdir()
    (fits.folder / "other").write_bytes(PRECIOUS)
    if kind == "symbolic":
        (fits.folder / "run" / ".lock").symlink_to("../other")
    else:
        os.link(fits.folder / "other", fits.folder / "run" / ".lock")
    outcome = fits()
    assert outcome.code == 2 and "/.lock: " in one_line(outcome)
    assert (fits.folder / "other").read_bytes() == PRECIOUS


@pytest.mark.parametrize("name", [".tmp-1", ".tmp-mine", ".tmp-run-12", ".tmp-12-metrics.jsonl", ".lock"])
def test_g_somebody_s_own_is_not_swept(name, damaged, whole):
    """In a new run it is content; in one that goes on it stays."""
    fits, *_ = damaged
    for folder in ("new", "run"):
        own = fits.folder / folder / name
        own.parent.mkdir(exist_ok=True)
        if name == ".lock":
            own.write_bytes(PRECIOUS)
        else:
            own.mkdir()
            (own / "thesis.txt").write_bytes(PRECIOUS)
    kept = tree(fits.folder / "new")
    assert fits("new").code == 2 and tree(fits.folder / "new") == kept
    if name == ".lock":
        assert fits(resume=True).code == 2
    else:
        assert fits(resume=True).code == 0
        check_manifest(fits.folder / "run")
        assert (fits.folder / "run" / name / "thesis.txt").read_bytes() == PRECIOUS


def swap(run, other, call):
    """At this step, move the run away and put a link to another folder in its place."""
    real, left = loop.backward, [call]

    def backward(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            Path(run).rename(f"{run}-moved")
            Path(run).symlink_to(other)
        return real(*arguments, **options)

    loop.backward = backward


@pytest.mark.parametrize("call", some([2, 5, 6], lambda place: place == 1))
def test_g_an_output_that_is_swapped_for_a_link_writes_over_nothing(call, tmp_path, toy_base):
    fits = Fits(tmp_path, toy_base, SHORT)
    (tmp_path / "other").mkdir()
    for name in ("model.safetensors", "metrics.jsonl", ".lock", "checkpoints"):
        (tmp_path / "other" / name).write_bytes(PRECIOUS)
    before = tree(tmp_path / "other")
    outcome = fits(act=partial(swap, str(tmp_path / "run"), str(tmp_path / "other"), call))
    assert outcome.code == 6 and "is not the folder that this run has locked" in one_line(outcome)
    assert tree(tmp_path / "other") == before


def test_g_checkpoints_are_not_written_through_a_link(damaged):
    fits, *_ = damaged
    folder = fits.folder / "run" / "checkpoints"
    folder.rename(fits.folder / "elsewhere")
    folder.symlink_to("../elsewhere")
    before = tree(fits.folder / "elsewhere")
    outcome = fits(resume=True)
    assert outcome.code == 2 and "is a symbolic link" in one_line(outcome)
    assert tree(fits.folder / "elsewhere") == before


# Kept completions.


@pytest.fixture(scope="session")
def finished(tmp_path_factory, toy_base):
    fits = Fits(tmp_path_factory.mktemp("finished"), toy_base, SHORT)
    assert fits().code == 0
    return fits


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(str([n % 16, *range(n % 5)]) for n in range(64)))
    return path


def continued(finished, prompts, output):
    command = ["generate", str(finished.folder / "run"), "--prompts", str(prompts), "--max-new-tokens", "6"]
    return [*command, "--device", "cpu", "--output", str(output)]


@pytest.mark.parametrize("point", [1, 2, 4])
def test_g_a_disk_that_fills_in_the_middle_of_a_line(point, finished, prompts, tmp_path):
    """What was kept stays usable, and the same command ends in the same file."""
    case = finished.case()
    command = continued(finished, prompts, tmp_path / "out.jsonl")
    full = Fault("ENOSPC", point, only=("write",), below=".unfinished")
    log = tmp_path / "log"
    assert ended(start(type(case)(arguments=command, fault=full), log), log).code == 6
    assert cli.main(command) == 0
    assert cli.main(continued(finished, prompts, tmp_path / "whole.jsonl")) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_g_a_figure_that_cannot_be_is_refused_before_the_decoding(finished, prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hypergen.run.Run.complete", lambda *_, **__: pytest.fail("decoded"))
    assert cli.main(continued(finished, prompts, tmp_path / "out.html")) == 2
    assert "the prompts differ in length; use a folder or a .jsonl file" in capsys.readouterr().err


# Resuming on other things than the start.


def test_g_a_base_that_was_replaced_in_place_is_named(damaged, tmp_path, toy_base):
    fits, *_ = damaged
    fits.base = str(shutil.copytree(toy_base, tmp_path / "base"))
    for path in (fits.folder / "run" / "checkpoints").glob("*/state.json"):
        moved(path, toy_base, fits.base)
    weights = load_file(f"{fits.base}/model.safetensors")
    save_file({name: weight + 1e-3 for name, weight in weights.items()}, f"{fits.base}/model.safetensors")
    outcome = fits(resume=True)
    assert outcome.code == 2 and "was started with trained weights at the start of SHA-256 " in one_line(outcome)


def moved(path, former, new):
    """Let a checkpoint say that its base lay elsewhere."""
    path.write_text(path.read_text().replace(former, new))
    manifest = path.with_name("manifest.json")
    manifest.unlink()
    manifest.write_text(json.dumps(build_manifest(path.parent)))


def test_g_held_out_items_that_were_changed_are_named(tmp_path, toy_base):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f"{[n, n + 1, n + 2, n + 3]}\n" for n in range(8)))
    fits = Fits(tmp_path, toy_base, f"--prompts {prompts}")
    assert fits(place="train", call=31, signals=(signal.SIGKILL,)).code == -signal.SIGKILL
    prompts.write_text("".join(f"{[n, n + 2, n + 4, n + 6]}\n" for n in range(8)))
    outcome = fits(resume=True)
    assert outcome.code == 2 and "was started with held-out sequences of SHA-256 " in one_line(outcome)


LOGS = {
    "null": '{"epoch": 1, "loss": null}\n',
    "text": '{"epoch": 1, "loss": "low"}\n',
    "brackets": "[" * 200_000 + "\n",
    "an object": '{"epoch": 1, "loss": {"a": 1}}\n',
    "no UTF-8": "\udcff\n",
}


@pytest.mark.parametrize("edit", LOGS)
def test_g_an_edited_log_is_judged_before_the_training(edit, damaged):
    fits, *_ = damaged
    log = fits.folder / "run" / "metrics.jsonl"
    _, *others = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(LOGS[edit].encode(errors="surrogateescape") + b"".join(others))
    outcome = fits(resume=True)
    assert outcome.code == 0 and "1 of its 10 lines are not of a training log" in outcome.told, outcome.told
    assert len(log.read_bytes().splitlines()) == 19


def test_g_the_same_command_on_its_finished_run_is_done_already(tmp_path, toy_base):
    """As in a loop that tries until it succeeds, where the kill came after the end."""
    fits = Fits(tmp_path, toy_base, SHORT)
    assert fits().code == 0
    before = tree(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-6").mkdir(parents=True)
    (tmp_path / "run" / ".lock").write_text("process 999999999 on elsewhere\n")
    outcome = fits(resume=True)
    assert outcome.code == 0 and "is finished already" in outcome.told and "training loss" in outcome.told
    assert tree(tmp_path / "run") == before
    other = Fits(tmp_path, toy_base, f"{SHORT} --learning-rate 1e-3")(resume=True)
    assert other.code == 2 and "holds a finished run with --learning-rate 0.003, not 0.001" in one_line(other)
    assert fits().code == 2 and tree(tmp_path / "run") == before


# Signals, and who listens.


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGXCPU"])
def test_g_any_signal_that_ends_a_process_saves_first(name, fits, whole):
    number = getattr(signal, name)
    heeded = partial(signal.signal, number, signal.SIG_DFL)  # whatever this process was told
    outcome = fits(place="train", call=31, signals=(number, number) if name == "SIGXCPU" else (number,), act=heeded)
    assert outcome.code == 128 + number and f"stopped by signal {int(number)}" in outcome.told, outcome.told
    assert (fits.folder / "run" / "checkpoints" / "step-31").is_dir()
    fits.goes_on(whole)


def nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 (until the process ends)


def full_disk():
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 (until the process ends)


@pytest.mark.parametrize("act", [nobody_reads, full_disk])
def test_g_a_standard_error_that_is_gone_or_full_ends_no_fit(act, fits, whole):
    outcome = fits(act=act)
    assert outcome.code == 0 and "training loss" in outcome.told
    assert fits.result() == whole


@pytest.mark.faults
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_g_a_real_process_without_a_standard_error_is_exit_0(redirection, tmp_path, text_base, text_data):
    options = "--device cpu --sequence-length 16 --prompt-length 4 --num-samples 8 --epochs 2 --held-out-samples 4"
    command = f"{sys.executable} -m hypergen fit --model {text_base} --data {text_data} {options} --output run"
    done = subprocess.run(["bash", "-c", f"{command} {redirection}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and "training loss" in done.stdout
    check_manifest(tmp_path / "run")


def test_g_three_fits_at_once_without_a_name_take_three_numbers(tmp_path, toy_base):
    fits = Fits(tmp_path, toy_base, SHORT)
    case = fits.case(act=partial(os.chdir, str(tmp_path)))
    at = list(case.arguments).index("--output")
    arguments = [*case.arguments[:at], *case.arguments[at + 2 :]]
    logs = [tmp_path / f"log-{number}" for number in range(3)]
    together = [start(type(case)(arguments=arguments, act=case.act), log) for log in logs]
    outcomes = [ended(process, log) for process, log in zip(together, logs, strict=True)]
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["toy-1", "toy-2", "toy-3"]
    for path in (tmp_path / "runs").iterdir():
        check_manifest(path)


# Names and numbers.


@pytest.mark.parametrize("flag", ["--output", "--data", "--model", "--prompts"])
def test_g_a_name_that_is_no_utf8_is_refused_at_once(flag, refused_fit):
    said = refused_fit(flag, os.fsdecode(b"caf\xe9"))
    assert said.startswith(f"hypergen: {flag} 'caf\\udce9': must be UTF-8")


@pytest.mark.faults
@pytest.mark.parametrize("place", ["cwd", "output"])
def test_g_a_place_in_an_ascii_locale(place, tmp_path, text_base, text_data):
    """Refused at once, or it works: nothing fails when the work is done."""
    options = "--device cpu --sequence-length 16 --prompt-length 4 --num-samples 8 --epochs 2 --held-out-samples 4"
    folder = tmp_path / "café"
    folder.mkdir()
    output = "run" if place == "cwd" else str(folder / "run")
    command = [sys.executable, "-m", "hypergen", "fit", "--model", text_base, "--data", text_data, *options.split()]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    where = folder if place == "cwd" else tmp_path
    done = subprocess.run([*command, "--output", output], cwd=where, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    if place == "cwd":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 2 and "must be UTF-8" in done.stderr and not (folder / "run").exists()


@pytest.mark.parametrize("flag", ["--data", "--model", "--prompts"])
def test_g_a_home_of_nobody(flag, refused_fit):
    assert "~nobody-there/a.txt: there is no such user" in refused_fit(flag, "~nobody-there/a.txt")


NUMBERS = {
    f"--micro-batch-size {'9' * 31}": "--micro-batch-size: must be at most 2147483647 (as many as 32 bits count)",
    f"--epochs {10**12}": "--epochs: must be at most 2147483647",
    f"--num-samples {10**12}": "--num-samples: must be at most 10000000 (their tokens are held in memory)",
    f"--sequence-length {10**9}": "--sequence-length: must be at most 16777216",
    f"--max-new-tokens {10**40}": "--max-new-tokens: must be at most 2147483647",
    f"--held-out-samples {10**12}": "--held-out-samples: must be at most 10000000",
    "--held-out-samples 1000000 --data self --prompts self": "--held-out-samples 1000000: at most 64 are drawn",
}


@pytest.mark.parametrize("arguments", NUMBERS, ids=range(len(NUMBERS)))
def test_g_every_number_has_an_upper_bound_that_says_why(arguments, refused_fit):
    assert NUMBERS[arguments] in refused_fit(*arguments.split())


@pytest.mark.parametrize("length", [10**12, 2**31, -1, 0])
def test_g_a_context_that_cannot_be_one(length, refused_fit, text_base, tmp_path):
    model = shutil.copytree(text_base, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": length}))
    said = refused_fit(model=str(model), model_needed=True)
    assert f"its max_position_embeddings is {length}; must be from 1 to 134,217,728" in said


# Files that ask for too much, or are none.


@pytest.mark.parametrize("name", ["config.json", "hypergen.json", "tokenizer.json", "model.safetensors"])
def test_g_a_pipe_in_a_model_folder_is_not_waited_for(name, refused_fit, text_base, tmp_path):
    model = shutil.copytree(text_base, tmp_path / "model")
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    said = refused_fit(model=str(model))
    assert f"{name}: is neither a regular file nor a folder" in said


def test_g_a_pipe_in_place_of_a_manifest_or_a_log(damaged):
    fits, newest, _ = damaged
    for path in (newest / "manifest.json", fits.folder / "run" / "metrics.jsonl"):
        path.unlink()
        os.mkfifo(path)
    outcome = fits(resume=True)
    assert outcome.code == 0 and "skipping a damaged checkpoint" in outcome.told, outcome.told


@pytest.mark.parametrize("damage", ["an empty manifest", "a file more"])
def test_g_verify_finds_what_the_manifest_does_not_name(damage, finished, tmp_path, capsys):
    run = shutil.copytree(finished.folder / "run", tmp_path / "run")
    if damage == "an empty manifest":
        weights = load_file(run / "model.safetensors")
        save_file({name: weight.flip(0) for name, weight in weights.items()}, run / "model.safetensors")
        (run / "manifest.json").write_text(json.dumps({"format": 1, "files": {}}))
    else:
        (run / "adapter_config.json").write_text("{}")
    for verb in ("generate", "evaluate"):
        assert cli.main([verb, str(run), "--verify", "--device", "cpu"]) == 3
        assert "is not in manifest.json" in capsys.readouterr().err


def test_g_the_hub_is_not_asked_for_the_base_of_a_stranger_s_run(finished, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(finished.folder / "run", tmp_path / "run")
    record = json.loads((run / "hypergen.json").read_text())
    (run / "hypergen.json").write_text(json.dumps(record | {"base": "stranger/model"}))
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("the hub was asked"))
    for command in (["evaluate"], ["generate", "--interpolate", "0.5"]):
        assert cli.main([command[0], str(run), "--device", "cpu", *command[1:]]) == 2
        assert "its record names stranger/model as its base, which is not on this machine" in capsys.readouterr().err


# Archives.


def some_zip(compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", PNG)
    return bytearray(stream.getvalue())


def future(content):
    content[content.index(b"PK\x01\x02") + 6] = 99  # the version that is needed


def bad_lzma(content):
    start = content.index(b"PK\x03\x04") + 30 + len("0.png") + 9
    content[start : start + 20] = b"\xff" * 20


def no_name(content):
    while (place := content.find(b"1.png")) >= 0:
        content[place : place + 5] = b"\0.png"


def bad_name(content):
    for sign, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(sign) + offset + 1] |= 8  # UTF-8, it says
    while (place := content.find(b"0.png")) >= 0:
        content[place] = 0xFF


ARCHIVES = {
    "of a future version": (some_zip, future),
    "damaged LZMA": (partial(some_zip, zipfile.ZIP_LZMA), bad_lzma),
    "an empty member name": (some_zip, no_name),
    "a badly encoded member name": (some_zip, bad_name),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_g_an_odd_zip_is_one_line(kind, tmp_path):
    make, damage = ARCHIVES[kind]
    content = make()
    damage(content)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError) as error:
        list(pictures.read(str(tmp_path / "a.zip")))
    assert "\n" not in str(error.value) and "zip" in str(error.value)


def mutated(content, draw):
    """The bytes with a few of them changed, cut or repeated."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(content))
        match draw.randrange(4):
            case 0:
                content[place] ^= 1 << draw.randrange(8)
            case 1:
                content[place : place + draw.randint(1, 8)] = draw.randbytes(draw.randint(0, 8))
            case 2:
                del content[len(content) - draw.randrange(len(content) // 4) :]
            case _:
                content[place:place] = content[place : place + draw.randint(1, 40)]
        if not content:
            return b"\0"
    return bytes(content)


COMPRESSIONS = {"stored": 0, "deflated": 8, "bzip2": 12, "lzma": 14}


@pytest.mark.parametrize("seed", some(range(40), lambda place: place < 2))
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_g_fuzzed_zips_are_read_or_refused(compression, seed, tmp_path):
    draw, whole = random.Random(seed), bytes(some_zip(COMPRESSIONS[compression]))
    for _ in range(100):
        (tmp_path / "a.zip").write_bytes(mutated(whole, draw))
        try:
            list(pictures.read(str(tmp_path / "a.zip")))
        except InputError as error:
            assert "\n" not in str(error)


ROWS = b"".join(json.dumps({"text": f"row {number} of some"}).encode() + b"\n" for number in range(50))
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("seed", some(range(40), lambda place: place < 2))
@pytest.mark.parametrize("suffix", PACKERS)
def test_g_fuzzed_streams_are_read_or_refused(suffix, seed, tmp_path):
    draw, whole = random.Random(seed), PACKERS[suffix](ROWS)
    for _ in range(100):
        path = tmp_path / f"a.jsonl.{suffix}"
        path.write_bytes(mutated(whole, draw))
        try:
            list(texts.read(str(path), Settings(), skip_bad=1000))
        except InputError as error:
            assert "\n" not in str(error)


# Configuration files.


@pytest.mark.parametrize(
    "content, said",
    [
        ({"num_samples": 8, "num-samples": 9}, "num_samples and num-samples are the same option; give one of them"),
        ({"resume": True, "no_resume": True}, "resume and no_resume are the same option; give one of them"),
        ({"config": "other.json"}, "config in the file itself is not read"),
    ],
)
def test_g_keys_of_a_configuration_file_that_are_one_or_none(content, said, refused_fit, tmp_path):
    (tmp_path / "options.json").write_text(json.dumps(content))
    assert said in refused_fit("--config", str(tmp_path / "options.json"))


def test_g_an_element_of_a_list_is_a_value_whatever_it_begins_with(tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"prompt": ["--output=evil", "--json", "-h", "plain"]}))
    command = parse(["generate", "RUN", "--config", str(path)])
    assert command.generate.prompt == ("--output=evil", "--json", "-h", "plain")
    assert command.generate.output is None and command.generate.json is False


def test_g_machine_and_code_are_named_where_they_differ(damaged):
    fits, *_ = damaged
    for path in (fits.folder / "run" / "checkpoints").glob("*/state.json"):
        moved(path, '"hypergen": "', '"hypergen": "0.0.1-')
    outcome = fits(resume=True)
    assert outcome.code == 0 and "not bit for bit: hypergen 0.0.1-" in outcome.told, outcome.told
