"""Who may write and read a run folder, and how it is finished. Alone: pytest tests/storage/test_run_folder.py"""

from pathlib import Path

import pytest
import torch

from hypergen.errors import DiskError, InputError
from hypergen.storage import atomic, run_folder
from hypergen.storage.file_names import HELD_OUT_TOKENS
from hypergen.storage.lock import lock_folder
from hypergen.storage.manifest import check_manifest
from hypergen.storage.metrics_log import append_metrics
from hypergen.storage.token_files import save_tokens
from tests.conftest import tree
from tests.storage.faulty_disk import failing, uses, write_two


def test_a_new_or_empty_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new", tmp_path / "new" / "deeper"):
        for resume in (False, True):
            run_folder.check_output(folder, resume)
    assert tree(tmp_path) == {"empty": False}


@pytest.mark.parametrize(
    "content, resume, complaint",
    [
        ("notes.txt", False, "is not empty"),
        ("metrics.jsonl", False, "continue it with --resume"),
        ("notes.txt", True, "is not a run of hypergen"),
        ("manifest.json", True, "holds a finished run"),
    ],
)
def test_a_folder_with_content_is_refused(content, resume, complaint, tmp_path):
    (tmp_path / content).touch()
    with pytest.raises(InputError, match=complaint):
        run_folder.check_output(tmp_path, resume)


def test_places_that_are_no_folder_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for path in ("file", "file/below", "loop/below", "x" * 300):
        with pytest.raises(InputError):
            run_folder.check_output(tmp_path / path, False)
            with lock_folder(tmp_path / path):
                pass
    assert tree(tmp_path).keys() == {"file", "loop"}


def test_an_unfinished_run_can_be_continued(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    run_folder.check_output(tmp_path, resume=True)


@pytest.mark.parametrize("begun", [".lock", "checkpoints/step-1/state.json"])
def test_an_unfinished_run_is_not_read(begun, tmp_path):
    (tmp_path / begun).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / begun).touch()
    with pytest.raises(InputError, match="is an unfinished run; wait for it, or continue it with --resume"):
        run_folder.check_finished(tmp_path)
    (tmp_path / "manifest.json").touch()
    run_folder.check_finished(tmp_path)
    run_folder.check_finished(tmp_path / "not there")


def test_the_next_free_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder.free_output("text") == Path("runs/text-1")
    for name in ("text-1", "text-2", "image-1", "text-4"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert [str(run_folder.free_output(name)) for name in ("text", "image")] == ["runs/text-3", "runs/image-2"]


def started(folder):
    """A run folder just before its end."""
    append_metrics(folder, {"epoch": 1, "loss": 0.5})
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "checkpoints" / "step-1" / "state.json").write_text("{}")
    return folder


def test_a_finished_run_has_log_and_manifest_and_no_checkpoints(tmp_path):
    run_folder.finish(started(tmp_path), write_two)
    assert tree(tmp_path).keys() == {"a.txt", "deep", "deep/b.txt", "metrics.jsonl", "manifest.json"}
    check_manifest(tmp_path)
    assert "metrics.jsonl" in (tmp_path / "manifest.json").read_text()


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_at_any_call_of_the_end_leaves_the_run_to_be_continued(name, tmp_path):
    (tmp_path / "probe").mkdir()
    started(tmp_path / "probe")
    number = uses(name, lambda: run_folder.finish(tmp_path / "probe", write_two))
    (tmp_path / "run").mkdir()
    before = tree(started(tmp_path / "run"))
    for call in range(1, number + (name == "replace")):  # the last fsync flushes the name of what is whole already
        with failing(name, call), pytest.raises(DiskError):
            run_folder.finish(tmp_path / "run", write_two)
        assert tree(tmp_path / "run") == before
        run_folder.check_output(tmp_path / "run", resume=True)
    run_folder.finish(tmp_path / "run", write_two)


def test_what_a_process_killed_at_the_end_left_is_replaced(tmp_path):
    started(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "old.txt").touch()
    run_folder.finish(tmp_path, write_two)
    check_manifest(tmp_path)
    assert not (tmp_path / "deep" / "old.txt").exists()


def test_files_that_were_changed_on_purpose_are_listed_anew(tmp_path):
    run_folder.renew(tmp_path, ["a"])  # without a manifest there is nothing to do
    assert tree(tmp_path) == {}
    atomic.publish(tmp_path / "run", write_two)
    before = check_manifest(tmp_path / "run")
    (tmp_path / "run" / "new").write_text("x")
    (tmp_path / "run" / "a.txt").write_text("changed")
    run_folder.renew(tmp_path / "run", ["new", "a.txt"])
    assert check_manifest(tmp_path / "run") == before | {"new"}
    for content, said in (("[1]", "is an array, not an object"), ("{}", "'files' must be an object")):
        (tmp_path / "run" / "manifest.json").write_text(content)
        with pytest.raises(InputError, match=rf"manifest\.json: {said}$"):
            run_folder.renew(tmp_path / "run", ["new"])


def test_stored_sequences_are_counted_without_reading_them(tmp_path):
    save_tokens(tmp_path / HELD_OUT_TOKENS, torch.zeros(7, 3, dtype=torch.long), torch.ones(7, 3, dtype=torch.bool))
    assert run_folder.num_stored(tmp_path, HELD_OUT_TOKENS) == 7
    assert run_folder.stored_file(tmp_path, HELD_OUT_TOKENS) == tmp_path / HELD_OUT_TOKENS


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"\x02" + b"\0" * 7 + b"{}"])
def test_sequences_that_are_not_there_or_damaged(content, tmp_path):
    if content is not None:
        (tmp_path / HELD_OUT_TOKENS).write_bytes(content)
    said = "not there; only a hyperfitted run has it; hint$" if content is None else "cannot be read"
    with pytest.raises(InputError, match=said):
        run_folder.num_stored(tmp_path, HELD_OUT_TOKENS, "; hint")
    with pytest.raises(InputError):
        run_folder.num_stored(tmp_path / ("x" * 300), HELD_OUT_TOKENS)
