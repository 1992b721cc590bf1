"""A stopped job of many prompts continues with the missing ones.

Alone: pytest tests/decoding/test_completion_journal.py
"""

import errno
import json
import os

import pytest
import torch

from hypergen.config import DecodingConfig
from hypergen.decoding import completion_journal
from hypergen.decoding.completion_journal import open_journal
from hypergen.decoding.loop import generate
from hypergen.errors import DiskError, InputError, LockedError
from hypergen.storage.temporary_folder import is_marked, make_marked
from tests.storage.faulty_disk import write_two
from tests.training.plans import toy

ROWS = [torch.arange(1, 2 + number % 3) for number in range(12)]
SAMPLED = DecodingConfig(strategy="top-p", stop_at_end=False)


class Stopped(Exception):
    pass


def complete(output, model, rows=ROWS, batches=None, config=SAMPLED, threads=1):
    """All completions; or Stopped when so many batches have been decoded. Gives them and the decoded rows."""
    decoded = []
    options, machine = {"seed": config.seed}, {"threads": threads}
    with open_journal(output, output.parent, options, rows, machine, num_tokens=model.num_tokens) as batch_store:

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
    for name in ("out", "out2"):
        write_two(make_marked(tmp_path, name))
    (tmp_path / ".tmp-out-12").mkdir()  # somebody's own
    (tmp_path / ".tmp-out-12" / "a.txt").touch()
    complete(tmp_path / "out", toy())
    left = [path for path in tmp_path.iterdir() if path.name != ".tmp-out-12"]
    assert len(left) == 1 and is_marked(left[0], "out2") and (tmp_path / ".tmp-out-12" / "a.txt").is_file()


def stopped(folder, batches=3):
    """The journal of a job that was stopped after so many batches."""
    with pytest.raises(Stopped):
        complete(folder / "out", toy(), batches=batches)
    return folder / "out.unfinished"


@pytest.mark.parametrize("batches", [0, 1])
def test_a_disk_that_is_full_at_any_byte_leaves_whole_lines(batches, tmp_path, monkeypatch):
    """Also where the rest of a line would be written later, by a buffer."""
    whole, _ = complete(tmp_path / "whole", toy())
    size = stopped(tmp_path, batches + 1).stat().st_size
    (tmp_path / "out.unfinished").unlink()
    for room in range(0, size, 7 if batches else 1):

        def write(file, content, room=room):
            left = room - os.fstat(file.fileno()).st_size
            file.write(content[:left])
            if left < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.unfinished")

        with monkeypatch.context() as patch, pytest.raises(DiskError):
            patch.setattr(completion_journal, "write_all", write)
            complete(tmp_path / "out", toy())
        if (tmp_path / "out.unfinished").exists():
            assert (tmp_path / "out.unfinished").read_bytes().endswith(b"}\n")
    ids, _ = complete(tmp_path / "out", toy())
    assert ids.equal(whole)


def test_a_process_killed_at_any_byte_leaves_what_can_be_gone_on_with(tmp_path):
    path = stopped(tmp_path)
    content = path.read_bytes()
    whole, _ = complete(tmp_path / "whole", toy())
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with open_journal(tmp_path / "out", tmp_path, {"seed": 0}, ROWS, {"threads": 1}):
            assert path.read_bytes() in (b"", *(content[:place] for place in ends(content)))
    path.write_bytes(content[:-3])
    assert complete(tmp_path / "out", toy())[0].equal(whole)


def ends(content):
    """Where lines end."""
    return [place + 1 for place, byte in enumerate(content) if byte == 10]


EDITS = {
    "a changed digit": lambda record: record["ids"][0].__setitem__(0, (record["ids"][0][0] + 1) % 16),
    "a shortened row": lambda record: record["ids"][0].pop(),
    "a part of a token": lambda record: record["ids"][0].__setitem__(0, 1.9),
    "an id of a million": lambda record: record["ids"][0].__setitem__(0, 10**6),
    "a negative id": lambda record: record["ids"][0].__setitem__(0, -1),
    "a huge id": lambda record: record["ids"][0].__setitem__(0, 10**40),
    "true": lambda record: record["ids"][0].__setitem__(0, True),
    "a row that is not there": lambda record: record["rows"].__setitem__(0, 99),
    "a missing row": lambda record: record["rows"].pop(),
    "no ids": lambda record: record.pop("ids"),
    "ids that are text": lambda record: record.update(ids="abc"),
}


@pytest.mark.parametrize("agreeing", [False, True], ids=["as edited", "with a new checksum"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_batch_is_decoded_again(edit, agreeing, tmp_path, capsys):
    whole, _ = complete(tmp_path / "whole", toy())
    path = stopped(tmp_path)
    first, second, *others = path.read_bytes().splitlines(keepends=True)
    record = json.loads(second)
    EDITS[edit](record)
    if agreeing and edit in ("a changed digit", "a shortened row"):
        pytest.skip("whoever computes checksums may also write other ids")
    if agreeing:
        record.pop("sha256")
        second = completion_journal._line(record)
    else:
        second = json.dumps(record).encode() + b"\n"
    path.write_bytes(b"".join([first, second, *others]))
    assert complete(tmp_path / "out", toy())[0].equal(whole)
    assert "1 of 3 batches are damaged, and decoded again" in capsys.readouterr().err


@pytest.mark.parametrize("number", range(40))
def test_a_flipped_bit_anywhere_is_found(number, tmp_path):
    whole, _ = complete(tmp_path / "whole", toy())
    path = stopped(tmp_path)
    content = bytearray(path.read_bytes())
    content[number * len(content) // 40] ^= 1 << number % 7
    path.write_bytes(content)
    try:
        assert complete(tmp_path / "out", toy())[0].equal(whole)
    except InputError as error:  # in the head
        assert "holds completions of another model" in str(error) and path.read_bytes() == content


def test_what_was_decoded_outlives_a_refusal_of_the_output(tmp_path):
    with pytest.raises(InputError), open_journal(tmp_path / "out", tmp_path, {}, ROWS, {}) as batch_store:
        batch_store([0], lambda: torch.ones(1, 1, dtype=torch.long))
        raise InputError("cannot be drawn")
    with open_journal(tmp_path / "out", tmp_path, {}, ROWS, {}) as batch_store:
        assert batch_store([0], lambda: pytest.fail("decoded again")).tolist() == [[1]]


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "out.unfinished").symlink_to("other")
    with pytest.raises(InputError, match="is a symbolic link"):
        complete(tmp_path / "out", toy())
    assert (tmp_path / "other").read_text() == "precious"


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
