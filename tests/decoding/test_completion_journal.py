"""A stopped job of many prompts continues with the missing ones.

Alone: pytest tests/decoding/test_completion_journal.py
"""

import json

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding.completion_journal import open_journal
from hypergen.decoding.loop import generate
from hypergen.errors import InputError, LockedError
from tests.training.plans import toy

ROWS = [torch.arange(1, 2 + number % 3) for number in range(12)]
SAMPLED = DecodingConfig(strategy="top-p", stop_at_end=False)


class Stopped(Exception):
    pass


def complete(output, model, rows=ROWS, batches=None, config=SAMPLED, threads=1):
    """All completions; or Stopped when so many batches have been decoded. Gives them and the decoded rows."""
    decoded = []
    with open_journal(output, output.parent, {"seed": config.seed}, rows, {"threads": threads}) as batch_store:

        def counted(batch, decode):
            def count():
                if len(decoded) == batches:
                    raise Stopped
                decoded.append(batch)
                return decode()

            return batch_store(batch, count)

        ids = generate(model, rows, 5, config, batch_size=3, batch_store=counted)
    return ids, sorted(row for batch in decoded for row in batch)


@pytest.mark.parametrize("batches", [0, 1, 3])
@pytest.mark.parametrize("torn", [False, True])
def test_the_missing_ones_are_decoded_and_all_are_the_same(batches, torn, tmp_path):
    model = toy()
    whole, every = complete(tmp_path / "whole", model)
    assert every == list(range(12)) and not list(tmp_path.iterdir())
    with pytest.raises(Stopped):
        complete(tmp_path / "out", model, batches=batches)
    unfinished = tmp_path / "out.unfinished"
    lines = unfinished.read_text().splitlines(keepends=True) if batches else []
    assert len(lines) == (1 + batches if batches else 0) and unfinished.exists() == (batches > 0)
    if torn:
        unfinished.write_text("".join(lines) + ('{"rows": [1, 2' if lines else '{"o'))
    ids, decoded = complete(tmp_path / "out", model)
    done = {row for line in lines[1:] for row in json.loads(line)["rows"]}
    assert ids.equal(whole) and set(decoded) == set(range(12)) - done
    assert not list(tmp_path.iterdir())


def test_those_of_something_else_are_refused(tmp_path):
    model = toy()
    with pytest.raises(Stopped):
        complete(tmp_path / "out", model, batches=2)
    before = (tmp_path / "out.unfinished").read_bytes()
    for change in ({"rows": ROWS[1:]}, {"config": DecodingConfig(seed=1)}):
        with pytest.raises(InputError, match="unfinished: holds completions of another model, options or prompts"):
            complete(tmp_path / "out", model, **change)
    assert (tmp_path / "out.unfinished").read_bytes() == before


def test_another_machine_is_told_and_no_obstacle(tmp_path, capsys):
    model = toy()
    with pytest.raises(Stopped):
        complete(tmp_path / "out", model, batches=2)
    ids, decoded = complete(tmp_path / "out", model, threads=2)
    assert len(ids) == 12 and 0 < len(decoded) < 12
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hypergen: ")]
    assert told == [f"hypergen: {tmp_path / 'out.unfinished'}: not bit for bit: threads 1 -> 2"]


def test_what_killed_processes_left_beside_goes(tmp_path):
    for name in (".tmp-12-out", ".tmp-12-out2", ".tmp-a-out", ".tmp-12-out.unfinished"):
        (tmp_path / name).touch()
    for name in (".tmp-out-12", ".tmp-out-12-former", ".tmp-out2-12"):
        (tmp_path / name / "deep").mkdir(parents=True)
    complete(tmp_path / "out", toy())
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".tmp-12-out2", ".tmp-a-out", ".tmp-12-out.unfinished", ".tmp-out2-12"}


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "out.unfinished").write_text("my notes\n")
    with pytest.raises(InputError, match="remove it"):
        complete(tmp_path / "out", toy())
    assert (tmp_path / "out.unfinished").read_text() == "my notes\n"


def test_a_model_in_one_file_is_known_by_its_size_and_time(tmp_path):
    model = tmp_path / "model.toy"
    model.write_text("a")
    with pytest.raises(Stopped), open_journal(tmp_path / "out", model, {}, ROWS, {}) as batch_store:
        batch_store([0], lambda: torch.ones(1, 1, dtype=torch.long))
        raise Stopped
    model.write_text("ab")
    again = open_journal(tmp_path / "out", model, {}, ROWS, {})
    with pytest.raises(InputError, match="completions of another model"), again:
        pass


def test_two_at_once(tmp_path):
    with (
        open_journal(tmp_path / "out", tmp_path, {}, ROWS, {}),
        pytest.raises(LockedError),
        open_journal(tmp_path / "out", tmp_path, {}, [], {}),
    ):
        pass


def test_without_an_output_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_journal(None, tmp_path, {}, ROWS, {}) as batch_store:
        assert batch_store([0], lambda: torch.ones(1)).equal(torch.ones(1))
    assert not list(tmp_path.iterdir())
