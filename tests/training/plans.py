"""Plans, toy transformers and sequences that tests of a training share; every value that a plan needs has one here."""

import math

import torch

from hypergen.training.loop import hyperfit
from hypergen.training.plan import Plan, TrainingHooks
from tests.toy.model import ToyModel

NUM_TOKENS, LENGTH = 18, 12
DEFAULTS = {
    "steps": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "seed": 0,
    "target_loss": 0.0,
    "target_accuracy": None,
    "last_layers": 0,
    "precision": "fp32",
    "pretraining": False,
    "micro_batch_size": None,
    "recompute": False,
    "checkpoint_every": 0,
    "checkpoint_seconds": math.inf,
}


class TiedToy(ToyModel):
    """The head is the input embedding, and not one of the final modules."""

    def __init__(self, **shape):
        super().__init__(**shape)
        self.output.weight = self.embedding.weight

    @property
    def final_modules(self):
        return [self.norm]


def new_plan(**changes):
    return Plan(**DEFAULTS | changes)


def toy(kind=ToyModel, *, width=16, num_layers=3, seed=0):
    shape = {"width": width, "num_layers": num_layers, "num_heads": 2}
    return kind(num_tokens=NUM_TOKENS, context_length=LENGTH, **shape, seed=seed)


def sequences(count, seed=0):
    """Random ids; each sequence starts with an id of its own, so that everything after it can be learned."""
    tokens = torch.randint(NUM_TOKENS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = torch.arange(count)
    return tokens


def random_mask(tokens, seed=0):
    """A prompt and padding of random lengths; from one token to all but the first count."""
    count, length = tokens.shape
    draws = torch.randint(1, length, (2, count, 1), generator=torch.Generator().manual_seed(seed))
    places = torch.arange(length)
    return (places >= draws.amin(0)) & (places <= draws.amax(0))


def train(model, tokens, plan, loss_mask=None, **hooks):
    """The result, and the mean loss of each epoch by its number."""
    losses = {}
    on_epoch = lambda epoch, metrics: losses.update({epoch: metrics.loss})  # noqa: E731
    return hyperfit(model, tokens, plan, TrainingHooks(on_epoch=on_epoch, **hooks), loss_mask=loss_mask), losses


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def changed(before, after):
    return {name for name in before if not before[name].equal(after[name])}
