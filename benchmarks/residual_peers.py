"""Public implementations of residual mechanisms that run on a CPU, behind one shape.

On the package index (`pip install -e ".[peers]"`): flash-linear-attention, whose naive operator is
written by an author of the paper, attn-res and hyper-connections. As clones in the folder that the
environment variable ARCHZOO_PEERS names:

    git clone https://github.com/tokenbender/nanogpt-attnres-repro
    git clone https://github.com/epfml/DenseFormer
    git clone https://github.com/yifanzhang-pro/deep-delta-learning

What is not there is left out, with a line that says so.
"""

import importlib
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Peer", "import_peer", "peers"]

Branch = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Peer:
    """A stack over somebody else's mechanism: its name, our counterpart and the stack."""

    name: str
    against: str
    forward: Callable[[Tensor], Tensor]


def import_peer(folder: str, module: str) -> types.ModuleType:
    """Import a module from a clone in ARCHZOO_PEERS, or an installed one where `folder` is empty.

    Raises:
        ImportError: it is not there.
    """
    if folder:
        place = Path(os.environ.get("ARCHZOO_PEERS", ".peers")) / folder
        if not place.is_dir():
            raise ImportError(f"no clone in {place}")
        # For this import only: the repositories share top-level names.
        sys.path.insert(0, str(place))
        try:
            return importlib.import_module(module)
        finally:
            sys.path.remove(str(place))
    return importlib.import_module(module)


def peers(length: int, width: int, branch: Branch) -> list[Peer]:
    """Return every implementation that is there, as a stack of `length` branches."""
    found = []
    for build in (fla, tokenbender, attn_res, hyper_connections, denseformer, delta):
        try:
            found += build(length, width, branch)
        except ImportError as error:
            print(f"{build.__name__}: left out, {error}")
    return found


def fla(length: int, width: int, branch: Branch) -> list[Peer]:
    """The naive operator of flash-linear-attention, for Full and for blocks of four."""
    naive = import_peer("", "fla.ops.attnres").naive_attnres
    queries = nn.Parameter(0.02 * torch.randn(length + 1, width))
    gains = nn.Parameter(torch.ones(length + 1, width))

    def stack(size: int) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            done, part = [x], []
            for site in range(length):
                y = branch(naive(queries[site], [*done, *part], gains[site]), site)
                part = [part[0] + y] if part else [y]
                if (site + 1) % size == 0:
                    done, part = [*done, *part], []
            return naive(queries[length], [*done, *part], gains[length])

        return forward

    return [
        Peer("fla naive", "attnres", stack(1)),
        Peer("fla naive, S=4", "block_attnres", stack(4)),
    ]


def tokenbender(length: int, width: int, branch: Branch) -> list[Peer]:
    """The reference of nanogpt-attnres-repro, Full and blocks of four."""
    module = import_peer("nanogpt-attnres-repro/examples/nanogpt", "attnres")
    full = module.FullAttnResReference(length, width)
    block = module.BlockAttnResReference(length, width, 4)

    def run_full(x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for site in range(length):
            outputs.append(branch(full.layer_input(x, outputs, site), site))
        return full.final_output(x, outputs)

    def run_block(x: Tensor) -> Tensor:
        state = block.init_state(x)
        for site in range(length):
            block.append_layer_output(state, branch(block.layer_input(state), site))
        return block.final_output(state)

    return [
        Peer("tokenbender", "attnres", run_full),
        Peer("tokenbender, S=4", "block_attnres", run_block),
    ]


def attn_res(length: int, width: int, branch: Branch) -> list[Peer]:
    """The operator of the package attn-res."""
    operator_of = import_peer("", "attn_res.main").AttnResOperator
    operators = [operator_of(width) for _ in range(length + 1)]

    def forward(x: Tensor) -> Tensor:
        sources = [x]
        for site in range(length):
            sources.append(branch(operators[site](torch.stack(sources)), site))
        return operators[length](torch.stack(sources))

    return [Peer("attn-res", "attnres", forward)]


def hyper_connections(length: int, width: int, branch: Branch) -> list[Peer]:
    """Hyper-connections and manifold-constrained ones, four streams."""
    module = import_peer("", "hyper_connections")
    found = []
    for kind, ours in (("HyperConnections", "hyper_connections"), ("mHC", "mhc")):
        connect = getattr(module, kind)
        sites = [connect(4, dim=width, layer_index=site) for site in range(length)]

        def forward(x: Tensor, sites: list[Any] = sites) -> Tensor:
            streams = x.repeat_interleave(4, 0)
            for site, connection in enumerate(sites):
                h, add = connection(streams)
                streams = add(branch(h, site))
            return streams.unflatten(0, (-1, 4)).sum(1)

        found.append(Peer(f"lucidrains {kind}", ours, forward))
    return found


def denseformer(length: int, width: int, branch: Branch) -> list[Peer]:
    """The depth-weighted averages of the authors' package, after every second branch."""
    averages = import_peer("DenseFormer", "denseformer.denseformer").DWAModules(length // 2)

    def forward(x: Tensor) -> Tensor:
        averages.init_accumulators(x)
        for site in range(length):
            x = x + branch(x, site)
            if site % 2:
                x = averages(x, site // 2)
        return x

    return [Peer("epfml DWAModules", "denseformer", forward)]


def delta(length: int, width: int, branch: Branch) -> list[Peer]:
    """The authors' Deep Delta Learning, m = 1 and m = 4 compressed over channels."""
    folder = "deep-delta-learning"
    one = import_peer(folder, "model.DDL-vdim1-gpt-mha-rope")
    four = import_peer(folder, "model.DDL-gpt-mha-rope-CC")
    config = types.SimpleNamespace(hidden_size=width, ddl_beta_init=1.0)
    writes = [one.DeepDeltaResidualVdim1(config) for _ in range(length)]
    wide = [four.DeepDeltaResidualExpanded(config) for _ in range(length)]
    reads = [four.ResidualShortConvCompressor(config) for _ in range(length // 2 + 1)]

    def run_one(x: Tensor) -> Tensor:
        for site in range(length):
            x = writes[site](x, k_in=branch(x, site), context=x)
        return x

    def run_four(x: Tensor) -> Tensor:
        state = x.unsqueeze(-1).expand(-1, -1, -1, 4).contiguous()
        for site in range(length):
            h = reads[site // 2](state)
            state = wide[site](state, k_in=branch(h, site), v_in=h, context=h)
        return reads[-1](state)

    return [Peer("authors' DDL", "delta", run_one), Peer("authors' DDL-CC", "delta_cc", run_four)]
