"""Examples as padded rows with a loss mask, and fits on them. Alone: pytest tests/text/test_padded_rows.py"""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import hypergen
from hypergen.cli import main as cli
from hypergen.errors import InputError
from hypergen.storage.file_names import HELD_OUT_TOKENS, TRAINING_TOKENS
from hypergen.text.config import Settings
from hypergen.text.conversations import Conversation, Message, PromptCompletion
from hypergen.training.loss import IGNORED, backward
from tests.text import tiny

SETTINGS = Settings(sequence_length=64, prompt_length=4)
EXAMPLES = [PromptCompletion(f"{n} times", f" across {n}") for n in range(20)]


def decoded(modality, ids):
    return modality.tokenizer.decode(ids)


def learned(modality, encoded, row):
    """The text that counts of a row."""
    tokens, loss_mask = encoded
    return decoded(modality, tokens[row][loss_mask[row]])


def chat(number):
    turns = [("user", f"How often, {number}?"), ("assistant", f"{number} times.")] * (1 + number % 2)
    return Conversation(tuple(Message(*turn) for turn in turns))


# Rows.


def test_a_row_has_one_begin_token_the_prompt_the_completion_and_one_end_token():
    modality = tiny.with_chat_template(SETTINGS)
    begin, end = modality.tokenizer.convert_tokens_to_ids(["<s>", "<|im_end|>"])
    for prompt, completion in (("4 times", " across"), ("<s>4 times", " across<|im_end|>")):
        ids, counts = modality._row_encoder.example_row(PromptCompletion(prompt, completion))
        assert (ids[0], ids[-1], ids.count(begin), ids.count(end)) == (begin, end, 1, 1)
        assert decoded(modality, ids) == "<s>4 times across<|im_end|>"
        assert (
            decoded(modality, [one for one, counted in zip(ids, counts, strict=True) if counted]) == " across<|im_end|>"
        )
        assert counts == sorted(counts) and counts[-1] and not counts[0]


def test_the_prompt_of_a_row_is_what_the_prompt_alone_is_encoded_as():
    """A token across the border would be in no prompt: "the" and "re" are then two tokens."""
    modality = tiny.with_chat_template(SETTINGS)
    for prompt, completion in (("4 times", " across"), ("the", "re was"), ("rowed", " back"), ("Ü", "ber")):
        ids, counts = modality._row_encoder.example_row(PromptCompletion(prompt, completion))
        start = modality.encode_prompt(prompt).tolist()
        assert ids[: len(start)] == start and counts.index(True) == len(start)
        assert decoded(modality, ids) == f"<s>{prompt}{completion}<|im_end|>"
        assert modality.encode_prompt(PromptCompletion(prompt, completion)).tolist() == start


def test_a_conversation_is_tokenized_as_transformers_does_and_begins_once():
    modality = tiny.with_chat_template(SETTINGS)
    messages = [one._asdict() for one in chat(3).messages]
    ids, counts = modality._row_encoder.example_row(chat(3))
    assert ids == modality.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    said = [one for one, counted in zip(ids, counts, strict=True) if counted]
    assert decoded(modality, said) == "3 times.<|im_end|>\n" * 2
    without = tiny.with_chat_template(SETTINGS, tiny.CHAT_TEMPLATE.removeprefix("{{ bos_token }}"))
    assert without._row_encoder.example_row(chat(3)) == (ids, counts)  # the tokenizer's own begin token


def test_rows_are_padded_on_the_right_and_end_with_what_is_learned():
    modality = tiny.with_chat_template(SETTINGS)
    items = [Conversation((*chat(2).messages, Message("user", "Thanks."))), *EXAMPLES]
    tokens, loss_mask = encoded = modality.encode_training(items, count=21, seed=0)
    assert tokens.shape == loss_mask.shape == (21, 64) and loss_mask.dtype == torch.bool
    texts = [learned(modality, encoded, row) for row in range(21)]
    assert sorted(texts) == sorted(["2 times.<|im_end|>\n", *(f" across {n}<|im_end|>" for n in range(20))])
    for row, mask in zip(tokens, loss_mask, strict=True):
        length = int(mask.nonzero().max()) + 1
        assert bool((row[length:] == modality.end_tokens[0]).all()) and "Thanks" not in decoded(modality, row)
    again = modality.encode_training(items, count=21, seed=0)
    assert again.tokens.equal(tokens) and again.loss_mask.equal(loss_mask)
    other = modality.encode_training(items, count=5, seed=1)
    assert not other.tokens.equal(modality.encode_training(items, count=5, seed=2).tokens)


