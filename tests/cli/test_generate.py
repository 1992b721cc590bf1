"""What `hypergen generate` prints and writes. Alone: pytest tests/cli/test_generate.py"""

import io
import json
import re
import shutil
import sys

import pytest
import torch

import hypergen
from hypergen import api
from hypergen.cli import main as cli
from hypergen.cli.generate import Stream
from hypergen.runtime import progress
from hypergen.runtime.console import sanitize_block
from tests.cli.shown import complaint, output
from tests.conftest import tree
from tests.storage.faulty_disk import failing, flip


def test_texts_are_printed_one_below_the_other_each_after_its_prompt(text_run, capsys):
    prompts, options = ["The ferryman", "Nobody"], ["--max-new-tokens", "8"]
    lines = output(capsys, "generate", text_run, "--prompt", *prompts, *options)
    assert [line for line in lines if line.startswith("---")] == ["--- 1", "--- 2"]
    assert all(sign.isprintable() for line in lines for sign in line)
    texts = hypergen.load(text_run, device="cpu").generate(prompts, max_new_tokens=8)
    whole = "".join(
        f"--- {n}\n{prompt}{text}\n" for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1)
    )
    assert lines == sanitize_block(whole).splitlines()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch):
    """Make standard output a terminal with colours; inside a test, because pytest sets both streams before it."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)  # so that every progress shows
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, "stdout", Terminal())
    return sys.stdout


ONE = ["--prompt", "The ferryman", "--max-new-tokens", "12", "--no-stop-at-end", "--device", "cpu"]


@pytest.mark.parametrize("strategy", ["greedy", "top-p", "beam"])
def test_one_completion_is_printed_as_it_comes_and_ends_the_same(strategy, text_run, monkeypatch):
    terminal = open_terminal(monkeypatch)
    assert cli.main(["generate", text_run, *ONE, "--strategy", strategy]) == 0
    assert terminal.getvalue().startswith("--- 1\n\x1b[2mThe ferryman\x1b[0m")
    assert "generate: " not in sys.stderr.getvalue()  # no bar through the text
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert cli.main(["generate", text_run, *ONE, "--strategy", strategy]) == 0
    assert without_colours(terminal.getvalue()) == sys.stdout.getvalue() and "generate: " in sys.stderr.getvalue()


def without_colours(text):
    return re.sub(r"\x1b\[\d*m", "", text)


def test_a_stream_prints_whole_words_once(capsys):
    class Words:
        def decode(self, tokens):
            return ["Say"]

        def render(self, prompts, completions):
            return ["".join([" one", " tw", "o", " th", "ree"][: completions.shape[1]])]

        def as_text(self, item):
            return item

    stream, said = Stream(Words(), torch.tensor([1])), []
    for length in range(1, 6):
        stream.show(torch.zeros(1, length))
        said.append(capsys.readouterr().out)
    assert said == ["--- 1\nSay ", "one ", "", "two ", ""]
    stream.finish(torch.zeros(1, 5))
    assert capsys.readouterr().out == "three\n"


def test_without_colours_the_prompt_is_plain(text_run, monkeypatch):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main(["generate", text_run, *ONE]) == 0
    assert "\x1b" not in terminal.getvalue()


def test_the_embedded_base_continues_a_prompt(text_base, monkeypatch, capsys):
    monkeypatch.setattr("hypergen.checks.embedded_base", lambda modality: text_base)
    lines = output(capsys, "generate", "--modality", "text", "--prompt", "The ferryman", "--max-new-tokens", "4")
    assert lines[0] == "--- 1" and lines[1].startswith("The ferryman")
    assert "give --prompt or --prompts" in complaint(capsys, "generate", "--modality", "text")


def test_prompts_of_standard_input(text_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The ferryman\nNobody\n")))
    options = ["--max-new-tokens", "4", "--json"]
    piped = output(capsys, "generate", text_run, "--prompts", "-", *options)
    assert piped == output(capsys, "generate", text_run, "--prompt", "The ferryman", "Nobody", *options)


def test_the_number_of_prompts_stands_in_front(text_run, text_data, capsys):
    def said(*options):
        assert cli.main(["generate", text_run, "--max-new-tokens", "2", "--device", "cpu", *options]) == 0
        return capsys.readouterr().err

    assert f"6 held-out prompts of {text_run} are continued" in said() and "prompts" not in said("--quiet")
    assert f"hypergen: --prompts {text_data}: 48 prompts are read\n" in said("--prompts", text_data)
    assert "prompt" not in said("--prompt", "a", "b")


def test_an_option_that_only_another_verb_reads(text_run, capsys):
    refused = complaint(capsys, "generate", text_run, "--pack")
    assert refused == "hypergen: --pack: only fit reads it"
    refused = complaint(capsys, "generate", text_run, "--sequence-length", "16")
    assert refused == "hypergen: --sequence-length: only pretrain and fit read it"


def test_prompts_that_are_given_twice_both_count(text_run, capsys):
    options = ["--max-new-tokens", "4", "--json"]
    twice = ["--prompt", "The ferryman", "--seed", "1", "--prompt", "--- chapter"]
    records = [json.loads(line) for line in output(capsys, "generate", text_run, *twice, *options)]
    together = output(capsys, "generate", text_run, "--prompt", "The ferryman", "--- chapter", *options)
    assert records == [json.loads(line) for line in together] and len(records) == 2
    assert complaint(capsys, "generate", text_run, "--seed", "1", "--seed", "2").endswith(
        "--seed: is given twice; it takes one value"
    )


def test_without_prompts_it_says_what_is_continued(toy_run, capsys):
    """`--chat` alone, for one, asks nothing of the model."""
    assert cli.main(["generate", toy_run, "--count", "3", "--json", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    said = f"hypergen: no --prompt and no --prompts: 3 held-out prompts of {toy_run} are continued, as they are\n"
    assert said in shown.err and len(shown.out.splitlines()) == 3


def test_a_run_inside_the_cache_of_the_hub(text_run, tmp_path, capsys):
    pytest.importorskip("gguf")
    shutil.copytree(text_run, tmp_path / "models--org--name" / "snapshots" / "abc")
    target = str(tmp_path / "a.gguf")
    assert cli.main(["export", str(tmp_path / "models--org--name"), "--output", target]) == 0
    assert capsys.readouterr().out == f"wrote {target}\n"
    baseline = ["--baseline", str(tmp_path / "models--org--name"), "--count", "2"]
    for verb, options in (("generate", ["--prompt", "a"]), ("evaluate", baseline)):
        output(capsys, verb, str(tmp_path / "models--org--name"), *options, "--max-new-tokens", "2")
    assert hypergen.load(tmp_path / "models--org--name", device="cpu").folder.name == "abc"


def test_a_printed_text_cannot_steer_the_terminal(text_run, capsys, monkeypatch):
    from hypergen.text.modality import TextModality

    monkeypatch.setattr(TextModality, "render", lambda *_, **__: ["\x9bA\nB\u202e"])
    monkeypatch.setattr(TextModality, "decode", lambda *_, **__: ["\x1bprompt\x07"])
    assert output(capsys, "generate", text_run, "--count", "1") == ["--- 1", "promptA", "B"]


def test_bf16_says_how_far_it_agrees_with_fp32(text_run, capsys):
    options = ["--prompt", "The ferryman", "--max-new-tokens", "8", "--no-stop-at-end", "--device", "cpu"]
    assert cli.main(["generate", text_run, *options]) == 0
    assert "bf16" not in capsys.readouterr().err
    assert cli.main(["generate", text_run, *options, "--precision", "bf16"]) == 0
    told = capsys.readouterr().err.splitlines()[-1]
    number = r"\d+\.\d%"
    assert re.fullmatch(
        rf"hypergen: --precision bf16: fp32 finds the same token most likely at {number} of these \d+ places", told
    )


def test_json_has_the_ids_of_prompt_and_completion(text_run, capsys):
    options = ["--max-new-tokens", "8", "--no-stop-at-end"]
    lines = output(capsys, "generate", text_run, "--json", "--count", "3", *options)
    records = [json.loads(line) for line in lines]
    assert [len(record["completion_tokens"]) for record in records] == [8, 8, 8]
    loaded = hypergen.load(text_run, device="cpu")
    assert [record["prompt_tokens"] for record in records] == [row.tolist() for row in loaded.prompt_rows()[:3]]
    assert [record["text"] for record in records] == loaded.generate(max_new_tokens=8, stop_at_end=False)[:3]


def test_a_completion_ends_before_its_end_token(toy_run, capsys):
    long, whole = (
        [json.loads(line)["completion_tokens"] for line in output(capsys, "generate", toy_run, "--json", *options)]
        for options in ((), ("--no-stop-at-end",))
    )
    assert {len(ids) for ids in whole} == {12}
    assert all(17 not in ids and ids == all_ids[: len(ids)] for ids, all_ids in zip(long, whole, strict=True))


def test_a_folder_gets_one_file_an_item(text_run, tmp_path, capsys):
    lines = output(capsys, "generate", text_run, "--count", "2", "--output", str(tmp_path / "new" / "texts"))
    assert lines == [f"wrote {tmp_path}/new/texts"]
    assert tree(tmp_path / "new" / "texts").keys() == {"0001.txt", "0002.txt", "manifest.json"}


def test_a_jsonl_file_gets_the_records(text_run, tmp_path, capsys):
    shown = output(capsys, "generate", text_run, "--json", "--count", "2", "--output", str(tmp_path / "a.jsonl"))
    assert (tmp_path / "a.jsonl").read_text().splitlines() == shown
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_html_file_gets_the_page(text_run, tmp_path, capsys):
    output(capsys, "generate", text_run, "--output", str(tmp_path / "a.html"))
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    assert "must be" in complaint(capsys, "generate", text_run, "--output", str(tmp_path / "a.txt"))
    assert "ends in .html" in complaint(capsys, "generate", text_run, "--output", str(tmp_path / "a.png"))
    page = str(tmp_path / "b.html")
    assert "differ in length" in complaint(capsys, "generate", text_run, "--output", page, "--prompt", "a", "a b c d")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.html", "texts"])
def test_a_full_disk_is_exit_6_and_leaves_nothing(name, text_run, tmp_path, capsys):
    with failing("fsync", 1):
        output(capsys, "generate", text_run, "--count", "1", "--output", str(tmp_path / name), code=6)
    assert not tree(tmp_path)


def test_prompts_of_a_file(text_run, text_data, capsys):
    lines = output(capsys, "generate", text_run, "--prompts", text_data, "--count", "2", "--max-new-tokens", "2")
    assert "--- 2" in lines and "--- 3" not in lines


def test_settings_of_the_run_hold_unless_typed(text_run, capsys):
    def length(*options):
        return len(
            json.loads(output(capsys, "generate", text_run, "--json", "--count", "1", *options)[0])["prompt_tokens"]
        )

    assert (length(), length("--prompt-length", "6")) == (4, 6)


def test_everything_cheap_is_refused_before_a_model_is_loaded(text_run, text_base, tmp_path, capsys, monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(api, "load", load)
    (tmp_path / "there.jsonl").touch()
    cases = {
        "--count 7: there are 6 prompts": ["--count", "7"],
        "--count 3: there are 2 prompts": ["--count", "3", "--prompt", "a", "b"],
        "give one of them": ["--prompt", "a", "--prompts", "b.txt"],
        "b.txt: no such file": ["--prompts", "b.txt"],
        "is not empty": ["--output", str(tmp_path)],
        "exists already": ["--output", str(tmp_path / "there.jsonl")],
        "does not exist": ["--output", str(tmp_path / "nowhere" / "a.jsonl")],
        "not an option of modality 'text'": ["--image-size", "32"],
        "--count 0": ["--count", "0"],
        "--max-new-tokens -1": ["--max-new-tokens", "-1"],
    }
    for said, options in cases.items():
        assert said in complaint(capsys, "generate", text_run, *options)
    for options in ([], ["--prompt", "a", "--block-citations", "3"]):
        assert "only a hyperfitted run has it" in complaint(capsys, "generate", text_base, *options)
    assert "no such folder" in complaint(capsys, "generate", "nowhere/at/all", "--prompt", "a")
    for options in (
        ["--output", str(tmp_path)],
        ["--data", "b.txt"],
        ["--count", "0"],
    ):
        assert complaint(capsys, "evaluate", text_run, *options).startswith("hypergen: ")


def test_what_only_can_be_shown_needs_an_output(toy_run, capsys):
    assert "--output: needed" in complaint(capsys, "generate", toy_run)


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
def test_a_run_can_be_verified(verb, toy_run, tmp_path, capsys):
    shutil.copytree(toy_run, tmp_path / "run")
    options = ["--count", "2", "--max-new-tokens", "2", "--verify", "--json"]
    output(capsys, verb, str(tmp_path / "run"), *options)
    flip(tmp_path / "run" / "model.safetensors")
    output(capsys, verb, str(tmp_path / "run"), *options[:-2], "--json")
    assert cli.main([verb, str(tmp_path / "run"), "--device", "cpu", *options]) == 3
    assert "model.safetensors: missing, or its content is not what the manifest says" in capsys.readouterr().err


def completed(capsys, folder, *options):
    lines = output(capsys, "generate", folder, "--json", "--max-new-tokens", "8", "--no-stop-at-end", *options)
    return [json.loads(line)["completion_tokens"] for line in lines]


def test_the_ends_of_an_interpolation_are_the_base_and_the_run(text_run, text_base, capsys):
    prompts = ["--prompt", "The ferryman", "Nobody rowed"]
    assert completed(capsys, text_run, *prompts, "--interpolate", "1") == completed(capsys, text_run, *prompts)
    assert completed(capsys, text_run, *prompts, "--interpolate", "0") == completed(capsys, text_base, *prompts)
    loaded = hypergen.load(text_run, device="cpu")
    rows = loaded.interpolate(0.5).generate_tokens(loaded.tokens()[:2, :3], 8, stop_at_end=False)
    assert rows.shape == (2, 8)


def test_a_job_does_not_go_on_with_other_weights(text_run, tmp_path, capsys):
    target = str(tmp_path / "a.jsonl")
    with failing("fsync", 2):
        output(capsys, "generate", text_run, "--output", target, "--interpolate", "0.5", code=6)
    assert (tmp_path / "a.jsonl.unfinished").is_file()
    assert "another model, options or prompts" in complaint(
        capsys, "generate", text_run, "--output", target, "--interpolate", "0.25"
    )
    output(capsys, "generate", text_run, "--output", target, "--interpolate", "0.5")


def test_an_interpolation_that_cannot_be_is_one_line(text_run, text_base, tmp_path, capsys):
    for alpha in ("-1", "1.5", "nan"):
        assert "--interpolate" in complaint(capsys, "generate", text_run, "--interpolate", alpha)
    options = ["--prompt", "a", "--interpolate", "0.5"]
    assert "does not say which base" in complaint(capsys, "generate", text_base, *options)
    shutil.copytree(text_run, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "hypergen.json").read_text())
    (tmp_path / "run" / "hypergen.json").write_text(json.dumps(record | {"base": "/nowhere/at/all"}))
    assert "its base /nowhere/at/all is not there" in complaint(capsys, "generate", str(tmp_path / "run"), *options)
    offloaded = complaint(capsys, "generate", text_run, *options, "--offload")
    assert offloaded == "hypergen: interpolation: weights of the run are in files (offloaded); load it without that"
