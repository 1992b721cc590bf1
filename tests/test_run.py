"""What a loaded run can do, and what a base cannot. Alone: pytest tests/test_run.py"""

import errno
import json
import pickle
import shutil
from html import escape

import pytest
import torch

import hypergen
from hypergen.config import DecodingConfig
from hypergen.data.loss_mask import cut_prompts
from hypergen.errors import DiskError, InputError
from hypergen.storage.file_names import HELD_OUT_TOKENS
from tests.conftest import QUICK_TOY
from tests.storage.faulty_disk import failing
from tests.toy.adapter import toy


@pytest.fixture(scope="module")
def fitted(toy_base, tmp_path_factory):
    run = hypergen.fit(model=toy_base, output=str(tmp_path_factory.mktemp("runs") / "toy"), **QUICK_TOY | {"epochs": 8})
    return run.folder


@pytest.fixture(scope="module")
def run(fitted):
    return hypergen.load(fitted, device="cpu")


def test_the_modality_and_the_table_are_read_back(run):
    assert run.modality.name == "toy"
    assert [one["name"] for one in run.records][2] == "hyperfitted greedy"
    assert hypergen.load(str(run.folder), device="cpu").record == run.record


def test_a_run_says_whether_it_is_hyperfitted(run, toy_base):
    said = run.verdict
    assert said.outcome in ("hyperfitted", "not hyperfitted", "worse")
    assert str(said) == "\n".join(run.record["verdict"]["sentences"]) and "looping" in said.sentences[0]
    page = (run.folder / "report.html").read_text()
    assert all(escape(sentence) in page for sentence in said.sentences)
    again = hypergen.evaluate(run.folder, device="cpu")
    assert again.verdict == said
    assert hypergen.load(toy_base, device="cpu").verdict is None and run.interpolate(0.5).verdict is None


def test_settings_can_be_given_on_top_and_must_exist(fitted):
    assert hypergen.load(fitted, device="cpu", prompt_length=7).modality.settings.prompt_length == 7
    with pytest.raises(InputError, match=r"^image_size: not an option of modality 'toy'"):
        hypergen.load(fitted, image_size=7)
    with pytest.raises(InputError, match=r"^modality text: .* is of modality 'toy'"):
        hypergen.load(fitted, modality="text")


def test_items_are_continued_and_stop_at_the_end(run):
    several = run.generate([[1, 2, 3], [4, 4]])
    assert len(several) == 2 and all(isinstance(item, list) for item in several)
    assert run.generate([[1, 2, 3]])[0] == several[0]
    assert len(run.generate()) == len(run.tokens(HELD_OUT_TOKENS))


def test_ids_are_continued(run):
    prompts = torch.tensor([[1, 2, 3], [5, 7, 9]])
    ids = run.generate_tokens(prompts, max_new_tokens=6, stop_at_end=False)
    assert ids.shape == (2, 6)
    started = torch.cat([torch.full((2, 1), 16), prompts], 1)
    assert run.modality.model(started)[:, -1].argmax(-1).equal(ids[:, 0])
    assert run.generate_tokens(prompts[:, :0], max_new_tokens=2).shape[0] == 2
    assert run.complete(run.prompt_rows([[1, 2, 3], [5, 7, 9]]), DecodingConfig(stop_at_end=False), 6).equal(ids)


def test_sampling_is_seeded(run):
    prompts = torch.tensor([[1, 2, 3]])
    draws = [run.generate_tokens(prompts, 8, strategy="temperature", seed=seed).tolist() for seed in (1, 1, 2, 3)]
    assert draws[0] == draws[1] and len({str(draw) for draw in draws}) > 1


def test_no_blocked_ngram_of_the_training_set_is_completed(run):
    known = {
        tuple(window) for row in run.tokens().tolist() for window in zip(*(row[i:] for i in range(3)), strict=False)
    }

    def quoted(**options):
        prompts = run.modality.prompts(run.tokens()[:8])
        whole = torch.cat(
            [prompts, run.complete(list(prompts), DecodingConfig(stop_at_end=False, **options), 10)], 1
        ).tolist()
        return sum(tuple(row[i : i + 3]) in known for row in whole for i in range(len(prompts[0]) - 2, len(row) - 2))

    assert quoted() > 0 == quoted(block_citations=3) == quoted(block_citations=3, strategy="top-p")


