"""Row A: killed or stopped anywhere, a run goes on bit for bit. Alone: pytest tests/faults/test_kills.py"""

import json
import signal

import pytest

from hypergen.storage import atomic, manifest
from tests.faults.child import Case, execute
from tests.faults.conftest import MOST_POINTS, SHORT, STEPS, Fits, cases, some, spread
from tests.faults.inject import Fault
from tests.image import tiny as tiny_image

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT


def is_finished(folder):
    return (folder / "run" / atomic.MANIFEST).is_file()


@pytest.mark.parametrize("number", cases(20))
def test_a1_killed_at_a_random_step(number, fits, whole, draw):
    assert fits(place="train", call=draw.randint(1, STEPS), signals=(KILL,)).code == -KILL
    fits.goes_on(whole)


NEW_BASE = (
    "--codec-steps 8 --steps 8 --checkpoint-every 3 --image-size 8 --width 16 --num-layers 1 --num-heads 2 "
    "--vocabulary-size 8 --batch-size 4 --device cpu"
)


@pytest.mark.parametrize(
    "where", some([("codec", 5), ("train", 5), ("codec", 1), ("train", 8)], lambda place: place < 2)
)
def test_a1_a_new_base_of_pictures_killed(where, tmp_path):
    """In the training of its picture tokenizer, which has random numbers of its own, or of its transformer."""
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(tiny_image.pictures(8, 8)):
        picture.save(tmp_path / "pictures" / f"{number}.png")

    def pretrain(name, *more, **changes):
        arguments = ["pretrain", "--modality", "image", "--data", str(tmp_path / "pictures"), *NEW_BASE.split(), *more]
        return execute(Case(arguments=[*arguments, "--output", str(tmp_path / name)], **changes), tmp_path / "log")

    whole = pretrain("whole")
    assert whole.code == 0, whole.told
    assert pretrain("run", place=where[0], call=where[1], signals=(KILL,)).code == -KILL
    again = pretrain("run", "--resume")
    assert again.code == 0, again.told
    manifest.check_manifest(tmp_path / "run")
    names = ["model.safetensors", "codec/diffusion_pytorch_model.safetensors", "metrics.jsonl"]
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("point", spread(MOST_POINTS, 9))
def test_a2_killed_at_a_use_of_the_disk(point, points, tmp_path, toy_base, whole_folder):
    """From the lock over log and checkpoints to the manifest of the run, wherever the process may die."""
    if point > points["all"]:
        pytest.skip("there are fewer")
    fits = Fits(tmp_path, toy_base, SHORT)
    assert fits(fault=Fault("kill", point)).code == -KILL
    if is_finished(tmp_path):
        manifest.check_manifest(tmp_path / "run")
    else:
        fits.goes_on(whole_folder(SHORT))


@pytest.mark.parametrize("number", cases(5, 1))
def test_a3_killed_while_the_activation_cache_is_built(number, tmp_path, toy_base, whole_folder):
    """Of a run that starts, or of one that goes on."""
    extra = "--last-layers 1"
    fits = Fits(tmp_path, toy_base, extra)
    if number > 2:
        assert fits(place="train", call=12 * number, signals=(KILL,)).code == -KILL
    assert fits(resume=True, place="build", call=number, signals=(KILL,)).code == -KILL
    fits.goes_on(whole_folder(extra))


WHEN = [
    *(("train", 30), ("build", 2), ("compare", 1), ("decode", 5), ("publish", 1)),
    *(("train", 1), ("train", STEPS), ("build", 1), ("build", 3), ("compare", 2), ("decode", 1), ("checkpoint", 7)),
]


@pytest.mark.parametrize("when", some(WHEN, lambda place: place < 4))
def test_a4_sigterm(when, tmp_path, toy_base, whole_folder):
    place, call = when
    extra = "--last-layers 1" if place == "build" else ""
    fits = Fits(tmp_path, toy_base, extra)
    outcome = fits(place=place, call=call, signals=(TERM,))
    assert outcome.code == 143 and "stopped by signal 15" in outcome.told, outcome.told
    if place == "train":
        assert f"after step {call};" in outcome.told
        assert (tmp_path / "run" / "checkpoints" / f"step-{call}").is_dir()
    fits.goes_on(whole_folder(extra))


@pytest.mark.parametrize("number", cases(3, 1))
def test_a5_a_second_sigint_leaves_at_once(number, fits, whole):
    outcome = fits(place="train", call=17 * number, signals=(INT, INT))
    assert outcome.code == 130 and "stopped by" not in outcome.told
    fits.goes_on(whole)


@pytest.mark.parametrize("number", cases(3, 1))
def test_a6_killed_five_times(number, fits, whole, draw):
    for kill in range(5):
        call = draw.randint(4, 11)  # of the process; it has got on by at least one epoch then
        assert fits(resume=kill > 0, place="train", call=call, signals=(KILL,)).code == -KILL
    fits.goes_on(whole)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, toy_base):
    fits = Fits(tmp_path_factory.mktemp("finished"), toy_base)
    assert fits().code == 0
    return fits.folder / "run"


@pytest.mark.parametrize("number", cases(5, 1))
def test_a7_killed_while_64_prompts_are_continued(number, finished, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(str([n % 16, *range(n % 5)]) for n in range(64)))

    def generate(name, **changes):
        arguments = ["generate", str(finished), "--prompts", str(prompts), "--max-new-tokens", "6", "--device", "cpu"]
        arguments += ["--strategy", "top-p", "--output", str(tmp_path / name)]
        return execute(Case(arguments=arguments, **changes), tmp_path / "log")

    assert generate("whole.jsonl").code == 0
    assert generate("out.jsonl", place="decode", call=5 * number - 4, signals=(KILL,)).code == -KILL
    kept = (tmp_path / "out.jsonl.unfinished").read_text().splitlines()[1:]
    rows = {row for line in kept for row in json.loads(line)["rows"]}
    assert len(kept) == number - 1 and not (tmp_path / "out.jsonl").exists()
    again = generate("out.jsonl", fault=Fault("count", only=("write",), below=".unfinished"))
    assert again.code == 0 and again.points == 6 - number and len(rows) < 64
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not (tmp_path / "out.jsonl.unfinished").exists()


OTHERS = [{"threads": 2}, {"torch_version": "2.99"}, {"threads": 2, "torch_version": "2.99"}]


@pytest.mark.parametrize("other", some(OTHERS, lambda place: place == 0), ids=str)
def test_a8_another_machine_is_told(other, damaged):
    fits, *_ = damaged
    outcome = fits(resume=True, **other)
    assert outcome.code == 0 and is_finished(fits.folder)
    assert outcome.told.count("hypergen: --resume: not bit for bit: ") == 1
    assert ("threads 1 -> 2" in outcome.told) == ("threads" in other)
    assert ("-> 2.99" in outcome.told) == ("torch_version" in other)
