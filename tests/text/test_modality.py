"""Texts to ids and back: prompts, ends, figures, words. Alone: pytest tests/text/test_modality.py"""

from __future__ import annotations

import json

import pytest
import torch

from hypergen import testing as contract
from hypergen.errors import InputError
from hypergen.text.config import Settings
from hypergen.text.modality import TextModality
from hypergen.text.model import TextModel
from hypergen.text.tokenizer import train_tokenizer
from hypergen.text.word_list import write_words
from tests.text import tiny


def test_the_figure_has_no_files(tmp_path):
    modality = tiny.modality()
    figure = modality.comparison_figure(_ids(modality, "one"), {"before": _ids(modality, "two")})
    assert figure.save(tmp_path) == [] == list(tmp_path.iterdir())
    assert figure.html() == figure.content and figure.content.startswith("<table")


def test_a_text_is_an_item_and_its_own_rendering():
    modality = tiny.modality()
    assert modality.is_item("a") and not modality.is_item(["a"]) and not modality.is_item(b"a")
    assert modality.as_text(" two\nlines") == " two\nlines"


def test_completions_are_compared_over_96_tokens():
    assert [tiny.modality().num_compared_tokens(left) for left in (1, 95, 96, 97, 10**6)] == [1, 95, 96, 96, 96]


def test_known_words_of_a_base_with_a_list(tmp_path):
    tiny.modality().save(tmp_path)
    write_words(tmp_path / "list.gz", {"rowed": 2, "back": 2})
    (tmp_path / "hypergen.json").write_text(json.dumps({"words": {"file": "list.gz", "from": "of the tests"}}))
    modality = tiny.load(tmp_path)
    prompts, completions = (
        _ids(modality, "The ferry", "The"),
        _ids(modality, "man rowed bark.", " back rowed, rowed an"),
    )
    assert modality.metrics(prompts, completions)["known_words"].tolist() == pytest.approx([1 / 2, 1])
    for changed in (modality.with_settings(tiny.SETTINGS), modality.with_model(modality.model)):
        assert changed.metrics(prompts, completions).keys() == {"known_words"}
    contract.check_metrics(modality, prompts, completions)
    assert "of the tests" in modality.reference_metrics(prompts, prompts).describe(2)["known_words"]
    assert tiny.modality().metrics(prompts, completions) == {}


