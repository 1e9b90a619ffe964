"""A language model that is fed piece by piece: tokens and a cache in, logits and the cache out.

    logits, *cache = decoder(tokens, position, *cache)

One graph serves a prompt over an empty cache and every token after it. The cache is a list of
tensors, a key and a value (B, heads, past, head_dim) for each attention and, for residuals that
look along the tokens, a window (B, taps, …) each. Keys are rotated by their own position, so who
keeps the newest of them only, as `GPT.generate` does beyond the context length, goes on counting
positions.
"""

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ...backbones.gpt import GPT
from ...backbones.self_attention import KeyValueCache
from .deployed import deployed
from .program import Axes, traced

__all__ = ["Decoder", "export_decoder"]


class Decoder(nn.Module):
    """One step of a GPT with its cache as inputs and outputs.

    Args:
        model: In evaluation mode.

    Attributes:
        names: Of the tensors of the cache, in order.

    Shape:
        tokens (B, T), position () and the cache -> logits (B, T, V) and the cache of T tokens more.
    """

    def __init__(self, model: GPT) -> None:
        """Look at the cache that one token leaves."""
        super().__init__()
        self.model = model
        device = next(model.parameters()).device
        self.form = KeyValueCache(None)
        with torch.no_grad():
            model.forward_features(torch.zeros(1, 1, dtype=torch.int64, device=device), self.form)
        self.names = tuple(self.form.tensors())

    def empty(self, batch: int, past: int = 0) -> tuple[Tensor, ...]:
        """Return a cache of zeros: before the first token, or of the shape that some leave."""
        return tuple(
            x.new_zeros(batch, *x.shape[1:])
            if name.startswith("window")
            else x.new_zeros(batch, x.shape[1], past, x.shape[3])
            for name, x in self.form.tensors().items()
        )

    def axes(self) -> list[Axes]:
        """Which axes of the inputs may have any length."""
        grows = {0: "batch", 2: "past"}
        of_cache = [{0: "batch"} if name.startswith("window") else grows for name in self.names]
        return [{0: "batch", 1: "tokens"}, {}, *of_cache]

    def forward(self, tokens: Tensor, position: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """Run the tokens that follow those in the cache."""
        grown = self.form.replaced(position, cache)
        logits = self.model.forward_head(self.model.forward_features(tokens, grown))
        return (logits, *grown.tensors().values())


def export_decoder(model: GPT) -> tuple[ExportedProgram, Decoder]:
    """Graph of a step with the cache, and the module that it is of.

    Args:
        model: Left as it is.

    Raises:
        ValueError: a graph that torch cannot make, as for a residual whose state ends with a call.
    """
    device = next(model.parameters()).device
    tokens = torch.zeros(2, 3, dtype=torch.int64, device=device)
    decoder = Decoder(deployed(model, tokens)).eval()
    position = torch.tensor(4, device=device)
    inputs = (tokens, position, *decoder.empty(2, past=4))
    return traced(decoder, inputs, decoder.axes()), decoder
