"""Random ImageGPTs of transformers in folders, and ids for them: the reference that ours is compared with."""

import torch
from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

NUM_CODES, NUM_POSITIONS = 20, 16


def reference(folder, **changes):
    """A random ImageGPT of transformers, with weights large enough that every part of it matters, saved."""
    shape = {"vocab_size": NUM_CODES + 1, "n_positions": NUM_POSITIONS, "n_embd": 32, "n_layer": 3, "n_head": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ImageGPTForCausalImageModeling(ImageGPTConfig(**shape | changes)).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, mean=1.0 if weight.ndim == 1 else 0.0, std=0.2)
    model.save_pretrained(folder)
    return model


def started(count, length, seed=0):
    """(count, length) ids, the start token first."""
    codes = torch.randint(NUM_CODES, (count, length), generator=torch.Generator().manual_seed(seed))
    codes[:, 0] = NUM_CODES
    return codes