def test_padding_never_changes_the_logits_of_real_tokens():
    modality = tiny.with_chat_template(SETTINGS)
    tokens, loss_mask = modality.encode_training(EXAMPLES, count=3)
    for row, mask in zip(tokens, loss_mask, strict=True):
        length = int(mask.nonzero().max()) + 1
        with torch.no_grad():
            alone, padded = modality.model(row[None, :length]), modality.model(row[None])[:, :length]
        torch.testing.assert_close(padded, alone, rtol=1e-5, atol=1e-5)


def test_long_completions_are_cut_and_long_prompts_passed_over(capsys):
    modality = tiny.with_chat_template(Settings(sequence_length=16, prompt_length=4))
    items = [*EXAMPLES[:3], PromptCompletion("a", " b" * 40), PromptCompletion("a" * 40, " b"), *EXAMPLES[3:5]]
    encoded = modality.encode_training(items, count=6)
    assert "passed over: 1 of 7 rows have a prompt that leaves no room" in (said := capsys.readouterr().err)
    assert "hypergen: 1 of 7 completions are cut at --sequence-length 16\n" in said
    cut = [learned(modality, encoded, row) for row in range(6) if encoded.loss_mask[row, -1]]
    assert len(cut) == 1 and cut[0].startswith(" b b b") and "<|im_end|>" not in cut[0]
    with pytest.raises(InputError) as error:
        modality.encode_training(items, count=7)
    assert str(error.value) == (
        "--num-samples 7: only 6 sequences qualify (1 of 7 rows have a prompt that leaves no room for the completion "
        "(--sequence-length 16)); lower it or give more"
    )
    with pytest.raises(InputError, match=r"^--num-samples 21: only 20 sequences qualify \(there are 20 rows\)"):
        modality.encode_training(EXAMPLES, count=21)


def test_nothing_to_learn_is_passed_over(capsys):
    modality = tiny.modality(settings=SETTINGS)
    modality.end_tokens = ()  # so that an empty completion has no token at all
    encoded = modality.encode_training([PromptCompletion("a", ""), *EXAMPLES[:3]], count=3)
    assert len(encoded.tokens) == 3
    assert "passed over: 1 of 4 rows have nothing to learn" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"^held-out rows: none qualifies \(1 of 1 rows have nothing to learn\)$"):
        modality.encode_held_out([PromptCompletion("a", "")], 3)


def test_an_example_without_prompt_is_continued_from_a_start_token():
    modality = tiny.modality(settings=SETTINGS)
    assert modality.encode_prompt(PromptCompletion("", "b")).tolist() == modality.encode_prompt("").tolist() != []


def test_held_out_prompts_leave_room_for_a_completion():
    modality = tiny.modality(settings=Settings(sequence_length=64, prompt_length=4))  # all of the context
    items = [*EXAMPLES[:3], PromptCompletion("a" * 40, " b")]
    tokens, loss_mask = modality.encode_held_out(items, 9)
    assert len(tokens) == 3 and int(loss_mask.int().argmax(1).max()) <= 64 - 32


def test_kinds_of_items_are_not_mixed():
    modality = tiny.modality(settings=SETTINGS)
    for items in ([*EXAMPLES, *tiny.TEXTS], [*tiny.TEXTS, *EXAMPLES]):
        with pytest.raises(InputError, match=r"name one kind$"):
            modality.encode_training(items, count=32)
    with pytest.raises(InputError, match=r"name one kind$"):
        modality.encode(EXAMPLES)
    packing = modality.with_settings(replace(SETTINGS, pack=True))
    with pytest.raises(InputError, match=r"^--pack: joins texts; rows of messages or of a prompt and its completion"):
        packing.encode_training(EXAMPLES, count=2)


