"""Every refused value, and who wins where several say something. Alone: pytest tests/test_config.py"""

import math
from dataclasses import fields, is_dataclass
from inspect import getsource
from typing import get_args

import pytest

from hypergen import config
from hypergen.config import (
    READ_BY,
    DecodingConfig,
    EvaluateConfig,
    FitConfig,
    GenerateConfig,
    PretrainConfig,
    StrategyName,
    fill,
    flag,
)
from hypergen.errors import InputError

REQUIRED = {PretrainConfig: {"modality": "text", "data": "a.txt", "output": "base"}}
CONFIGS = [member for member in vars(config).values() if isinstance(member, type) and is_dataclass(member)]

COUNTS = {
    PretrainConfig: ["width", "num_layers", "num_heads", "steps", "batch_size", "vocabulary_size"],
    FitConfig: ["num_samples", "epochs", "batch_size", "held_out_samples", "max_new_tokens"],
    DecodingConfig: ["top_k"],
    EvaluateConfig: ["count", "max_new_tokens"],
}
COUNTS_FROM_ZERO = {PretrainConfig: ["checkpoint_every"], FitConfig: ["last_layers", "checkpoint_every"]}
POSITIVE = {
    PretrainConfig: ["learning_rate"],
    FitConfig: ["learning_rate"],
    DecodingConfig: ["temperature", "repetition_penalty"],
}
OTHERS = [
    *((FitConfig, "target_loss", value) for value in (-0.1, math.nan, math.inf, "0.1", None)),
    *((FitConfig, "target_accuracy", value) for value in (0, -0.1, 1.01, math.nan, "0.9", True)),
    *((DecodingConfig, "top_p", value) for value in (0, -0.5, 1.1, math.nan, "0.9", True)),
    *((DecodingConfig, "min_p", value) for value in (-0.1, 1.1, math.nan, "0.1")),
    *((DecodingConfig, "block_citations", value) for value in (-1, 1, 2.5, True, "5", None)),
    *((DecodingConfig, "strategy", value) for value in ("beams", "", None, 3)),
    *((FitConfig, "precision", value) for value in ("fp16", None, 16)),
]


def cases(names, values):
    return [(kind, name, value) for kind, of_kind in names.items() for name in of_kind for value in values]


def common(name, values):
    """A field that several configs share."""
    return [(kind, name, value) for kind in CONFIGS if name in kind.__dataclass_fields__ for value in values]


BAD = [
    *cases(COUNTS, [0, -3, 1.5, "8", True]),
    *cases(COUNTS_FROM_ZERO, [-1, 0.5, "1", True]),
    *cases(POSITIVE, [0, -1e-6, math.nan, math.inf, "1e-6", True]),
    *common("seed", [-1, 2**63, 1.5, None, "0", True]),
    *common("device", ["gpu", "cuda:", "cuda:x", "", None]),
    *common("resume", [0, "no", None]),
    *common("stop_at_end", [0, "no", None]),
    *OTHERS,
]


def make(kind, **options):
    return kind(**REQUIRED.get(kind, {}) | options)


@pytest.mark.parametrize("kind, name, value", BAD)
def test_refused_in_one_line_with_flag_and_value(kind, name, value):
    with pytest.raises(InputError) as error:
        make(kind, **{name: value})
    message = str(error.value)
    assert message.startswith(f"{flag(name)} {value!r}: must be ")
    assert "\n" not in message


@pytest.mark.parametrize("kind", CONFIGS)
def test_defaults_are_allowed(kind):
    assert make(kind)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_number_and_switch_is_checked(kind):
    """A new field that nobody checks fails here."""
    for field in fields(kind):
        if "str" not in str(field.type):
            with pytest.raises(InputError, match=flag(field.name)):
                make(kind, **{field.name: "nonsense\n"})


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_says_what_it_is(kind):
    """The command line takes its help from the line below each field."""
    source = getsource(kind)
    for field in fields(kind):
        after = source.split(f"\n    {field.name}: ", 1)[1].splitlines()
        assert after[1].strip().startswith('"""'), field.name


