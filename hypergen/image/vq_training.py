"""Train a VQ tokenizer on pictures: the one loop beside `training.loop`, because its objective is reconstruction.

The network starts as the projection of each patch on its first principal components and back, and the codebook as
their k-means, so training begins where patch-wise vector quantization ends (22.9 dB on CIFAR-10) and only has to learn
the neighbourhood's part. It trains through the nearest code with a straight-through gradient (arXiv 1711.00937);
the codebook follows its latents as a moving average (appendix A.1 there), and unused codes are moved onto
latents of the current batch until REVIVE_UNTIL of the steps. Like `hyperfit`, it continues exactly from a state, which
here includes the generator of batches and revived codes.

Shape letters: N pictures, S side in pixels, B batch, h w code grid, K codes, D code dimension, C values of a patch,
M vectors.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import VQModel
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.errors import Interrupted, NonFiniteError
from hypergen.image.codebook import UNUSED, CodeBook, nearest, to_maps, to_vectors
from hypergen.image.pixels import to_patches, to_unit
from hypergen.runtime.progress import track
from hypergen.training.plan import TrainingHooks
from hypergen.training.schedule import warmup_cosine
from hypergen.training.state import State, restore, snapshot

PATCH = 4  # pixels a side that one code stands for: 32 x 32 pixels -> 8 x 8 codes
WIDTH = 96  # channels
CODE_DIM = 16
BATCH_SIZE = 64
LEARNING_RATE = 1e-3  # at its peak
WARMUP_SHARE, FLOOR_SHARE = 0.03, 0.01  # of the steps, and of the peak, for the cosine schedule
REVIVE_UNTIL = 0.4
REVIVE_EVERY = 10  # steps
COMMITMENT = 0.25
CARRIER = 15.0  # constant channels, well above the signal, that make group normalization nearly linear at the start
PICTURES_TO_START = 3000


def train_vq(
    pixels: Tensor,
    num_codes: int,
    steps: int,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    checkpoint_every: int = 0,
    hooks: TrainingHooks = TrainingHooks(),  # noqa: B008 (frozen)
) -> VQModel:
    """Train a VQModel over patches (see `PATCH`); it comes back on the CPU, in evaluation mode.

    Args:
        pixels: (N, 3, S, S) uint8.
        num_codes: K.
        steps: optimizer steps.
        seed: of weights, batches and revived codes.
        device: where it trains.
        checkpoint_every: steps between checkpoints; 0: only when a signal arrived and at the end.
        hooks: the state to continue from, the callback that saves states, the signal to stop; there are no epochs.

    Raises:
        NonFiniteError: loss or gradient is not finite; the step was not taken.
        CheckpointError: the state is not one of this training.
        Interrupted: a signal arrived; the state was kept.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_vq(pixels.shape[-1], num_codes)
    model.quantize.requires_grad_(False)
    book = _start(model.train(), pixels, generator)
    model.to(device)
    book.to(device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    state = restore(weights := _changing(model, book, generator), [optimizer], hooks.state or State())
    generator.set_state(weights["generator"])

    with hooks.whole_steps(), track("picture tokenizer", steps, done=state.step) as advance:
        for step in range(state.step, steps):
            # 1. Encode a batch of patches, and find the nearest code of each latent.
            patches = to_patches(_batch(pixels, generator), PATCH).to(device)
            latents = model.encode(patches).latents
            vectors = to_vectors(latents).detach()
            ids = nearest(vectors, book.vectors)
            codes = to_maps(book.vectors[ids], latents.shape[2:])

            # 2. Decode the codes; the gradient passes them straight through to the latents.
            restored = model.decode(latents + (codes - latents).detach(), force_not_quantize=True).sample
            error = F.mse_loss(restored, patches)
            loss = error + COMMITMENT * F.mse_loss(latents, codes)

            # 3. Move the codes towards their latents, unused ones onto latents of this batch.
            book.follow(vectors, ids)
            if step < REVIVE_UNTIL * steps and step % REVIVE_EVERY == 0:
                book.revive(book.counts < UNUSED, vectors, generator)

            # 4. Train the network, unless the step would spoil it.
            share = warmup_cosine(step, steps, warmup_share=WARMUP_SHARE, floor_share=FLOOR_SHARE)
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * share
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, 1.0)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                raise NonFiniteError(f"picture tokenizer, step {step}: loss {loss.item()}, gradient norm {norm.item()}")
            optimizer.step()
            state.step = step + 1
            advance(loss=loss.item(), psnr=decibels(error.item()))

            # 5. Save a checkpoint where one is due, and stop if a signal arrived.
            signal = hooks.stop_signal()
            if signal or state.step == steps or (checkpoint_every and state.step % checkpoint_every == 0):
                hooks.on_checkpoint(snapshot(_changing(model, book, generator), [optimizer], state))
            if signal:
                stopped = f"stopped by signal {signal} after step {state.step} of the picture tokenizer"
                raise Interrupted(signal, f"{stopped}; --resume continues")
    return model.cpu().eval()


