"""Let a language model continue a text at the end of a run."""

from __future__ import annotations

import torch

from ...zoo.backbones.gpt import GPT
from ...zoo.network import Network
from ..errors import RunError
from .hooks import Callback, TrainingRun, callbacks

__all__ = ["Sample"]


@callbacks.register(name="sample")
class Sample(Callback):
    """Write `sample.txt`: a prompt and the best model's continuation of it, byte by byte.

    Args:
        prompt: Text to continue, at least one byte.
        length: Bytes to add.
        temperature: Divides the logits; 0 takes the likeliest byte.
        top_k: Sample among the k likeliest only; 0 among all.
        seed: Seed of the draw.

    Raises:
        ValueError: an empty prompt, or a number below 0.
    """

    def __init__(
        self,
        prompt: str = "def ",
        length: int = 400,
        temperature: float = 0.8,
        top_k: int = 40,
        seed: int = 0,
    ) -> None:
        """Keep the settings."""
        if not prompt:
            raise ValueError("callbacks.sample.prompt must hold at least one byte, got ''")
        for name, value in {"length": length, "temperature": temperature, "top_k": top_k}.items():
            if not value >= 0:
                raise ValueError(f"callbacks.sample.{name} must be at least 0, got {value}")
        self.prompt, self.length, self.seed = prompt, length, seed
        self.temperature, self.top_k = temperature, top_k or None

    def start(self, run: TrainingRun) -> None:
        """Refuse a model that does not generate bytes, before it is trained."""
        if not isinstance(run.model, GPT) or run.model.vocab_size < 256:
            raise RunError("callbacks.sample needs a gpt model over bytes; leave it out")

    def end(self, run: TrainingRun, model: Network) -> None:
        """Generate, write and print."""
        if not run.world.leader or not isinstance(model, GPT):
            return
        prompt = torch.frombuffer(bytearray(self.prompt.encode()), dtype=torch.uint8).long()
        device = run.world.device
        tokens = model.generate(
            prompt[None].to(device),
            self.length,
            temperature=self.temperature,
            top_k=self.top_k,
            generator=torch.Generator(device).manual_seed(self.seed),
        )
        text = bytes(tokens[0].clamp(max=255).tolist()).decode(errors="replace")
        run.write_text("sample.txt", text)
        run.say(f"sample:\n{text}")
