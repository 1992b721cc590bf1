"""pytest tests/text/test_modality.py: documents to sequences and back, prompts, and the contract of every adapter."""

from __future__ import annotations

import pytest
import torch
from tokenizers import processors

from hypergen.config import PretrainConfig
from hypergen.errors import InputError
from hypergen.text import codec
from hypergen.text import modality as adapter
from hypergen.text.config import Settings
from hypergen.text.modality import TextModality
from hypergen.text.model import TextModel
from tests import contract
from tests.text import tiny


def _with_begin_token() -> TextModality:
    """As Llama's tokenizers do: an id of its own in front of every text."""
    tokenizer = codec.train_tokenizer(tiny.TEXTS, tiny.NUM_TOKENS)
    tokenizer.backend_tokenizer.add_special_tokens(["<s>"])
    begin = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", begin)]
    )
    tokenizer.bos_token = "<s>"
    return TextModality(TextModel(tiny.causal("llama", vocab_size=begin + 1)), tokenizer, tiny.SETTINGS)


def test_contract(tmp_path):
    modality = tiny.modality()
    contract.check_codec(modality, tiny.TEXTS)
    contract.check_written(modality, tiny.TEXTS, tmp_path / "items")
    contract.check_saved(modality, adapter.load, tiny.SETTINGS, tiny.TEXTS, tmp_path / "base")


def test_build():
    config = PretrainConfig(
        modality="text", data="x", output="y", width=32, num_layers=2, num_heads=4, vocabulary_size=280
    )
    built = adapter.build(tiny.TEXTS, tiny.SETTINGS, config)
    assert built.model.num_tokens == len(built.tokenizer) == 280
    assert built.model.context_length == tiny.SETTINGS.sequence_length
    assert (built.end_token, built.tokenizer.pad_token_id, built.tokenizer.bos_token_id) == (0, 0, 0)
    again = adapter.build(tiny.TEXTS, tiny.SETTINGS, config)
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
        adapter.build(tiny.TEXTS, tiny.SETTINGS, PretrainConfig(modality="text", data="x", output="y", **changes))


