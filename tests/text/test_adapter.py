"""Texts behind the contract of every adapter: build, load, encode, prompts, figures.

Alone: pytest tests/text/test_adapter.py
"""

from __future__ import annotations

import json

import pytest
import torch

from hypergen import testing as contract
from hypergen.config import FitConfig, PretrainConfig
from hypergen.errors import InputError
from hypergen.runtime import dependencies
from hypergen.text import adapter
from hypergen.text.adapter import TextModality
from hypergen.text.config import Settings
from hypergen.text.model import TextModel
from hypergen.text.tokenizer import train_tokenizer
from hypergen.text.word_list import write_words
from tests.text import tiny


def test_contract(tmp_path):
    modality = tiny.modality()
    contract.check_codec(modality, tiny.TEXTS)
    contract.check_written(modality, tiny.TEXTS, tmp_path / "items")
    contract.check_saved(modality, adapter, tiny.SETTINGS, tiny.TEXTS, tmp_path / "base")


def build(items=tiny.TEXTS, settings=tiny.SETTINGS, **options) -> TextModality:
    config = PretrainConfig(**{"modality": "text", "data": "x", "output": "y"} | options)
    return adapter.build(items=items, settings=settings, config=config, checkpoints=None)


def test_build():
    options = {"width": 32, "num_layers": 2, "num_heads": 4, "vocabulary_size": 280}
    built = build(**options)
    assert built.model.num_tokens == len(built.tokenizer) == 280
    assert built.model.context_length == tiny.SETTINGS.sequence_length
    assert (built.end_tokens[0], built.tokenizer.pad_token_id, built.tokenizer.bos_token_id) == (0, 0, 0)
    again = build(**options)
    for one, other in zip(built.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other) and one.dtype == torch.float32
    contract.check_model(built.model.eval(), built.encode(tiny.TEXTS)[:3])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocabulary_size": 256}, "--vocabulary-size 256: must be 257 or more"),
        ({"width": 12, "num_heads": 4}, "--width 12 --num-heads 4: width / heads must be even"),
        ({"codec_from": "/nowhere"}, "/nowhere: its tokenizer cannot be loaded"),
    ],
)
def test_build_refuses(changes, reason):
    with pytest.raises(InputError, match=reason):
        build(**changes)


