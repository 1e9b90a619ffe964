"""The equations of Deep Delta Learning, on states (B, T, D, m), written out."""

import torch
from archzoo.layers.residual import Delta
from torch import Tensor
from torch.nn import functional as F

from ..stacks import rms_norm

__all__ = ["Literal", "delta", "delta_cc"]


def causal_conv(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve every channel of (B, T, C) over the tokens by its kernel (C, K)."""
    padded = F.pad(x.mT, (kernel.shape[1] - 1, 0))
    return F.conv1d(padded, kernel.unsqueeze(1), groups=len(kernel)).mT


def feature_major(kernel: Tensor) -> Tensor:
    """Turn (K, m, D) into (D m, K)."""
    return kernel.permute(2, 1, 0).flatten(0, 1)


class Literal:
    """The equations one by one, with the parameters of a mechanism."""

    def __init__(self, residual: Delta, options: dict):
        self.residual, self.options = residual, options
        self.m = options.get("value_channels", 1)

    def expand(self, x: Tensor) -> Tensor:
        if self.m > 1 and self.options.get("expand") == "convolution":
            return self.convolved(x.repeat_interleave(self.m, -1), self.residual.expansion)
        return torch.stack([x] * self.m, -1)

    def convolved(self, x: Tensor, kernel: Tensor) -> Tensor:
        return causal_conv(x, feature_major(kernel)).unflatten(-1, (-1, self.m))

    def compress(self, state: Tensor, block: int) -> Tensor:
        residual = self.residual
        if self.m == 1:
            return state[..., 0]
        if self.options.get("compress") == "tokens":
            mixed = self.convolved(state.flatten(-2), residual.taps[block])
        elif self.options.get("cc_form") == "repo":
            left = (self.m - 1) // 2
            padded = F.pad(state, (left, self.m - 1 - left)).flatten(0, 1)
            kernel = residual.taps[block].mT.unsqueeze(1)
            mixed = F.conv1d(padded, kernel, groups=kernel.shape[0]).view_as(state)
        else:
            return torch.einsum("btdm,md->btd", state, residual.columns[block])
        return torch.einsum("btdm,m->btd", mixed, residual.read_vector[block])

    def write(self, state: Tensor, site: int, y: Tensor, read: Tensor, c: Tensor) -> Tensor:
        residual, options = self.residual, self.options
        mode = options.get("mode", "full")
        form = options.get("parameterisation", "paper")
        pooled = state.mean(-1)
        direction, to_gate = y, c
        if form == "v1":
            hidden = F.gelu(pooled @ residual.direction_in[site].T)
            direction, to_gate = hidden @ residual.direction_out[site].T, pooled
        if options.get("gate_hidden") is not None:
            to_gate = torch.tanh(to_gate @ residual.gate_hidden[site].T)
        if options.get("frozen_beta") is not None:
            beta = torch.full_like(c[..., 0], options["frozen_beta"])
        else:
            beta = 2 * torch.sigmoid(to_gate @ residual.gate[site] + residual.gate_bias[site])
        if mode == "erase_only":
            target = torch.zeros_like(state[..., 0, :])
        elif form == "paper":
            target = c @ residual.value[site].T
        elif form == "repo":
            target = 4 / (
                1 + torch.exp(-(read @ residual.value[site].T) - residual.value_bias[site])
            )
        else:
            target = y @ residual.value[site].T + residual.value_bias[site]
        eps = options.get("eps", 1e-5)
        k = direction / torch.sqrt(direction.square().sum(-1, keepdim=True) + eps**2)
        row = torch.einsum("btd,btdm->btm", k, state)
        if mode == "write_only":
            row = torch.zeros_like(row)
        return state + torch.einsum("bt,btd,btm->btdm", beta, k, target - row)

    def stack(self, x: Tensor, weights: Tensor) -> Tensor:
        state = self.expand(x)
        for site, weight in enumerate(weights):
            read = self.compress(state, site // 2)
            c = rms_norm(read)
            state = self.write(state, site, (c @ weight).tanh(), read, c)
        return self.compress(state, len(weights) // 2)


def delta(residual, x: Tensor, weights: Tensor, **options) -> Tensor:
    """X' = X + β k (v − kᵀX)ᵀ at every branch, opened and read as the options say."""
    return Literal(residual, options).stack(x, weights)


def delta_cc(residual, x: Tensor, weights: Tensor, **options) -> Tensor:
    """The same with four columns."""
    return delta(residual, x, weights, **{"value_channels": 4, **options})