def _changing(model: VQModel, book: CodeBook, generator: torch.Generator) -> dict[str, Tensor]:
    """Collect all that training changes, besides the optimizer's state."""
    averages = {"book.counts": book.counts, "book.sums": book.sums}
    return {**model.state_dict(), **averages, "generator": generator.get_state()}


def new_vq(image_size: int, num_codes: int) -> VQModel:
    """Build an untrained network over patches, 3 * PATCH^2 channels at S / PATCH; its config says everything."""
    return VQModel(
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(WIDTH,),
        layers_per_block=1,
        latent_channels=CODE_DIM,
        vq_embed_dim=CODE_DIM,
        num_vq_embeddings=num_codes,
        norm_num_groups=1,
        sample_size=image_size // PATCH,
    )


def decibels(squared_error: float) -> float:
    """Convert the mean squared error of values in [-1, 1] to a peak signal-to-noise ratio (PSNR)."""
    return 10 * math.log10(4 / max(squared_error, 1e-12))


@torch.no_grad()
def _start(model: VQModel, pixels: Tensor, generator: torch.Generator) -> CodeBook:
    """Start the network as principal components, and the codebook as k-means of the latents that it then gives."""
    chosen = torch.randperm(len(pixels), generator=generator)[:PICTURES_TO_START]
    patches = to_patches(to_unit(pixels[chosen]), PATCH)
    start_as_components(model, to_vectors(patches))
    book = CodeBook(model.quantize.embedding.weight)
    latents = torch.cat([to_vectors(model.encode(part).latents) for part in patches.split(200)])
    book.start(latents, BATCH_SIZE * len(latents) // len(patches), generator)
    return book


@torch.no_grad()
def start_as_components(model: VQModel, patches: Tensor) -> None:
    """Make the network the projection on the D first principal components of patches (M, C), and back."""
    mean = patches.mean(0)
    _, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean))
    basis, same = vectors.flip(1)[:, :CODE_DIM].T, torch.eye(CODE_DIM)
    for module in [*model.encoder.modules(), *model.decoder.modules()]:
        for silent in (getattr(module, "conv2", None), *getattr(module, "to_out", [])[:1]):
            if silent is not None:  # residual branches start at zero
                nn.init.zeros_(silent.weight)
                nn.init.zeros_(silent.bias)
    for conv in (model.quant_conv, model.post_quant_conv):
        conv.weight.copy_(same[:, :, None, None])
        nn.init.zeros_(conv.bias)
    _make_linear(model.encoder, basis, -basis @ mean, same, torch.zeros(CODE_DIM))
    _make_linear(model.decoder, same, torch.zeros(CODE_DIM), basis.T, mean)


def _make_linear(half: Any, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> None:
    """Set `outer @ (inner @ x + inner_bias) + outer_bias` through norm and SiLU, as silu(a) - silu(-a) = a.

    Two constant channels, +-CARRIER, dominate the group's variance, so that the norm is nearly a fixed scale.
    """
    count = len(inner)
    conv, norm, out = half.conv_in, half.conv_norm_out, half.conv_out
    conv.weight[: 2 * count + 2] = 0
    conv.weight[: 2 * count, :, 1, 1] = torch.cat([inner, -inner])
    conv.bias[: 2 * count + 2] = torch.cat([inner_bias, -inner_bias, torch.tensor([CARRIER, -CARRIER])])
    norm.weight[: 2 * count] = CARRIER * math.sqrt(2 / WIDTH)
    out.weight.mul_(0.1)
    out.weight[:, : 2 * count + 2] = 0
    out.weight[:, : 2 * count, 1, 1] = torch.cat([outer, -outer], 1)
    out.bias.copy_(outer_bias)


def _batch(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw B pictures, each mirrored with probability one half: -> (B, 3, S, S) in [-1, 1]."""
    rows = torch.randint(len(pixels), (BATCH_SIZE,), generator=generator)
    flipped = torch.rand(BATCH_SIZE, generator=generator) < 0.5
    batch = to_unit(pixels[rows])
    return torch.where(flipped[:, None, None, None], batch.flip(-1), batch)