def test_limits_themselves_are_allowed():
    assert DecodingConfig(strategy="min-p", min_p=0) and DecodingConfig(strategy="min-p", min_p=1)
    assert DecodingConfig(strategy="top-p", top_p=1, temperature=1e-9, top_k=1, block_citations=2, seed=2**63 - 1)
    assert FitConfig(target_loss=0, target_accuracy=1, last_layers=0, device="cuda:3", precision="bf16")
    assert FitConfig(learning_rate=1)


def test_width_must_suit_the_heads():
    with pytest.raises(InputError, match=r"^--width 10: must be a multiple of --num-heads 4$"):
        make(PretrainConfig, width=10, num_heads=4)


def test_frozen():
    with pytest.raises(AttributeError):
        FitConfig().epochs = 3


def test_the_user_wins_over_the_card_and_the_card_over_the_paper():
    card = {"learning_rate": 3e-4, "epochs": 30, "batch_size": None, "seed": 5, "unknown": 1}
    filled = fill(fill(FitConfig(epochs=7, last_layers=0), card), config.PAPER_RECIPE | {"last_layers": 4})
    assert (filled.epochs, filled.learning_rate, filled.num_samples) == (7, 3e-4, 2000)
    assert filled.batch_size == config.PAPER_RECIPE["batch_size"]
    assert filled.last_layers == 0  # given by the user: 0 is not open
    assert filled.seed == 0  # a default that is not None is nobody's to fill


def test_a_bad_value_of_a_card_is_refused():
    with pytest.raises(InputError, match="--epochs 0"):
        fill(FitConfig(), {"epochs": 0})


def test_the_paper_fills_every_field_it_knows():
    filled = fill(FitConfig(), config.PAPER_RECIPE)
    known = config.PAPER_RECIPE.keys() & FitConfig.__dataclass_fields__.keys()
    assert {name: getattr(filled, name) for name in known} == {name: config.PAPER_RECIPE[name] for name in known}
    assert known >= {"num_samples", "epochs", "learning_rate", "batch_size", "last_layers"}


def test_interpolations_are_sorted_and_counted_once():
    assert EvaluateConfig(interpolations=[0.75, 0.25, 0.75]).interpolations == (0.25, 0.75)
    assert EvaluateConfig().interpolations == () != EvaluateConfig(interpolations=0.5).interpolations == (0.5,)
    for bad in ("0.5", (0.5, 1), (0,), (True,), (float("nan"),), ("a",), None):
        with pytest.raises(InputError, match=r"^--interpolations .*: each must be a number above 0 .* and below 1"):
            EvaluateConfig(interpolations=bad)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), "0.5", True])
def test_an_interpolation_is_a_share(alpha):
    with pytest.raises(InputError, match=r"^--interpolate .*: must be between 0 and 1$"):
        GenerateConfig(interpolate=alpha)


@pytest.mark.parametrize("name", READ_BY)
@pytest.mark.parametrize("strategy", get_args(StrategyName))
def test_an_option_that_a_strategy_does_not_read_is_refused(name, strategy):
    value = 1 if name in ("top_k", "num_beams") else 0.5
    if strategy in READ_BY[name]:
        assert getattr(DecodingConfig(strategy=strategy, **{name: value}), name) == value
        return
    with pytest.raises(InputError, match=rf"^{flag(name)}: only --strategy .* reads it; this is {strategy}$"):
        DecodingConfig(strategy=strategy, **{name: value})


def test_prompts_come_from_one_place_and_bad_items_from_files():
    with pytest.raises(InputError, match=r"^--prompt and --prompts: give one of them$"):
        GenerateConfig(prompt=("a",), prompts="b.txt")
    for prompts in (None, "-"):
        with pytest.raises(InputError, match=r"^--skip-bad 1: only --prompts FILE has items that could be bad$"):
            GenerateConfig(prompts=prompts, skip_bad=1)
    assert GenerateConfig(prompts="b.txt", skip_bad=1).skip_bad == 1


def test_a_choice_that_is_nearly_one_is_suggested():
    with pytest.raises(InputError, match=r"; did you mean top-p\?$"):
        DecodingConfig(strategy="top_p")