# Short texts, padded on request.


def test_short_texts_are_padded_on_request():
    modality = tiny.modality(settings=Settings(sequence_length=16, prompt_length=4, pad=True))
    short = [f"{n} times across" for n in range(40)]
    tokens, loss_mask = modality.encode_training(short, count=5, seed=1)
    assert tokens.shape == (5, 16) and bool(loss_mask[:, 0].all())
    texts = [modality.decode(row[mask][None])[0] for row, mask in zip(tokens, loss_mask, strict=True)]
    assert len(set(texts)) == 5 and set(texts) <= set(short)
    long = modality.encode_training(tiny.TEXTS[:1], count=3)
    assert "".join(modality.decode(long.tokens)).count("ferryman") == 1  # its windows, none twice
    with pytest.raises(InputError, match=r"^--num-samples 41: only 40 sequences qualify"):
        modality.encode_training(short, count=41)


def test_a_padded_held_out_text_begins_with_the_prompt():
    modality = tiny.modality(settings=Settings(sequence_length=16, prompt_length=4, pad=True))
    tokens, loss_mask = modality.encode_held_out(["a b c d e f g", "a"], 5)
    ids = modality.tokenizer("a b c d e f g")["input_ids"]
    assert tokens[:, : len(ids)].tolist() == [ids]
    assert loss_mask.tolist() == [[False] * 4 + [True] * (len(ids) - 4) + [False] * (16 - len(ids))]


# Theirs against ours.


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_masked_loss_is_that_of_transformers(parts):
    """labels=-100 in transformers; ours in parts of a batch, each with another number of tokens that count."""
    modality = tiny.with_chat_template(SETTINGS)
    tokens, loss_mask = modality.encode_training([chat(n) for n in range(6)], count=6)
    theirs = modality.model.causal
    labels = tokens.masked_fill(~loss_mask, -100)
    expected = theirs(input_ids=tokens, labels=labels).loss
    expected.backward()
    gradients = {name: weight.grad.clone() for name, weight in theirs.named_parameters()}
    modality.model.zero_grad()
    targets, total = tokens[:, 1:].masked_fill(~loss_mask[:, 1:], IGNORED), 0.0
    count = int(loss_mask[:, 1:].sum())
    for rows in torch.arange(6).tensor_split(parts):
        hidden = modality.model.hidden(tokens[rows, :-1])
        total += backward(modality.model, hidden, targets[rows], share=targets[rows].numel() / count).loss
    assert total == pytest.approx(expected.item(), rel=1e-5)
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-3, atol=1e-6, msg=name)


# Whole fits.


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat") / "base"
    tiny.with_chat_template().save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chats")
    rows = [{"messages": [one._asdict() for one in chat(n).messages], "score": float("nan")} for n in range(40)]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = [{"prompt": one.prompt, "completion": one.completion} for one in EXAMPLES]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    orders = [{"instruction": f"Row {n}.", "input": "", "output": f"{n} times."} for n in range(20)]
    (folder / "orders.jsonl").write_text("\n".join(map(json.dumps, orders)))
    (folder / "orders.csv").write_text("instruction,output\n" + "".join(f"Row {n}.,{n} times.\n" for n in range(20)))
    return folder


OPTIONS = {
    "sequence_length": 64,
    "prompt_length": 4,
    "num_samples": 12,
    "epochs": 3,
    "batch_size": 5,
    "learning_rate": 3e-3,
    "held_out_samples": 3,
    "max_new_tokens": 6,
    "device": "cpu",
}


def fit(base, data, output, **options):
    return hypergen.fit(model=base, data=str(data), output=str(output), **OPTIONS | options)


@pytest.fixture(scope="module")
def run(base, data, tmp_path_factory):
    return fit(base, data / "chats.jsonl", tmp_path_factory.mktemp("runs") / "chat")