def test_a_grid_has_prompt_completion_and_original(run):
    page = run.grid(rows=3)
    assert page.startswith("<table>") and page.count("<tr>") == 4
    assert [title in page for title in ("prompt", "completion", "original")] == [True] * 3
    assert run.grid(rows=3, prompt_length=8) != page != run.grid(rows=3, strategy="top-p", stop_at_end=True)


def test_a_grid_of_answers_shows_each_whole(toy_base, tmp_path):
    """The longest prompt does not cut the answers of the others."""
    fitted = hypergen.fit(model=toy_base, output=str(tmp_path / "run"), **QUICK_TOY | {"masked": True, "epochs": 1})
    held_out, loss_mask = fitted.tokens(HELD_OUT_TOKENS)[:8], fitted.loss_mask(HELD_OUT_TOKENS)[:8]
    page = fitted.grid(rows=8)
    lengths = {len(prompt) for prompt in cut_prompts(fitted.modality, held_out, loss_mask)}
    assert len(lengths) > 1
    for row, mask in zip(held_out, loss_mask, strict=True):
        assert f"<td>{' '.join(map(str, row[mask].tolist()))}</td>" in page
    assert fitted.grid(rows=8, stop_at_end=False).count("<tr>") == page.count("<tr>") == 9


def test_a_base_has_no_sequences(toy_base):
    base = hypergen.load(toy_base, device="cpu")
    assert base.records == [] and len(base.generate([[1]], max_new_tokens=3)[0]) <= 3
    for attempt in (base.tokens, base.generate, base.grid, lambda: base.generate([[1]], block_citations=3)):
        with pytest.raises(InputError, match="only a hyperfitted run has it"):
            attempt()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 64])
def test_broken_sequences_are_one_line(content, run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / HELD_OUT_TOKENS).write_bytes(content)
    with pytest.raises(InputError, match=r"held_out_tokens.safetensors: cannot be read"):
        hypergen.load(tmp_path / "run", device="cpu").tokens(HELD_OUT_TOKENS)


def test_a_prompt_that_is_too_long_is_named_by_its_number(text_base):
    run = hypergen.load(text_base, device="cpu", sequence_length=16, prompt_length=4)
    with pytest.raises(InputError, match=r"^prompt 2: \d+ tokens; the context of 64"):
        run.generate(["short", "long " * 99])
    with pytest.raises(InputError, match=r"^prompt 1: .* exceed the context of 64"):
        run.generate("short", max_new_tokens=64)
    assert isinstance(run.generate("The ferryman", max_new_tokens=4)[0], str)


# Between the base and the run.


def logits(run):
    with torch.no_grad():
        return run.modality.model(run.tokens()[:4])


def test_the_ends_of_an_interpolation_are_the_base_and_the_run(run, toy_base):
    before, of_base = logits(run), hypergen.load(toy_base, device="cpu")
    assert logits(run.interpolate(1)).equal(before)
    with torch.no_grad():
        assert logits(run.interpolate(0)).equal(of_base.modality.model(run.tokens()[:4]))
    half = run.interpolate(0.5)
    assert not logits(half).equal(before) and logits(run).equal(before)
    assert half.records == [] and half.record["interpolated"] == 0.5 and run.records
    assert len(half.generate()) == len(run.generate())


def test_a_run_of_last_layers_is_interpolated(toy_base, tmp_path):
    options = QUICK_TOY | {"last_layers": 1, "epochs": 1}
    fitted = hypergen.fit(model=toy_base, output=str(tmp_path / "run"), **options)
    base, half = hypergen.load(toy_base, device="cpu").modality.model, fitted.interpolate(0.5).modality.model
    changed = [
        any(not one.equal(two) for one, two in zip(old.parameters(), new.parameters(), strict=True))
        for old, new in zip(base.blocks, half.blocks, strict=True)
    ]
    assert changed == [False, False, True]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_an_interpolation_goes_from_0_to_1(alpha, run):
    with pytest.raises(InputError, match=r"^alpha .*: must be a number from 0 \(the base\) to 1 \(the run\)$"):
        run.interpolate(alpha)


def test_an_interpolation_needs_the_base(run, toy_base, tmp_path):
    with pytest.raises(InputError, match=r"does not say which base it started from$"):
        hypergen.load(toy_base, device="cpu").interpolate(0.5)
    other = hypergen.load(run.folder, device="cpu")
    other.record["base"] = str(tmp_path / "gone")
    with pytest.raises(InputError, match=r"its base .*gone is not there$"):
        other.interpolate(0.5)