def test_a_run_has_the_word_list_of_its_base(tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    for folder, record in ((base, {"words": {"file": "list.gz", "from": "of the tests"}}), (run, {"base": str(base)})):
        tiny.modality().save(folder)
        (folder / "hypergen.json").write_text(json.dumps(record))
    write_words(base / "list.gz", {"rowed": 2})
    modality = tiny.load(run)
    found = modality.metrics(_ids(modality, "The ferry"), _ids(modality, "man rowed back."))
    assert found["known_words"].tolist() == [1 / 2]
    (run / "hypergen.json").write_text(json.dumps({"base": "text"}))  # the embedded base
    assert "known_words" in tiny.load(run).metrics(_ids(modality, "The ferry"), _ids(modality, "man rowed back."))


def test_sequences_longer_than_the_context():
    with pytest.raises(InputError, match="--sequence-length 65: the model's context is 64 tokens"):
        tiny.modality(settings=Settings(sequence_length=65)).encode_training(tiny.TEXTS, count=1)


def test_ids_that_the_model_lacks():
    modality = tiny.modality(vocab_size=290)  # as if pieces had been added to the tokenizer
    with pytest.raises(InputError, match="which the model's 290 ids do not include"):
        modality.encode(tiny.TEXTS)


def test_start_tokens():
    plain, marked = tiny.modality(), tiny.with_begin_token()
    prompt = torch.tensor([[5, 6], [7, 8]])
    assert torch.equal(plain.add_start_tokens(prompt), prompt)
    assert plain.add_start_tokens(prompt[:, :0]).tolist() == [[0], [0]]
    begin = marked.tokenizer.bos_token_id
    assert marked.add_start_tokens(prompt).tolist() == [[begin, 5, 6], [begin, 7, 8]]
    assert marked.add_start_tokens(prompt[:, :0]).tolist() == [[begin], [begin]]


@pytest.mark.parametrize("make", [tiny.modality, tiny.with_begin_token])
def test_prompts_from_texts(make):
    modality = make()
    for text in ("The ferryman", "", "  ", "👩‍🚀 שלום", "<|endoftext|> as a word", "a\0b"):
        prompt = modality.encode_prompt(text)
        assert prompt.ndim == 1 and prompt.dtype == torch.long and len(prompt) >= 1
        assert prompt.tolist() == modality.tokenizer(text)["input_ids"] or text == ""
    fitting = modality.encode_prompt("x" * (tiny.CONTEXT - 1 - len(modality._prefix)))
    assert len(fitting) == tiny.CONTEXT - 1 and modality.max_new_tokens(len(fitting)) == 1
    with pytest.raises(InputError, match=r"prompt 3: 6[45] tokens; the context of 64 leaves room for at most 63"):
        modality.encode_prompt("x" * tiny.CONTEXT, number=3)


def _with_ends(tokenizer_end: bool, generation: list[int] | int | None, config: object = 0) -> TextModality:
    """A model whose settings name end tokens in several places."""
    own = train_tokenizer(tiny.TEXTS, tiny.NUM_TOKENS)
    if not tokenizer_end:
        own.eos_token = None
    causal = tiny.causal("llama")
    causal.config.eos_token_id, causal.generation_config.eos_token_id = config, generation
    return TextModality(TextModel(causal), own, tiny.SETTINGS)


@pytest.mark.parametrize(
    ("tokenizer_end", "generation", "config", "expected"),
    [
        (True, None, 0, (0,)),
        (True, [5, 7], 0, (0, 5, 7)),
        (False, None, [4, 9], (4, 9)),
        (False, [7, 4], [4, 9], (7, 4, 9)),
        (False, 7, 2, (7,)),  # 2 is only what the class has as default
        (False, None, 2, (2,)),
        (False, None, None, ()),
        (True, [0, 10**6], None, (0,)),  # not an id of the model
    ],
)
def test_every_end_token_that_is_named_counts(tokenizer_end, generation, config, expected):
    assert _with_ends(tokenizer_end, generation=generation, config=config).end_tokens == expected


def test_a_run_keeps_every_end_token(tmp_path):
    _with_ends(False, generation=[7, 4], config=[4, 9]).save(tmp_path)
    again = tiny.load(tmp_path)
    assert again.end_tokens == (7, 4, 9)
    assert again.model.causal.generation_config.eos_token_id == [7, 4]


def test_end_tokens_do_not_show_in_a_text_though_the_tokenizer_does_not_know_them():
    modality = _with_ends(False, generation=[40, 41])
    completion = torch.tensor([[50, 51, 41, 40, 40], [50, 40, 51, 52, 53], [41, 40, 40, 40, 40]])
    prompts = [modality.encode_prompt("The")] * 3
    plain = modality.decode(torch.tensor([[50, 51]]))[0]
    shown = modality.render(prompts, completion)
    assert shown[0] == plain and shown[2] == "" and shown[1] == modality.decode(completion[1:2])[0]


def test_prompts_are_the_beginnings():
    tokens = torch.arange(32).view(2, 16)
    assert torch.equal(tiny.modality().prompts(tokens), tokens[:, :4])
    with pytest.raises(InputError, match="--prompt-length 4: must be below the 4 tokens"):
        tiny.modality().prompts(tokens[:, :4])


def test_max_new_tokens():
    long = TextModality(TextModel(tiny.causal("llama", max_position_embeddings=4096)), tiny.tokenizer(), tiny.SETTINGS)
    assert long.max_new_tokens(32) == 256
    assert (tiny.modality().max_new_tokens(32), tiny.modality().max_new_tokens(64)) == (32, 0)


def _ids(modality: TextModality, *texts: str) -> torch.Tensor:
    """Rows of ids, filled up with the end token as completions are."""
    rows = [modality.tokenizer(text)["input_ids"] for text in texts]
    return torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


def test_comparison_figure():
    modality = tiny.modality()
    completions = _ids(
        modality, "<b>over and over and over and over again</b>", "ünïcode \N{WAVING HAND SIGN}\nsecond line"
    )
    figure = modality.comparison_figure(_ids(modality, "<i>one", "<i>two"), {"before & after": completions})
    table = figure.content
    assert "&lt;b&gt;over" in table and "<mark>" in table and "before &amp; after" in table and "&lt;i&gt;two" in table
    assert "<b>" not in table and "<i>" not in table


def test_write(tmp_path):
    texts = ["one", "zwölf \N{WAVING HAND SIGN}\nsecond line"]
    paths = tiny.modality().write(texts, tmp_path / "new" / "samples")
    assert [path.read_text(encoding="utf-8") for path in paths] == [text + "\n" for text in texts]


def test_rendered_continuations_read_as_after_their_prompts():
    modality = tiny.modality()
    prompts = [modality.encode_prompt(text) for text in ("The ferryman", "", "The")]
    assert modality.render(prompts, _ids(modality, " rowed", "On", "re")) == [" rowed", "On", "re"]
    whole = modality.encode_prompt("\N{WAVING HAND SIGN}!")  # the emoji is cut in two
    assert modality.render([whole[:2]], whole[2:][None])[0].endswith("!")


def test_a_prompt_that_has_its_begin_token_gets_no_second_one():
    modality = tiny.with_begin_token()
    expected = modality.encode_prompt("The ferryman").tolist()
    assert modality.encode_prompt("<s>The ferryman").tolist() == expected
    assert expected.count(modality.tokenizer.bos_token_id) == 1
    assert modality.encode_prompt("<s>").tolist() == modality.encode_prompt("").tolist()