def test_a_fit_on_messages_learns_what_the_assistant_says(run):
    tokens, loss_mask = run.tokens(), run.loss_mask()
    said = [decoded(run.modality, row[mask]) for row, mask in zip(tokens, loss_mask, strict=True)]
    assert all(text.replace("<|im_end|>\n", "").endswith("times.") for text in said)
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    assert run.record["counted_tokens"] == int(loss_mask[:, 1:].sum()) < tokens.numel() // 2
    assert f"{run.record['counted_tokens']:,} of their tokens" in (run.folder / "README.md").read_text()
    assert AutoModelForCausalLM.from_pretrained(run.folder).config.vocab_size == run.modality.model.num_tokens


def test_prompts_of_a_run_on_chats_end_where_the_assistant_begins(run):
    prompts = [decoded(run.modality, row) for row in run.prompt_rows()]
    assert len(prompts) == 3 and all(one.endswith("?<|im_end|>\n<|im_start|>assistant\n") for one in prompts)
    assert all(one.startswith("<s><|im_start|>user\n") and one.count("<s>") == 1 for one in prompts)
    assert [len(run.generate()), run.record["compared"].startswith("3 prompts of ")] == [3, True]
    assert "<table" in run.grid(rows=2)
    names = [record["name"] for record in run.records]
    assert names[:3] == ["base greedy", "base top-p", "hyperfitted greedy"]


def test_held_out_loss_is_that_of_the_assistants_tokens(run):
    tokens, loss_mask = run.tokens(HELD_OUT_TOKENS), run.loss_mask(HELD_OUT_TOKENS)
    with torch.no_grad():
        loss = run.modality.model.causal(input_ids=tokens, labels=tokens.masked_fill(~loss_mask, -100)).loss
    values = next(record["values"] for record in run.records if record["name"] == "hyperfitted greedy")
    assert values["loss"]["mean"] == pytest.approx(loss.item(), rel=1e-4)


def test_evaluate_measures_a_run_on_chats(run, data):
    compared = hypergen.evaluate(run.folder, device="cpu", max_new_tokens=6)
    assert [record["values"].items() <= {one["name"]: one["values"] for one in compared.records}[record["name"]].items()
            for record in run.records] == [True] * len(run.records)  # fmt: skip
    assert "not measured" in compared.notes["reference metrics"]
    fewer = hypergen.evaluate(run, data=str(data / "chats.jsonl"), count=2, device="cpu", max_new_tokens=4)
    assert len(fewer.prompts) == 2


@pytest.mark.parametrize("name", ["pairs.json", "orders.jsonl", "orders.csv"])
def test_fits_on_prompts_and_completions_need_no_template(name, data, text_base, tmp_path):
    run = fit(text_base, data / name, tmp_path / "run", epochs=1)
    loss_mask = run.loss_mask()
    assert 0 < int(loss_mask.sum()) < loss_mask.numel() // 2
    assert load_file(run.folder / TRAINING_TOKENS)["loss_mask"].equal(loss_mask)


def test_tables_of_messages_are_read(base, data, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    rows = [{"id": n, "messages": [one._asdict() for one in chat(n).messages]} for n in range(40)]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "chats.parquet"))
    from_table = fit(base, tmp_path / "chats.parquet", tmp_path / "one", epochs=1)
    from_lines = fit(base, data / "chats.jsonl", tmp_path / "other", epochs=1)
    assert from_table.tokens().equal(from_lines.tokens())


def test_messages_without_a_chat_template_are_one_line(data, text_base, tmp_path, capsys):
    command = ["fit", "--model", text_base, "--data", str(data / "chats.jsonl"), "--output", str(tmp_path / "run")]
    assert cli.main([*command, "--sequence-length", "64", "--num-samples", "4", "--device", "cpu"]) == 2
    said = "rows of messages: the model's tokenizer has no chat template; take a model that was tuned to chat"
    assert f"hypergen: {said}\n" in capsys.readouterr().err


