"""Hostile files (matrix F): pickles, code of models, archives, markup, terminal controls, secrets. None of it runs,
none of it gets out. Alone: pytest tests/faults/test_hostile.py"""

import ast
import io
import json
import os
import pickle
import shutil
import stat
import struct
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import hypergen
from hypergen.cli import main as cli
from hypergen.errors import InputError
from hypergen.image import sources as pictures
from hypergen.image import vq_tokenizer
from hypergen.report.columns import Columns
from hypergen.report.page import page
from hypergen.runtime.redaction import redact
from hypergen.text.comparison_table import comparison_table
from tests.faults.test_models import changed_config, pickled
from tests.faults.test_pictures import PNG
from tests.image import tiny as tiny_image

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def model(text_base, tmp_path):
    """A good base, to be spoiled."""
    return Path(shutil.copytree(text_base, tmp_path / "model"))


@pytest.fixture
def canary(tmp_path):
    """A path that only executed code makes."""
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_bomb_goes_off_where_it_is_let(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


# Pickles.

WRITERS = {
    "torch": lambda path, bomb: torch.save({"a": bomb}, path),
    "old torch": lambda path, bomb: torch.save({"a": bomb}, path, _use_new_zipfile_serialization=False),
    "bare pickle": lambda path, bomb: path.write_bytes(pickle.dumps(bomb)),
    "protocol 0": lambda path, bomb: path.write_bytes(pickle.dumps(bomb, protocol=0)),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("allowed", [False, True], ids=["refused", "allowed"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_f_pickled_weights(writer, allowed, modality, model, refused, canary):
    """With the flag, too, only the restricted unpickler reads them, and nothing else is tried after it."""
    if modality == "image":
        shutil.rmtree(model)
        tiny_image.base("colors").save(model)
    (model / "model.safetensors").unlink()
    WRITERS[writer](model / "pytorch_model.bin", Bomb(canary))
    flag = ["--allow-pickle-weights"] if allowed else []
    said = refused("generate", "model", "--device", "cpu", "--prompt", "a", *flag)
    assert ("cannot be" if allowed else "only pickled weights, which can run code") in said


@pytest.mark.parametrize("name", ["pytorch_model.pt", "weights.pth", "model.ckpt", "model.pkl", "training_args.bin"])
def test_f_other_pickles_are_no_weights(name, model, refused, canary):
    (model / "model.safetensors").unlink()
    torch.save(Bomb(canary), model / name)
    assert "only pickled weights" in refused("generate", "model", "--device", "cpu", "--prompt", "a")
    if name != "pytorch_model.pt":
        refused("generate", "model", "--device", "cpu", "--prompt", "a", "--allow-pickle-weights")


def test_f_pickles_beside_good_weights_are_not_opened(model, canary):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save(Bomb(canary), model / name)
    (model / ".metadata").write_bytes(pickle.dumps(Bomb(canary)))  # of a distributed checkpoint
    hypergen.load("model", device="cpu", allow_pickle_weights=True)


def test_f_a_distributed_checkpoint_is_no_model(model, refused, canary):
    (model / "model.safetensors").unlink()
    (model / ".metadata").write_bytes(pickle.dumps(Bomb(canary)))
    assert "has no weights" in refused("generate", "model", "--device", "cpu", "--prompt", "a")


def test_f_pickled_codec(tmp_path, canary):
    tiny_image.base("vq").save(tmp_path / "model")
    weights = tmp_path / "model" / "codec" / "diffusion_pytorch_model.safetensors"
    torch.save(Bomb(canary), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(InputError, match="weights are read from safetensors only"):
        hypergen.load("model", device="cpu", allow_pickle_weights=True)


def test_f_weights_that_are_pickled_under_another_name(model, refused, canary):
    torch.save(Bomb(canary), model / "model.safetensors")
    assert "its weights cannot be loaded" in refused("generate", "model", "--device", "cpu", "--prompt", "a")


def test_f_pickled_cifar10(tmp_path, monkeypatch, canary):
    """torchvision compares checksums before it unpickles."""
    monkeypatch.setenv("HYPERGEN_CACHE", str(tmp_path))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(InputError, match="cifar10: not in"):
        pictures.read("cifar10")


# Code of a model.


@pytest.mark.parametrize("part", ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"])
@pytest.mark.parametrize("known", [True, False], ids=["known type", "own type"])
def test_f_code_of_a_model(part, known, model, canary):
    (model / "own.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Own: pass\n")
    auto_map = {"auto_map": {part: "own.Own" if part != "AutoTokenizer" else ["own.Own", "own.Own"]}}
    changed_config(**auto_map, **({} if known else {"model_type": "own", "architectures": ["Own"]}))(model)
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | auto_map | ({} if known else {"tokenizer_class": "Own"})))
    try:
        hypergen.load("model", device="cpu").generate("a", max_new_tokens=1)
    except InputError:
        assert not known


@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation"])
def test_f_kernels_of_the_hub(key, model, refused):
    changed_config(**{key: "someone/evil-kernel"})(model)
    said = refused("generate", "model", "--device", "cpu", "--prompt", "a")
    assert f"its {key} is a kernel of the hub, which is code; it is never run" in said


def test_f_an_adapter_that_names_another_model(model, refused):
    content = {"base_model_name_or_path": "someone/evil", "peft_type": "LORA", "auto_mapping": {"parent_library": "os"}}
    (model / "adapter_config.json").write_text(json.dumps(content))
    assert "is an adapter" in refused("generate", "model", "--device", "cpu", "--prompt", "a")


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "sub/a.safetensors", "..", ""])
def test_f_an_index_that_points_elsewhere(name, model, refused, tmp_path):
    shutil.copy(model / "model.safetensors", tmp_path / "outside.safetensors")
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(load_file(tmp_path / "outside.safetensors"), name)
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    said = refused("generate", "model", "--device", "cpu", "--prompt", "a")
    assert "names a file that is not in the folder" in said and "passwd" not in said


HEADERS = {
    "length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "length of 200 MB": struct.pack("<Q", 200 * 2**20) + b"{}",
    "not JSON": struct.pack("<Q", 4) + b"}{}{",
    "overlap": None,
    "beyond the end": None,
}


@pytest.mark.parametrize("name", HEADERS)
def test_f_headers_of_safetensors(name, model, refused):
    content = HEADERS[name]
    if content is None:
        offsets = [[0, 8], [4, 12]] if name == "overlap" else [[0, 8], [8, 10**12]]
        entries = {
            key: {"dtype": "F32", "shape": [2], "data_offsets": place} for key, place in zip("ab", offsets, strict=True)
        }
        header = json.dumps(entries).encode()
        content = struct.pack("<Q", len(header)) + header + bytes(12)
    (model / "model.safetensors").write_bytes(content)
    assert "its weights cannot be loaded" in refused("generate", "model", "--device", "cpu", "--prompt", "a")


@pytest.mark.parametrize("source", ["hub:../secret", "hub:/etc", "hub:a/b/../../c", "hub:a b", "hub:"])
def test_f_a_data_set_id_is_no_path(source, refused, tmp_path):
    pytest.importorskip("datasets")
    for modality in ("text", "image"):
        said = refused("pretrain", "--modality", modality, "--data", source, "--output", "a", "--device", "cpu")
        assert "no data set id" in said


# Archives.


def zipped(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


@pytest.mark.parametrize(
    "name", ["../evil.png", "/evil.png", "a/../../evil.png", "C:/evil.png", "..\\evil.png", "\\evil.png", "a/.."]
)
def test_f_zip_that_wants_out_of_its_folder(name, tmp_path):
    (tmp_path / "inner").mkdir()
    source = zipped(tmp_path / "inner" / "a.zip", {"good.png": PNG, name: PNG})
    with pytest.raises(InputError, match="is not allowed"):
        pictures.read(source)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "a.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFLNK | 0o777])
def test_f_zip_with_a_link(kind, tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, kind << 16
    with pytest.raises(InputError, match="a symbolic link is not allowed"):
        pictures.read(zipped(tmp_path / "a.zip", {link: "/etc/passwd"}))


def test_f_zip_bombs(tmp_path):
    source = zipped(tmp_path / "ratio.zip", {"a.png": bytes(4 * 2**20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="100 times its"):
        pictures.read(source)
    many = {f"{number}.png": bytes(2**20) for number in range(30)}  # each one small enough, together not
    with pytest.raises(InputError, match="would unpack to 31,457,280 bytes"):
        pictures.read(zipped(tmp_path / "sum.zip", many, zipfile.ZIP_DEFLATED))
    source = zipped(tmp_path / "nested.zip", {"inner.zip": Path(source).read_bytes()})
    with pytest.raises(InputError, match="no picture in it"):
        pictures.read(source)


def test_f_zip_whose_members_overlap(tmp_path):
    """Two names for the same bytes: each honest, together more than the file holds."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", os.urandom(2**15) + bytes(2**20))
        archive.filelist = [zipfile.ZipInfo(f"{number}.png") for number in range(400)]
        for one in archive.filelist:
            found = archive.NameToInfo["a.png"]
            for name in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(one, name, getattr(found, name))
        archive._didModify = True
    (tmp_path / "a.zip").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="would unpack to"):
        pictures.read(str(tmp_path / "a.zip"))


def test_f_zip_that_lies_about_a_size(tmp_path):
    path = Path(zipped(tmp_path / "a.zip", {"a.png": PNG}))
    size = struct.pack("<L", len(PNG))
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<L", 10)))
    with pytest.raises(InputError, match="zip"):
        list(pictures.read(str(path)))


def test_f_encrypted_zip(tmp_path):
    path = Path(zipped(tmp_path / "a.zip", {"a.png": PNG}))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="encryption is not allowed"):
        pictures.read(str(path))


# Markup.

MARKUP = [
    "<script>alert(1)</script>",
    "</td></tr></table><script src=//evil></script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<a href='javascript:alert(1)'>a</a>",
    "<body onload=alert(1)>",
    "<style>@import '//evil'</style>",
    "<link rel=stylesheet href=//evil>",
    "<meta http-equiv=refresh content='0;url=//evil'>",
    "<base href=//evil>",
    "<form action=//evil><input type=submit></form>",
    "<!--<script>alert(1)--></script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<scr\0ipt>alert(1)</scr\0ipt>",
    "<mark onclick=alert(1)>",
    "\u202e<script>\u2066alert(1)</script>",
    "<\u017fcript>alert(1)</\u017fcript>",
]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, [name for name, _ in attributes]))


def tags(html):
    parser = Tags()
    parser.feed(html)
    return parser.found


def whole_page(text):
    """A page with the text in every place where one goes; repeated, so that it is marked as well."""
    words = " ".join([text] * 6)
    figure = comparison_table([text], {text: [words]})
    records = [{"name": text, "values": {"ttr": {"mean": 0.5}, "overlap_mean": {"mean": 1.0}, text: {"mean": 1.0}}}]
    curves = {text: [(1, 2.0), (2, 1.0)]}
    return page(text, records, Columns.of(), facts={text: text}, curves=curves, figure=figure)


@pytest.mark.parametrize("payload", MARKUP)
def test_f_markup_in_every_text_of_a_page(payload):
    """The page has the elements that it has for a plain text, and nothing that acts."""
    words = len(payload.split())
    plain, found = tags(whole_page(" ".join(["word"] * words))), tags(whole_page(payload))
    assert [tag for tag in found if tag[0] != "mark"] == [tag for tag in plain if tag[0] != "mark"]
    names = {name for _, attributes in found for name in attributes}
    assert not {tag for tag, _ in found} & {"script", "iframe", "link", "base", "form", "object", "a"}
    assert not any(name.startswith("on") or name == "href" for name in names)
    assert "default-src 'none'" in whole_page(payload)


# Terminals.

CONTROLS = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;title\x07",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "C1": "\x9b31m\x9d0;title\x9c",
    "backspace": "good\b\b\b\bevil",
    "return": "good\revil",
    "direction": "\u202egpj.exe\u2066",
    "device control": "\x1bP1$r\x1b\\",
}


@pytest.mark.parametrize("name", CONTROLS)
def test_f_controls_in_generated_text(name, text_base, capsys, monkeypatch):
    from hypergen.text.modality import TextModality

    monkeypatch.setattr(TextModality, "render", lambda *_, **__: [CONTROLS[name] + "\nsecond \N{ROCKET}"])
    common = ["generate", text_base, "--device", "cpu", "--prompt", "a", "--max-new-tokens", "2"]
    assert cli.main(common) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2] == "second \N{ROCKET}"
    assert all(sign.isprintable() for line in lines for sign in line)


@pytest.mark.parametrize("name", CONTROLS)
def test_f_controls_in_a_message(name, capsys, tmp_path):
    assert cli.main(["fit", "--model", f"no/{CONTROLS[name]}/such", "--modality", "text"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.rstrip("\n").isprintable()


def test_f_a_value_of_a_megabyte_in_a_message(tmp_path, refused):
    tiny_image.base("colors").save(tmp_path / "model")
    changed_config(n_embd="x" * 2**20)(tmp_path / "model")
    said = refused("fit", "--model", "model", "--modality", "image", "--data", "self", "--device", "cpu")
    assert "n_embd is 'xxx" in said and len(said) < 3000


def test_f_no_table_for_spreadsheets_is_written():
    """Formulas need a spreadsheet; records are JSON, Markdown and HTML, and `csv` only reads what users bring."""
    package = Path(hypergen.__file__).parent
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        }
        reader = path.name == "csv_rows.py"
        assert not names & ({"pandas", "openpyxl"} if reader else {"csv", "pandas", "openpyxl"}), path
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & {"writer", "DictWriter"} and not attributes & {"DictWriter", "to_csv"}, path
        assert not reader or "writer" not in attributes
    assert not hasattr(hypergen.Comparison, "to_csv")


# Secrets.

TOKEN = "hf_Planted0Token1Planted2Token3Plan"
PASSWORD = "Pl4ntedPassw0rd"


def everything(folder):
    return b"".join(path.read_bytes() + str(path).encode() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.fixture(scope="module")
def told(text_base, text_data, tmp_path_factory):
    """A run whose environment, data and base paths hold secrets, and what was printed."""
    home = tmp_path_factory.mktemp("home")
    secret = home / f"https:/user:{PASSWORD}@host" / TOKEN
    secret.mkdir(parents=True)
    shutil.copytree(text_base, secret / "base")
    shutil.copy(text_data, secret / "texts.jsonl")
    options = {"sequence_length": 16, "prompt_length": 4, "num_samples": 16, "epochs": 2, "learning_rate": 1e-3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(home)
        hypergen.fit(
            model=str(secret / "base"),
            data=f"https://user:{PASSWORD}@host/{TOKEN}/texts.jsonl",
            output="run",
            device="cpu",
            held_out_samples=6,
            checkpoint_every=1,
            **options,
        )
    return home / "run"


def test_f_no_secret_in_any_file_of_a_run(told):
    found = everything(told)
    assert TOKEN.encode() not in found and PASSWORD.encode() not in found
    config = json.loads((told / "hypergen.json").read_text())["config"]
    assert config["data"] == "https://***@host/hf_***/texts.jsonl"


def test_f_no_secret_in_samples_and_comparisons(told, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    output = told.parent / "texts"
    assert cli.main(["generate", str(told), "--output", str(output), "--device", "cpu", "--count", "2"]) == 0
    shown = capsys.readouterr()
    assert TOKEN.encode() not in everything(output) + (shown.out + shown.err).encode()


@pytest.mark.parametrize("flag", ["--data", "--model", "--prompts", "--output", "--config"])
def test_f_no_secret_in_a_message(flag, text_base, text_data, capsys):
    arguments = {"--model": text_base, "--data": text_data} | {flag: f"https://user:{PASSWORD}@host/{TOKEN}/\0x.txt"}
    code = cli.main(["fit", "--modality", "text", *(part for pair in arguments.items() for part in pair)])
    shown = capsys.readouterr()
    assert code == 2 and TOKEN not in shown.err and PASSWORD not in shown.err and "Traceback" not in shown.err


def test_f_no_secret_where_rows_are_passed_over(tmp_path, capsys):
    from hypergen.data.bad_rows import skip_bad_rows

    with skip_bad_rows(f"https://user:{PASSWORD}@host/{TOKEN}", 1) as skip:
        skip(InputError(f"{TOKEN}: bad"))
    told = capsys.readouterr().err
    assert TOKEN not in told and PASSWORD not in told and "bad items passed over: 1" in told


@pytest.mark.parametrize(
    "text, kept",
    [
        (f"a {TOKEN} b", "a hf_*** b"),
        ("https://user:word@host/a", "https://***@host/a"),
        ("ftp://name@host", "ftp://***@host"),
        ("models/hf_checkpoints/a", "models/hf_checkpoints/a"),
        ("me@host", "me@host"),
        ("C:/a@b", "C:/***@b"),
        ("https://host/a@b", "https://host/a@b"),
    ],
)
def test_f_what_is_scrubbed(text, kept):
    assert redact(text) == kept
    assert redact({text: [text, 3, (text, None)]}) == {kept: [kept, 3, [kept, None]]}


def test_f_a_codec_does_not_say_where_it_was(tmp_path):
    tiny_image.base("vq").save(tmp_path / "secret")
    vq_tokenizer.VQTokenizer.load(tmp_path / "secret" / "codec").save(tmp_path / "again")
    assert b"secret" not in everything(tmp_path / "again" / "codec").replace(str(tmp_path).encode(), b"")
    assert "_name_or_path" not in (tmp_path / "again" / "codec" / "config.json").read_text()
    assert vq_tokenizer.VQTokenizer.load(tmp_path / "again" / "codec").num_codes == 12


@pytest.mark.parametrize("modality", ["text", "image"])
def test_f_a_saved_model_does_not_say_where_it_was(modality, model, tmp_path):
    if modality == "image":
        shutil.rmtree(model)
        tiny_image.base("vq").save(model)
    hypergen.load("model", device="cpu").modality.save(tmp_path / "again")
    assert str(model).encode() not in everything(tmp_path / "again")


def test_f_pickled_weights_are_saved_as_safetensors(model, tmp_path):
    pickled(model)
    hypergen.load("model", device="cpu", allow_pickle_weights=True).modality.save(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").is_file() and not list((tmp_path / "again").glob("*.bin"))