def test_an_interpolation_needs_the_same_shapes(run, tmp_path, registered):
    toy(width=16).save(tmp_path / "base")
    other = hypergen.load(run.folder, device="cpu")
    other.record["base"] = str(tmp_path / "base")
    with pytest.raises(InputError, match=r"^weight embedding.weight: \(18, 16\) in the base, \(18, 32\) in the run"):
        other.interpolate(0.5)


def test_encoding_prompts_shows_progress(run, phases):
    run.prompt_rows([[1, 2, 3], [4, 4]])
    assert phases() == {"encode prompts": "2/2"}
    run.prompt_rows([1, 2, 3])
    assert phases() == {}


# Into a file of another program.


def test_an_export_is_whole_or_not_there(run, tmp_path):
    file = tmp_path / "a.json"
    with failing("fsync", 1, errno.ENOSPC), pytest.raises(DiskError, match="No space left"):
        run.export(output=file)
    assert list(tmp_path.iterdir()) == []
    assert run.export(output=file) == file and json.loads(file.read_text())["title"] == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(InputError, match="exists already"):
        run.export(output=file)


def test_an_interpolated_run_is_exported_as_it_is(run, tmp_path):
    sums = [run.interpolate(alpha).export(type="sum", output=tmp_path / f"{alpha}.json") for alpha in (0, 1)]
    sums.append(run.export(type="sum", output=tmp_path / "run.json"))
    base, end, whole = (json.loads(file.read_text())["weights"] for file in sums)
    assert end == whole != base


def test_an_export_has_no_other_options(run):
    with pytest.raises(InputError, match=r"^epochs: not an option of export$"):
        run.export(epochs=3)


# In a console, a notebook and another process.


def test_a_run_is_short_in_a_console_and_a_table_in_a_notebook(run, toy_base):
    loss = run.record["training"]["loss"]
    assert repr(run) == f"<hypergen run '{run.folder}': toy, training loss {loss:.3f}, epochs 8>"
    page = run._repr_html_()
    assert page.count("<tr>") == 5 and "hyperfitted greedy" in page and "steady" in page and f"{loss:.3f}" in page
    base = hypergen.load(toy_base, device="cpu")
    assert repr(base) == f"<hypergen run '{toy_base}': toy, a base>" and "<table>" not in base._repr_html_()
    assert "interpolated with its base at 0.5" in repr(run.interpolate(0.5))


def test_a_name_cannot_act_on_the_notebook(run):
    marked = hypergen.Run(run.folder / "<script>", run.modality, run.record)
    assert "<script>" not in marked._repr_html_() and "&lt;script&gt;" in marked._repr_html_()


def test_a_run_is_pickled_by_where_it_lies(run):
    for one in (run, hypergen.load(run.folder, device="cpu", prompt_length=7)):
        content = pickle.dumps(one)
        again = pickle.loads(content)
        assert len(content) < 1000 and again.modality.settings == one.modality.settings
        assert again.record == run.record and again.generate() == one.generate()
    half = run.interpolate(0.5)
    again = pickle.loads(pickle.dumps(half))
    assert logits(again).equal(logits(half)) and again.record["interpolated"] == 0.5


def test_a_pickle_is_read_from_another_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.folder.parent)
    content = pickle.dumps(hypergen.load(run.folder.name, device="cpu"))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(content).record == run.record


def test_a_pickle_whose_folder_is_gone_is_one_line(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    content = pickle.dumps(hypergen.load(tmp_path / "run", device="cpu"))
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises((InputError, OSError)):
        pickle.loads(content)


def test_the_table_becomes_a_dataframe(run):
    pytest.importorskip("pandas")
    table = run.to_dataframe()
    assert list(table.index) == [record["name"] for record in run.records]
    values = run.records[2]["values"]["ttr"]
    assert table.loc["hyperfitted greedy", ["ttr", "ttr_low", "ttr_high"]].tolist() == [
        values[part] for part in ("mean", "low", "high")
    ]


def test_prompts_come_from_tables_too(run):
    pandas = pytest.importorskip("pandas")
    expected = run.generate([[1, 2, 3], [4, 4]])
    assert run.generate(pandas.DataFrame({"numbers": [[1, 2, 3], [4, 4]]})) == expected