def test_codec_from(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    built = build(["other texts"], width=32, num_layers=1, num_heads=4, codec_from=str(tmp_path))
    assert built.tokenizer.get_vocab() == tiny.tokenizer().get_vocab()


def test_an_open_sequence_length_of_a_new_base_is_the_papers():
    built = build(settings=Settings(), width=32, num_layers=1, num_heads=4, vocabulary_size=280)
    assert built.sequence_length == built.settings.sequence_length == built.model.context_length == 256


@pytest.mark.parametrize(("context", "length", "prompt"), [(512, 256, 32), (64, 64, 32), (20, 20, 19)])
def test_an_open_sequence_length_suits_the_model(tmp_path, context, length, prompt):
    tiny.modality(max_position_embeddings=context).save(tmp_path)
    loaded = tiny.load(tmp_path, Settings())
    assert (loaded.sequence_length, loaded.settings.prompt_length) == (length, prompt)
    assert loaded.settings.sequence_length == length


def test_a_fit_keeps_the_trained_blocks_in_memory():
    def prepared(last_layers, **options):
        config = FitConfig(modality="text", last_layers=last_layers)
        return adapter.prepare_fit(settings=Settings(**options), config=config)

    assert prepared(2, offload=True).resident_blocks == 2
    assert prepared(2, offload=True, resident_blocks=3).resident_blocks == 3
    assert prepared(0) == Settings() and prepared(2, resident_blocks=1).resident_blocks == 1
    with pytest.raises(InputError, match=r"^--offload: --last-layers 0 trains every block"):
        prepared(0, offload=True)


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


def test_every_metric_can_be_shown_and_each_library_can_be_named():
    modality = tiny.modality()
    tokens = modality.encode(tiny.TEXTS)
    reference_metrics = modality.reference_metrics(tokens, tokens)
    assert list(reference_metrics.describe(len(tokens))) == list(adapter.METRICS)
    assert reference_metrics.compute(tokens[:, :4], tokens[:, 4:]).keys() <= adapter.METRICS.keys()
    assert adapter.METRICS["self_bleu"].is_diversity and not adapter.METRICS["dataset_bleu"].is_diversity
    assert set(adapter.OPTIONAL_DEPENDENCIES) == {
        "sacrebleu", "mauve", "datasets", "zstandard", "gguf", "sentencepiece", "google.protobuf", "tiktoken", "peft",
    }  # fmt: skip


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


def test_the_only_document_is_cut_and_a_short_one_is_not():
    beginning, end = adapter.cut(item="word " * 500, count=4, settings=Settings(sequence_length=16))
    assert beginning.split() + end.split() == ["word"] * 500 and 200 < len(end) <= 4 * 16 * 4
    assert adapter.cut(item="word " * 50, count=4, settings=Settings()) is None


def test_settings():
    assert tiny.modality(settings=Settings(), max_position_embeddings=512).sequence_length == 256
    changed = tiny.modality().with_settings(Settings(sequence_length=16, prompt_length=7))
    assert changed.prompts(torch.zeros(2, 16)).shape == (2, 7)
    assert adapter.DEFAULT_PROMPTS == "stories"
    stories = adapter.read(source=adapter.DEFAULT_PROMPTS, settings=Settings(), skip_bad=0)
    assert len(stories) > 10 and all(tiny.modality().is_item(story) for story in stories)


def _folder_with(tmp_path, name, content):
    """A base whose tokenizer is in one file of an older format."""
    tiny.modality().save(tmp_path / "base")
    for path in (tmp_path / "base").glob("tokenizer*"):
        path.unlink()
    (tmp_path / "base" / name).write_bytes(content)
    (tmp_path / "base" / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    tiny.load(tmp_path / "base")


def _adapter_folder(tmp_path):
    tiny.modality().save(tmp_path / "base")
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{tmp_path / "base"}"}}')
    (tmp_path / "lora" / "adapter_model.safetensors").touch()
    tiny.load(tmp_path / "lora")


def _source(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd")  # how Zstandard begins
    adapter.read(source=str(tmp_path / name), settings=Settings(), skip_bad=0)


def _gguf(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    tiny.load(tmp_path / "a.gguf")


def _described(metric):
    tokens = tiny.modality().encode(tiny.TEXTS)
    raise InputError(tiny.modality().reference_metrics(tokens, tokens).describe(len(tokens))[metric])


NEEDED_BY = {  # each optional library, and what is done when it is missed
    "sacrebleu": lambda _: _described("self_bleu"),
    "mauve": lambda _: _described("mauve"),
    "datasets": lambda folder: _source(folder, "a.parquet"),
    "zstandard": lambda folder: _source(folder, "a.jsonl.zst"),
    "gguf": _gguf,
    "sentencepiece": lambda folder: _folder_with(folder, "tokenizer.model", b"\n\x0e\n\x05<unk>"),
    "google.protobuf": lambda folder: _folder_with(folder, "tokenizer.model", b"\n\x0e\n\x05<unk>"),
    "tiktoken": lambda folder: _folder_with(folder, "tokenizer.model", b"IQ== 0\nno number\n"),
    "peft": _adapter_folder,
}


@pytest.mark.parametrize("module", adapter.OPTIONAL_DEPENDENCIES)
def test_a_missing_library_is_named_with_its_cure(module, tmp_path, monkeypatch):
    monkeypatch.setattr(dependencies, "is_installed", lambda name: name != module)
    with pytest.raises(InputError) as error:
        NEEDED_BY[module](tmp_path)
    name, requirement = module.split(".")[-1], adapter.OPTIONAL_DEPENDENCIES[module]
    assert f"needs {name} (pip install '{requirement}')" in str(error.value) and "\n" not in str(error.value)


def test_both_libraries_of_a_sentencepiece_model_are_named_together(tmp_path, monkeypatch):
    monkeypatch.setattr(dependencies, "is_installed", lambda name: False)
    with pytest.raises(InputError) as error:
        NEEDED_BY["sentencepiece"](tmp_path)
    assert str(error.value).endswith(
        "its tokenizer is a sentencepiece model (tokenizer.model), which needs sentencepiece and protobuf "
        "(pip install 'sentencepiece>=0.2' 'protobuf>=4.25')"
    )


def test_a_prompt_that_has_its_begin_token_gets_no_second_one():
    modality = tiny.with_begin_token()
    expected = modality.encode_prompt("The ferryman").tolist()
    assert modality.encode_prompt("<s>The ferryman").tolist() == expected
    assert expected.count(modality.tokenizer.bos_token_id) == 1
    assert modality.encode_prompt("<s>").tolist() == modality.encode_prompt("").tolist()
