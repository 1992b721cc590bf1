"""Models and prompts of the presets. Alone: pytest tests/benchmarks/test_speed_models.py"""

import dataclasses

from tests.benchmarks.scripts import load
from tests.text import tiny

speed_models = load("speed_models")


def test_random_weights_get_random_prompts_of_the_lengths_asked_for():
    preset = dataclasses.replace(speed_models.PRESETS["cpu"], text=tiny.config("llama"))
    prompts = speed_models.story_prompts(preset, [3, 5])
    again = speed_models.story_prompts(preset, [3, 5])
    assert [len(prompt) for prompt in prompts] == [3, 5]
    assert all(one.equal(other) for one, other in zip(prompts, again, strict=True))
    model = speed_models.text_model(preset)
    assert not model.training and model(prompts[0][None]).shape == (1, 3, tiny.NUM_TOKENS)


def test_the_embedded_base_gets_openings_of_stories():
    prompts = speed_models.story_prompts(speed_models.PRESETS["cpu"], [32, 4])
    assert [len(prompt) for prompt in prompts] == [32, 4]
    assert not prompts[0][:4].equal(prompts[1])
