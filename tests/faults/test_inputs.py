"""Bad texts, prompts and ids (matrix D1, D3, D6): one clear line and exit 2, or a defined
result; nothing is written, no traceback, no cost. Alone: pytest tests/faults/test_inputs.py"""

import gzip
import json
import lzma
import os
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import hypergen
from hypergen import run as loaded
from hypergen.cli import main as cli
from hypergen.errors import InputError
from hypergen.storage.strict_json import parse_object
from hypergen.text import sources as texts
from hypergen.text.config import Settings
from tests.conftest import FIT
from tests.faults.measured import LINUX, refusal
from tests.image import tiny as tiny_image
from tests.text import tiny as tiny_text

pytestmark = pytest.mark.usefixtures("offline")
ROW = b'{"text": "a story"}\n'


# D1: texts.

DIGITS = b'{"text": "a", "n": ' + b"9" * 5000 + b"}"
BAD_TEXTS = {
    "empty.txt": (b"", "empty.txt: is empty"),
    "empty.jsonl": (b"", "empty.jsonl: is empty"),
    "blank.txt": (b" \n\r\n", "blank.txt: has no text in it"),
    "blank.jsonl": (b"\n \n", "blank.jsonl: has no text in it"),
    "one.jsonl": (ROW, "has one item, so none can be held out"),
    "latin.jsonl": (ROW + b'{"text": "caf\xe9"}', "latin.jsonl:2: not UTF-8 at byte 33 of the file"),
    "cut.jsonl": (ROW + b'{"text": "\xe2\x82', "cut.jsonl:2: not UTF-8 at byte 30 of the file"),
    "overlong.jsonl": (ROW + b'{"text": "\xc0\xaf"}', "overlong.jsonl:2: not UTF-8 at byte 30 of the file"),
    "surrogate.txt": (b"ab\xed\xa0\x80", "surrogate.txt: not UTF-8 at byte 2 of the file"),
    "nul.txt": (b"ab\0c", "nul.txt: has a NUL byte at byte 2 of the file"),
    "nul.jsonl": (ROW + b'{"text": "\0"}', "nul.jsonl:2: has a NUL byte at byte 30 of the file"),
    "escape.jsonl": (b'{"text": "\\u0000"}', "escape.jsonl:1: field 'text' has a NUL character"),
    "returns.jsonl": (b'{"text": "a"}\r{"text": "b"}', "returns.jsonl:1: is not JSON (Extra data at character 15)"),
    "deep.jsonl": (b'{"text": ' + b"[" * 65 + b"]" * 65 + b"}", "deep.jsonl:1: is nested deeper than 64"),
    "nan.jsonl": (b'{"text": NaN}', "nan.jsonl:1: field 'text' is a number, not a string"),
    "infinity.jsonl": (b'{"text": -Infinity}', "infinity.jsonl:1: field 'text' is a number, not a string"),
    "half.jsonl": (b'{"text": "\\ud83d"}', "half.jsonl:1: field 'text' has half of a surrogate pair"),
    "twice.jsonl": (b'{"text": "a", "text": "b"}', "twice.jsonl:1: has a key twice"),
    "array.jsonl": (ROW + b'["a"]', "array.jsonl:2: is an array, not an object"),
    "string.jsonl": (b'"a"', "string.jsonl:1: is a string, not an object"),
    "missing.jsonl": (ROW + b'{"txt": "a"}', "missing.jsonl:2: has no field 'text' (--text-field); it has txt"),
    "null.jsonl": (b'{"text": null}', "null.jsonl:1: field 'text' is null, not a string"),
    "mixed.jsonl": (ROW * 3 + b'{"text": 3}', "mixed.jsonl:4: field 'text' is a number, not a string"),
    "digits.jsonl": (DIGITS, "digits.jsonl:1: is not JSON that can be read (a number is too long)"),
    "open.jsonl": (b'{"text": "a', "open.jsonl:1: is not JSON (Unterminated string starting at character 10)"),
    "cut.jsonl.gz": (gzip.compress(ROW)[:-9], "cut.jsonl.gz: cannot be unpacked (gzip: Compressed file ended before"),
    "twice.txt.gz": (gzip.compress(gzip.compress(ROW)), "twice.txt.gz: is compressed twice (gzip); unpack it first"),
    "bomb.txt.gz": (gzip.compress(bytes(65 * 2**20)), "bomb.txt.gz: would unpack to more than 67,108,864 bytes"),
    "bad.jsonl.xz": (lzma.compress(ROW + b"[1]"), "bad.jsonl.xz:2: is an array, not an object"),
    "zip.jsonl": (b"PK\x03\x04 and more", "zip.jsonl: is a zip archive; unpack it first"),
    "zstd.jsonl": (b"\x28\xb5\x2f\xfd and more", "zstd.jsonl: "),  # damaged, or its library is missing
    "parquet.jsonl": (b"PAR1 and more", "parquet.jsonl: is a Parquet file; let its name end in .parquet"),
    "table.parquet": (b"PAR1 and more", "table.parquet: "),  # damaged, or its library is missing
    "wide.txt": ("a story".encode("utf-16"), "wide.txt: is UTF-16; UTF-8 is needed"),
    "table.csv": (b"name\na story\n", "table.csv:2: has no field 'text' (--text-field); it has name"),
    "array.json": (b'[{"text": "a story"}, 3]', "array.json: row 2: is not an object"),
    "a.pdf": (b"a story", "a.pdf: allowed are a .txt, .jsonl, .json, .csv, .parquet or .arrow file"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_d1_bad_text(name, refused_fit, tmp_path):
    content, said = BAD_TEXTS[name]
    (tmp_path / name).write_bytes(content)
    line = refused_fit(data=name)
    assert said in line and "story" not in line and "caf" not in line


def test_d1_too_short_rows(refused_fit, tmp_path):
    (tmp_path / "short.jsonl").write_bytes(b'{"text": "short"}\n' * 20)
    said = refused_fit(data="short.jsonl", model_needed=True)
    assert "--sequence-length 16: all 15 texts are shorter, the longest has" in said and "--pack" in said


@pytest.mark.parametrize("name", ["nowhere.txt", "folder.jsonl", "loop.txt", "pipe.jsonl", "long" * 80 + ".txt", "."])
def test_d1_no_file(name, refused_fit, tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    if name.startswith("pipe"):
        os.mkfifo(tmp_path / name)
    assert name in refused_fit(data=name)


GOOD_TEXTS = {
    "mark.txt": (b"\xef\xbb\xbfa story", ["a story"]),
    "mark.jsonl": (b"\xef\xbb\xbf" + ROW, ["a story"]),
    "mark alone.jsonl": (b"\xef\xbb\xbf\n" + ROW, ["a story"]),
    "returns.txt": (b"one\rtwo\r", ["one\ntwo"]),
    "windows.jsonl": (ROW.replace(b"\n", b"\r\n") * 2, ["a story"] * 2),
    "pair.jsonl": (b'{"text": "\\ud83d\\ude00"}', ["\N{GRINNING FACE}"]),
    "gzip.txt": (gzip.compress(b"a story"), ["a story"]),
    "gzip.jsonl": (gzip.compress(ROW), ["a story"]),
    "nan.jsonl": (b'{"text": "a story", "n": NaN}', ["a story"]),
    "table.csv": (b"text\na story\n", ["a story"]),
    "array.json": (b'[{"text": "a story"}]', ["a story"]),
    "bracket.jsonl": (b'{"text": "' + b"[" * 99 + b'"}', ["[" * 99]),
}


@pytest.mark.parametrize("name", GOOD_TEXTS)
def test_d1_unusual_text_that_is_read(name, tmp_path):
    content, expected = GOOD_TEXTS[name]
    (tmp_path / name).write_bytes(content)
    assert list(texts.read(name, Settings())) == expected


def test_d1_one_long_document_is_split_and_its_end_held_out(text_base, tmp_path, capsys):
    (tmp_path / "novel.txt").write_text("".join(f"The ferryman rowed {n} times across.\n" for n in range(200)))
    few = ["--held-out-samples", "2", "--max-new-tokens", "2", "--learning-rate", "1e-3"]
    common = ["fit", "--model", text_base, "--data", "novel.txt", *FIT, *few]
    assert cli.main([*common, "--output", "run"]) == 0
    assert "--data novel.txt: has one item, so its end is held out and never trained on" in capsys.readouterr().err


def bad_rows(path, good, bad):
    path.write_bytes(b'{"text": 3}\n'.join([ROW * good] + [b""] * bad))


def test_d1_bad_rows_are_passed_over_and_counted(tmp_path, capsys):
    bad_rows(tmp_path / "a.jsonl", 5, 3)
    assert list(texts.read("a.jsonl", Settings(), 3)) == ["a story"] * 5
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "bad items passed over: 3" in told and "the first is a.jsonl:6: field" in told
    with pytest.raises(InputError, match=r"^a.jsonl:8: field .* \(and 2 before it, --skip-bad 2\)$"):
        texts.read("a.jsonl", Settings(), 2)
    bad_rows(tmp_path / "b.jsonl", 0, 3)
    with pytest.raises(InputError, match="has no text in it"):
        texts.read("b.jsonl", Settings(), 3)


def test_d1_a_long_line_is_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(ROW + b"x" * (40 * 2**20) + b"\n" + ROW + b'{"text": "\xff"}')
    assert list(texts.read("a.jsonl", Settings(), 2)) == ["a story"] * 2
    with pytest.raises(
        InputError, match=rf"^a.jsonl:4: not UTF-8 at byte {2 * len(ROW) + 40 * 2**20 + 11} of the file"
    ):
        texts.read("a.jsonl", Settings(), 1)


def test_d1_a_fit_passes_bad_rows_over(text_base, text_data, tmp_path, capsys):
    rows = Path(text_data).read_bytes() + b"\n[1]\n{}\n"
    (tmp_path / "a.jsonl").write_bytes(rows)
    common = ["fit", "--model", text_base, "--data", "a.jsonl", *FIT, "--learning-rate", "1e-3"]
    assert cli.main([*common, "--output", "strict"]) == 2
    assert cli.main([*common, "--output", "run", "--skip-bad", "2"]) == 0
    assert "a.jsonl: bad items passed over: 2" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "hypergen.json").read_text())["config"]["skip_bad"] == 2


SIZE_ATTACKS = {
    "20 MiB line": ("a.jsonl", lambda file: file.write(b'{"text": "' + b"x" * 20 * 2**20 + b'"}'), "longer than 16"),
    "1 GiB line": ("a.jsonl", lambda file: file.truncate(2**30), "longer than 16 MiB and has NUL bytes"),
    "1 GiB text": ("a.txt", lambda file: file.truncate(2**30), "NUL byte at byte 0"),
    "depth 100000": ("a.jsonl", lambda file: file.write(b"[" * 10**5 + b"]" * 10**5), "nested deeper than 64"),
    "empty rows": ("a.jsonl", lambda file: file.write(b"\n" * 10**6), "has no text in it"),
    "deep and long": ("a.jsonl", lambda file: file.write(b"[" * 16 * 2**20), "nested deeper than 64"),
    "many lists": ("a.jsonl", lambda file: file.write(b'{"a": [' + b"[]," * (5 * 2**20) + b"1]}"), "100000 values"),
    "many keys": ("a.jsonl", lambda file: file.write(b"{" + b'"a":1,' * 10**6 + b'"b":1}'), "100000 values"),
    "quotes": ("a.jsonl", lambda file: file.write(b"[" * 65 + b'"' + b'\\"' * (8 * 2**20 - 100)), "nested deeper"),
}


@LINUX
@pytest.mark.parametrize("attack", SIZE_ATTACKS)
def test_d1_size_attack(attack, tmp_path):
    name, write, said = SIZE_ATTACKS[attack]
    with (tmp_path / name).open("wb") as file:
        write(file)
    assert said in refusal("text", tmp_path / name)


@LINUX
@pytest.mark.parametrize(
    "attack, said", {"1 GiB line": "longer than 80 MiB", "20 MiB line": "no text", "depth 100000": "no text"}.items()
)
def test_d1_size_attack_on_skipping(attack, said, tmp_path):
    name, write, _ = SIZE_ATTACKS[attack]
    with (tmp_path / name).open("wb") as file:
        write(file)
    assert said in refusal("text", tmp_path / name, skip_bad=5)


@pytest.mark.parametrize("count", [2_000, pytest.param(50_000, marks=pytest.mark.faults)])
def test_d1_changed_bytes(count):
    """Whatever is in a line, it is a row or one line of refusal."""
    content = '{"a": [1e3, {"b": -Infinity}, null, "\\ud83d\\ude00"], "text": "é", "n": 10}'.encode()
    generator = random.Random(0)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(generator.choice([1, 2, 16])):
            changed[generator.randrange(len(changed))] = generator.choice(b'\0"{}[],:\\ ue019\x80\xed\xff')
        try:
            assert isinstance(parse_object("x", bytes(changed)), dict)
        except InputError as error:
            assert str(error).startswith("x: ") and "\n" not in str(error)


# D3: prompts.


def generated(capsys, *arguments):
    assert cli.main(["generate", *arguments, "--device", "cpu", "--json", "--max-new-tokens", "4"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


PROMPTS = {
    "empty": "",
    "white space": " \n\t ",
    "special token": "a<|endoftext|>b",
    "emoji": "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET} \N{REGIONAL INDICATOR SYMBOL LETTER D}",
    "right to left": "שלום \N{RIGHT-TO-LEFT OVERRIDE}abc عربي",
    "escapes": "\x1b[31m\x00\x07",
    "combining": "e" + "\N{COMBINING ACUTE ACCENT}" * 20,
    "private and unassigned": "\ue000\U000e0001\uffff",
}


@pytest.mark.parametrize("name", PROMPTS)
def test_d3_prompt_that_is_continued(name, text_base, capsys):
    (record,) = generated(capsys, text_base, "--prompt", PROMPTS[name])
    assert record["prompt_tokens"] and len(record["completion_tokens"]) <= 4
    assert cli.main(["generate", text_base, "--device", "cpu", "--prompt", PROMPTS[name], "--max-new-tokens", "4"]) == 0
    shown = capsys.readouterr().out
    if "\t" in PROMPTS[name]:  # the prompt is shown, its own tabs included
        shown = shown.replace("\t", "", PROMPTS[name].count("\t"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)


def test_d3_the_same_prompt_twice_gives_the_same_twice(text_base, capsys):
    first, second = generated(capsys, text_base, "--prompt", "one day", "one day")
    assert first == second


def test_d3_prompts_of_context_length_and_more(text_base, refused):
    run = hypergen.load(text_base, device="cpu")
    piece = run.modality.encode_prompt("a")
    fitting = "a" * (run.modality.model.context_length - 1)
    assert len(piece) == 1 and len(run.modality.encode_prompt(fitting)) == 63
    assert run.generate_tokens(run.modality.encode_prompt(fitting)[None], 1).shape == (1, 1)
    said = refused("generate", text_base, "--device", "cpu", "--prompt", "a", fitting + "a", "--max-new-tokens", "1")
    assert "prompt 2: 64 tokens; the context of 64 leaves room for at most 63" in said
    with pytest.raises(InputError, match="prompt: 999 tokens; the context of 64"):
        run.generate("a" * 999)


def test_d3_many_prompts_are_read_as_far_as_they_are_needed(text_base, tmp_path, capsys):
    (tmp_path / "many.jsonl").write_bytes(ROW * 100_000)
    assert len(generated(capsys, text_base, "--prompts", "many.jsonl", "--count", "3")) == 3


def test_d3_a_line_says_how_many_prompts_were_read(text_base, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "parts.txt").write_text("one\n<|endoftext|>\ntwo\n")
    for name, said in {"lines.txt": "1 prompt is read", "parts.txt": "2 prompts are read"}.items():
        arguments = ["--device", "cpu", "--prompts", name, "--max-new-tokens", "2"]
        assert cli.main(["generate", text_base, *arguments]) == 0
        assert f"hypergen: --prompts {name}: {said}\n" in capsys.readouterr().err


@pytest.mark.parametrize("prompts", [3, [b"bytes"], [None], ["fine", "half \ud83d"]])
def test_d3_what_is_no_text(prompts, text_base):
    with pytest.raises(InputError, match=r"^prompt( \d)?: is "):
        hypergen.load(text_base, device="cpu").generate(prompts, max_new_tokens=1)


def test_d3_undecodable_bytes_of_the_command_line(refused, text_base):
    assert "prompt 1: is not text that UTF-8 can write" in refused("generate", text_base, "--prompt", "a\udcff")


def test_d3_what_is_no_picture(tmp_path):
    tiny_image.base("colors").save(tmp_path / "base")
    with pytest.raises(InputError, match=r"^prompt 1: is of type str; a picture \(PIL\) is needed$"):
        hypergen.load(tmp_path / "base", device="cpu").generate(["text"])


def test_d3_a_small_context_needs_no_flag(tmp_path, capsys):
    """Neither the paper's 256 tokens of a sequence nor 32 of a prompt fit; both are for training."""
    tiny_text.modality("llama", max_position_embeddings=24).save(tmp_path / "base")
    (record,) = generated(capsys, "base", "--prompt", "a b")
    assert record["completion_tokens"]
    settings = hypergen.load("base", device="cpu").modality.settings
    assert (settings.sequence_length, settings.prompt_length) == (24, 23)


# D6: ids.

BAD_IDS = {
    "negative": (torch.tensor([[1, -1]]), "has id -1; the model has ids from 0 to"),
    "too large": (torch.tensor([[1, 300]]), "has id 300; the model has ids from 0 to 299"),
    "huge": (torch.tensor([[2**62]]), f"has id {2**62}"),
    "float": (torch.tensor([[1.0]]), "whole numbers, found torch.float32 of shape (1, 1)"),
    "boolean": (torch.tensor([[True]]), "whole numbers, found torch.bool"),
    "one row": (torch.tensor([1, 2]), "found torch.int64 of shape (2,)"),
    "list": ([[1, 2]], "found list"),
}


@pytest.mark.parametrize("name", BAD_IDS)
def test_d6_bad_ids(name, text_base):
    ids, said = BAD_IDS[name]
    with pytest.raises(InputError) as error:
        hypergen.load(text_base, device="cpu").generate_tokens(ids, 2)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["negative", "too large", "float", "boolean"])
def test_d6_bad_ids_in_a_run(name, text_base, tmp_path):
    shutil.copytree(text_base, tmp_path / "run")
    save_file({"tokens": BAD_IDS[name][0]}, tmp_path / "run" / loaded.HELD_OUT_TOKENS)
    with pytest.raises(InputError, match=r"held_out_tokens\.safetensors"):
        hypergen.load("run", device="cpu").generate(max_new_tokens=2)


def test_d6_the_start_token_of_pictures_is_no_code():
    base = tiny_image.base("colors")
    run = loaded.Run(Path(), base, {})
    with pytest.raises(InputError, match="is not a code"):
        run.generate_tokens(torch.full((1, 3), base.start_token), 2)
