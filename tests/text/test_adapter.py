"""Texts behind the contract of every adapter: build, load, encode, prompts, figures.

Alone: pytest tests/text/test_adapter.py
"""

from __future__ import annotations

import pytest
import torch

import hypergen
from hypergen import testing as contract
from hypergen.config import FitConfig, PretrainConfig
from hypergen.errors import InputError
from hypergen.runtime import dependencies
from hypergen.text import adapter
from hypergen.text.config import Settings
from hypergen.text.modality import TextModality
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
    cached = tmp_path / "models--org--name"
    tiny.tokenizer().save_pretrained(cached / "snapshots" / "abc")
    for source in (cached / "snapshots" / "abc", cached):
        built = build(["other texts"], width=32, num_layers=1, num_heads=4, codec_from=str(source))
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


def test_a_fit_takes_the_context_where_that_is_smaller_than_the_paper_s_length(text_base, text_data, tmp_path):
    """Nobody typed 256, so nobody is refused."""
    options = {"num_samples": 8, "epochs": 1, "device": "cpu", "held_out_samples": 4, "pad": True}
    options |= {"model": text_base, "data": text_data, "output": str(tmp_path / "run"), "learning_rate": 1e-3}
    run = hypergen.fit(**options)
    assert run.modality.sequence_length == 64 and run.record["settings"]["sequence_length"] == 64
    assert run.tokens().shape == (8, 64)
    assert hypergen.fit(**options, resume=True).record == run.record  # which is finished
    with pytest.raises(InputError, match="holds a finished run with sequence_length 64, not 48"):
        hypergen.fit(**options, resume=True, sequence_length=48)