def test_wrong_rows_are_one_line_or_skipped(base, data, tmp_path, refused, capsys):
    lines = (data / "chats.jsonl").read_text().splitlines()
    lines[2] = '{"messages": [{"role": "user", "content": "?"}]}'
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    command = ["fit", "--model", base, "--data", f"{tmp_path}/bad.jsonl", "--output", f"{tmp_path}/run"]
    assert refused(*command) == (
        f"hypergen: {tmp_path}/bad.jsonl:3: field 'messages' has no message of role 'assistant'; its roles are user"
    )
    fit(base, tmp_path / "bad.jsonl", tmp_path / "run", epochs=1, skip_bad=1)
    assert "bad items passed over: 1 (--skip-bad 1)" in capsys.readouterr().err


# Chat.


def prompt_ids(capsys, source, *options):
    assert cli.main(["generate", source, "--json", "--max-new-tokens", "4", "--device", "cpu", *options]) == 0
    return [json.loads(line)["prompt_tokens"] for line in capsys.readouterr().out.splitlines()]


def test_chat_writes_a_users_turn_with_one_begin_token(run, base, capsys):
    tokenizer = run.modality.tokenizer
    turn = [{"role": "user", "content": "How often, 3?"}]
    expected = tokenizer.apply_chat_template(turn, tokenize=True, add_generation_prompt=True, return_dict=False)
    for source in (str(run.folder), base):
        assert prompt_ids(capsys, source, "--chat", "--prompt", "How often, 3?") == [expected]
    assert expected.count(tokenizer.bos_token_id) == 1
    written = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert prompt_ids(capsys, base, "--prompt", written) == [expected]  # it has its begin token already
    (plain,) = prompt_ids(capsys, base, "--prompt", "How often, 3?")
    assert plain == tokenizer("How often, 3?")["input_ids"]


def test_chats_of_a_file_are_continued_from_where_the_assistant_begins(run, data, capsys):
    found = prompt_ids(capsys, str(run.folder), "--prompts", str(data / "chats.jsonl"), "--count", "2")
    texts = [decoded(run.modality, ids) for ids in found]
    assert all(text.endswith("<|im_start|>assistant\n") and text.count("assistant") == 1 for text in texts)


def test_chat_is_refused_where_nothing_reads_it(base, text_base, data, tmp_path, refused):
    said = refused("generate", text_base, "--prompt", "a", "--chat")
    assert said.startswith(f"hypergen: --chat: {text_base}: the model's tokenizer has no chat template")
    command = ["fit", "--model", base, "--data", str(data / "chats.jsonl"), "--output", f"{tmp_path}/run", "--chat"]
    assert refused(*command).startswith("hypergen: --chat: only generate reads it")
    command = ["pretrain", "--modality", "text", "--data", str(data / "chats.jsonl"), "--output", f"{tmp_path}/run"]
    assert refused(*command, "--pad") == "hypergen: --pad: only fit reads it"
    assert refused(*command).startswith("hypergen: texts are needed here")


def test_a_stopped_fit_on_chats_goes_on_bit_for_bit(run, base, data, tmp_path, monkeypatch):
    import signal

    from hypergen.training import monitor

    real, left = monitor.append_metrics, [2]

    def stopped(*arguments):
        left[0] -= 1
        if not left[0]:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(monitor, "append_metrics", stopped)
        with pytest.raises(KeyboardInterrupt, match="stopped by signal 15"):
            fit(base, data / "chats.jsonl", tmp_path / "run")
    with pytest.raises(InputError, match="was started with"):
        fit(base, data / "chats.jsonl", tmp_path / "run", resume=True, text_field="messages")
    resumed = fit(base, data / "chats.jsonl", tmp_path / "run", resume=True)
    assert resumed.records == run.records
    assert (resumed.folder / "model.safetensors").read_bytes() == (run.folder / "model.safetensors").read_bytes()
    assert (resumed.folder / "metrics.jsonl").read_text() == (run.folder / "metrics.jsonl").read_text()