def test_codec_from(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    config = PretrainConfig(
        modality="text", data="x", output="y", width=32, num_layers=1, num_heads=4, codec_from=str(tmp_path)
    )
    built = adapter.build(["other texts"], tiny.SETTINGS, config)
    assert built.tokenizer.get_vocab() == tiny.tokenizer().get_vocab()


def test_any_string_survives_the_codec():
    texts = [*tiny.TEXTS, "  two  spaces .  And , so on ' s\t\n", "\x00\x01\ud7ff\U0010ffff", "שלום 👩‍🚀", ""]
    rows = list(codec.tokenize(tiny.tokenizer(), texts, special=True))
    assert codec.decode_texts(tiny.tokenizer(), rows) == texts


def test_packed_stream_has_one_end_token_between_texts():
    modality = tiny.modality(settings=Settings(sequence_length=8, prompt_length=4))
    stream = modality.encode(tiny.TEXTS).flatten()
    assert stream[0] == 0
    whole = modality.decode(stream[None])[0]
    assert "".join(tiny.TEXTS).startswith(whole) and len(stream) > 100
    assert int((stream == 0).sum()) == len(tiny.TEXTS)  # the last one falls into the dropped remainder
    with pytest.raises(InputError, match=r"--sequence-length 64: all 1 texts together have only 3 tokens"):
        tiny.modality(settings=Settings(sequence_length=64)).encode(["a"])


def test_chosen_windows():
    modality = tiny.modality()
    chosen = modality.encode(tiny.TEXTS, count=9, seed=5)
    assert chosen.shape == (9, 16) and chosen.dtype == torch.long
    assert torch.equal(chosen, modality.encode(tiny.TEXTS, count=9, seed=5))
    assert not torch.equal(chosen, modality.encode(tiny.TEXTS, count=9, seed=6))
    windows = {
        tuple(ids[first : first + 16])
        for ids in codec.tokenize(modality.tokenizer, tiny.TEXTS, special=True)
        for first in range(0, len(ids) - 15, 16)
    }
    assert {tuple(row) for row in chosen.tolist()} <= windows


def test_windows_carry_the_tokenizers_begin_token():
    modality = _with_begin_token()
    rows = modality.encode(tiny.TEXTS, count=20, seed=0)
    begins = (rows == modality.tokenizer.bos_token_id).nonzero()
    assert len(begins) > 0 and bool((begins[:, 1] == 0).all())  # only the first window of a text has one
    assert len(begins) < 20


def test_too_few_sequences():
    with pytest.raises(InputError) as error:
        tiny.modality().encode(tiny.TEXTS[:2], count=2000)
    message = str(error.value)
    assert message.startswith("--num-samples 2000: only ") and "\n" not in message
    assert message.endswith("sequences of 16 tokens qualify in 2 texts; lower it or give more text")


def test_only_as_many_texts_are_read_as_are_needed():
    class Endless:
        read = 0

        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            Endless.read += 1
            return tiny.TEXTS[index % 4] * 3

    assert tiny.modality().encode(Endless(), count=4).shape == (4, 16)
    assert Endless.read < 500


def test_sequences_longer_than_the_context():
    with pytest.raises(InputError, match="--sequence-length 65: the model's context is 64 tokens"):
        tiny.modality(settings=Settings(sequence_length=65)).encode(tiny.TEXTS, count=1)


def test_ids_that_the_model_lacks():
    modality = tiny.modality(vocab_size=290)  # as if pieces had been added to the tokenizer
    with pytest.raises(InputError, match="which the model's 290 ids do not include"):
        modality.encode(tiny.TEXTS)


def test_begin():
    plain, marked = tiny.modality(), _with_begin_token()
    prompt = torch.tensor([[5, 6], [7, 8]])
    assert torch.equal(plain.begin(prompt), prompt)
    assert plain.begin(prompt[:, :0]).tolist() == [[0], [0]]
    begin = marked.tokenizer.bos_token_id
    assert marked.begin(prompt).tolist() == [[begin, 5, 6], [begin, 7, 8]]
    assert marked.begin(prompt[:, :0]).tolist() == [[begin], [begin]]


@pytest.mark.parametrize("make", [tiny.modality, _with_begin_token])
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


def test_compare(tmp_path):
    modality = tiny.modality()
    completions = _ids(
        modality, "<b>over and over and over and over again</b>", "ünïcode \N{WAVING HAND SIGN}\nsecond line"
    )
    table = modality.compare(_ids(modality, "<i>one", "<i>two"), {"before & after": completions})
    assert "&lt;b&gt;over" in table and "<mark>" in table and "before &amp; after" in table and "&lt;i&gt;two" in table
    assert "<b>" not in table and "<i>" not in table


def test_write(tmp_path):
    texts = ["one", "zwölf \N{WAVING HAND SIGN}\nsecond line"]
    paths = tiny.modality().write(texts, tmp_path / "new" / "samples")
    assert [path.read_text(encoding="utf-8") for path in paths] == [text + "\n" for text in texts]


def test_assembled_continuations_read_as_after_their_prompts():
    modality = tiny.modality()
    prompts = [modality.encode_prompt(text) for text in ("The ferryman", "", "The")]
    assert modality.assemble(prompts, _ids(modality, " rowed", "On", "re")) == [" rowed", "On", "re"]
    whole = modality.encode_prompt("\N{WAVING HAND SIGN}!")  # the emoji is cut in two
    assert modality.assemble([whole[:2]], whole[2:][None])[0].endswith("!")


def test_examples_are_beginnings():
    modality = tiny.modality()
    found = modality.examples(tiny.TEXTS, 5, seed=2)
    beginnings = [tuple(row[:16]) for row in modality.tokenizer(tiny.TEXTS)["input_ids"]]
    assert found.shape == (5, 16) and {tuple(row) for row in found.tolist()} <= set(beginnings)
    assert torch.equal(found, modality.examples(tiny.TEXTS, 5, seed=2))
    more = modality.examples(["short", *tiny.TEXTS[:3]], 64)
    windows = [len(ids) // 16 for ids in modality.tokenizer(tiny.TEXTS[:3])["input_ids"]]
    assert len(more) == sum(windows) and {tuple(row) for row in more[:3].tolist()} == set(beginnings[:3])
    with pytest.raises(InputError, match="--sequence-length 16: none of 2 held-out texts has so many tokens"):
        modality.examples(["a", "b"], 2)


def test_settings():
    assert tiny.modality(settings=Settings(), max_position_embeddings=512).sequence_length == 256
    changed = tiny.modality().with_settings(Settings(sequence_length=16, prompt_length=7))
    assert changed.prompts(torch.zeros(2, 16)).shape == (2, 7)
    assert adapter.DEFAULT_PROMPTS == "stories"
    for wrong in ({"sequence_length": 1}, {"prompt_length": 0}, {"hub_rows": 0}):
        with pytest.raises(InputError, match="must be"):
            Settings(**wrong)
