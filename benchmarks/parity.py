"""How far our mechanisms are from public code with the same weights, in outputs and gradients.

Each case runs a stack of branches tanh(rms_norm(h) W) over both, from shared weights, or one read.
The figure is the largest difference of any entry, over the largest entry of the same tensor, at
worst over the output and over the gradients of the input, the branches and all of the mechanism's
parameters, under a random gradient of the output, and over seeds. Bars are 1e-12 in float64, some
thousand roundings, and 1e-5 in float32, some hundred, where the public code casts to float32.

Packages come with `pip install -e ".[peers]"`, the rest as clones in the folder that the
environment variable ARCHZOO_PEERS names:

    git clone https://github.com/tokenbender/nanogpt-attnres-repro
    git clone https://github.com/yifanzhang-pro/deep-delta-learning
    git clone https://github.com/epfml/DenseFormer

What cannot be imported is a row that says "not installed" and no bar. The convolution over tokens
of deep-delta-learning, which runs on CUDA only, is stood in for by torch's.
"""

import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from archzoo.layers.residual import Context, Residual, Site, State, depth_mix
from archzoo.layers.residual.mixing import key_statistic
from archzoo.layers.residual.streams import hyper_connections as ours_hyper
from archzoo.zoo.axes.residuals import make_residual
from harness import Bar, Measurement, main
from residual_peers import import_peer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}
BATCH, LENGTH, WIDTH = 2, 12, 64
COLUMNS = TAPS = 4

Leaves = dict[str, Tensor]
Side = Callable[[Leaves], Tensor]
Case = tuple[Leaves, Side, Side]


def rms_norm(x: Tensor) -> Tensor:
    """The norm between a read and its branch on both sides."""
    return F.rms_norm(x, (x.shape[-1],), eps=1e-5)


def sites(length: int) -> list[Site]:
    """Two branches a block."""
    return [Site(("attention", "mlp")[i % 2], i // 2) for i in range(length)]


def normals(seed: int, dtype: torch.dtype, **shapes: tuple[int, ...]) -> Leaves:
    """Normals for every name, drawn in float64; those of the branches keep the scale."""
    g = torch.Generator().manual_seed(seed)
    leaves = {
        name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()
    }
    if "branches" in leaves:
        leaves["branches"] *= WIDTH**-0.5
    return {name: leaf.to(dtype).requires_grad_() for name, leaf in leaves.items()}


class Stack(nn.Module):
    """A residual over toy branches, or the part of it that a function takes."""

    def __init__(self, residual: Residual) -> None:
        """Keep the mechanism."""
        super().__init__()
        self.residual = residual

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Run the branches and close."""
        state: State = self.residual.open(x)
        for site, weight in enumerate(weights):
            h = self.residual.read(state, site)
            assert isinstance(h, Tensor)
            normed = rms_norm(h)
            y = (normed @ weight).tanh()
            state = self.residual.write(state, site, y, Context(h, normed))
        return self.residual.close(state)


def ours(residual: Residual, parameters: Callable[[Leaves], dict[str, Tensor]]) -> Side:
    """Run our stack with a mechanism's parameters made from the leaves."""
    network = Stack(residual)

    def side(leaves: Leaves) -> Tensor:
        given = {f"residual.{k}": p.contiguous() for k, p in parameters(leaves).items()}
        return functional_call(network, given, (leaves["x"], leaves["branches"]), strict=True)

    return side


def with_parameters(module: nn.Module, **parameters: Tensor) -> Callable[..., Any]:
    """Return a peer's module as a function of its inputs, with all of its parameters given."""
    return lambda *args, **options: functional_call(
        module, {k.replace("__", "."): p for k, p in parameters.items()}, args, options, strict=True
    )


def results(leaves: Leaves, side: Side, seed: int) -> list[Tensor]:
    """Return a side's output and its gradients along a random one."""
    out = side(leaves)
    g = torch.Generator().manual_seed(seed + 1)
    along = torch.randn(out.shape, generator=g, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), along)]


def difference(case: Case, seed: int) -> tuple[float, float]:
    """Return the differences of the outputs and, at worst, of the gradients."""
    leaves, *both = case
    found = [results(leaves, side, seed) for side in both]
    apart = [
        ((one - two).abs().max() / two.abs().max()).item() for one, two in zip(*found, strict=True)
    ]
    return apart[0], max(apart[1:])


# Attention Residuals.


def attnres_leaves(seed: int, dtype: torch.dtype, length: int, gain: bool = True) -> Leaves:
    """Trained queries and gains: of size one, so that weights over depth are far from equal."""
    shapes = {"query": (length + 1, WIDTH)} | ({"gain": (length + 1, WIDTH)} if gain else {})
    x, branches = (BATCH, LENGTH, WIDTH), (length, WIDTH, WIDTH)
    leaves = normals(seed, dtype, x=x, branches=branches, **shapes)
    with torch.no_grad():
        leaves["query"] *= WIDTH**-0.5
        if gain:
            leaves["gain"] += 1.0
    return leaves


def one_read(seed: int, dtype: torch.dtype) -> Case:
    """One mix of eight sources by the naive operator of flash-linear-attention."""
    naive = import_peer("", "fla.ops.attnres").naive_attnres
    leaves = normals(seed, dtype, sources=(8, BATCH, LENGTH, WIDTH), query=(WIDTH,), gain=(WIDTH,))

    def mine(leaves: Leaves) -> Tensor:
        return depth_mix(leaves["sources"].unbind(), leaves["query"] * leaves["gain"])

    def theirs(leaves: Leaves) -> Tensor:
        return naive(leaves["query"], leaves["sources"].unbind(), leaves["gain"])

    return leaves, mine, theirs


def attnres_stack(read: Callable[[Leaves, int, list[Tensor]], Tensor], size: int) -> Side:
    """Run a stack in blocks of S branches over a peer's read of listed sources."""

    def side(leaves: Leaves) -> Tensor:
        done, part = [leaves["x"]], []
        for site, weight in enumerate(leaves["branches"]):
            y = (rms_norm(read(leaves, site, [*done, *part])) @ weight).tanh()
            part = [part[0] + y] if part else [y]
            if (site + 1) % size == 0:
                done, part = [*done, *part], []
        return read(leaves, len(leaves["branches"]), [*done, *part])

    return side


def our_attnres(length: int, size: int, gain: bool = True) -> Side:
    """Full or Block Attention Residuals."""
    spec: dict[str, Any] = {"name": "block_attnres", "block_size": size, "key_gain": gain}
    names = ("query", "gain") if gain else ("query",)
    residual = make_residual(spec, WIDTH, sites(length))
    return ours(residual, lambda leaves: {name: leaves[name] for name in names})


def fla_stack(size: int) -> Callable[[int, torch.dtype], Case]:
    """A stack over the naive operator of flash-linear-attention."""

    def case(seed: int, dtype: torch.dtype) -> Case:
        naive = import_peer("", "fla.ops.attnres").naive_attnres

        def read(leaves: Leaves, site: int, sources: list[Tensor]) -> Tensor:
            return naive(leaves["query"][site], sources, leaves["gain"][site])

        leaves = attnres_leaves(seed, dtype, 8)
        return leaves, our_attnres(8, size), attnres_stack(read, size)

    return case


def tokenbender(size: int | None) -> Callable[[int, torch.dtype], Case]:
    """The references of nanogpt-attnres-repro: Full, or blocks of S branches."""

    def case(seed: int, dtype: torch.dtype) -> Case:
        module = import_peer("nanogpt-attnres-repro/examples/nanogpt", "attnres")
        length = 8

        class Theirs(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = (
                    module.FullAttnResReference(length, WIDTH, eps=1e-6)
                    if size is None
                    else module.BlockAttnResReference(length, WIDTH, size, eps=1e-6)
                )

            def forward(self, x: Tensor, weights: Tensor) -> Tensor:
                outputs: list[Tensor] = []
                state = None if size is None else self.net.init_state(x)
                for site, weight in enumerate(weights):
                    h = (
                        self.net.layer_input(x, outputs, site)
                        if state is None
                        else self.net.layer_input(state)
                    )
                    outputs.append((rms_norm(h) @ weight).tanh())
                    if state is not None:
                        self.net.append_layer_output(state, outputs[-1])
                if state is None:
                    return self.net.final_output(x, outputs)
                return self.net.final_output(state)

        net = Theirs()

        def theirs(leaves: Leaves) -> Tensor:
            given = {"net.mixer.queries": leaves["query"]}
            for site, gain in enumerate(leaves["gain"]):
                given[f"net.mixer.key_norms.{site}.weight"] = gain
            return functional_call(net, given, (leaves["x"], leaves["branches"]), strict=True)

        leaves = attnres_leaves(seed, dtype, length)
        return leaves, our_attnres(length, size or 1), theirs

    return case


def attn_res(seed: int, dtype: torch.dtype) -> Case:
    """A stack over the operator of the package attn-res, which has no key gain."""
    operator = import_peer("", "attn_res.main").AttnResOperator(WIDTH)

    def read(leaves: Leaves, site: int, sources: list[Tensor]) -> Tensor:
        call = with_parameters(operator, pseudo_query=leaves["query"][site])
        return call(torch.stack(sources))

    leaves = attnres_leaves(seed, dtype, 8, gain=False)
    return leaves, our_attnres(8, 1, gain=False), attnres_stack(read, 1)


# Deep Delta Learning. Their states are (B, T, D, m), ours (B, T, m, D).


def causal_conv1d_fn(x: Tensor, weight: Tensor) -> Tensor:
    """What the package causal_conv1d computes on CUDA: x (B, C, T), weight (C, K)."""
    padded = F.pad(x, (weight.shape[1] - 1, 0))
    return F.conv1d(padded, weight.unsqueeze(1), groups=len(weight))


def authors(name: str) -> types.ModuleType:
    """Import a model file of the authors' repository."""
    missing = importlib.util.find_spec("causal_conv1d") is None
    if missing:
        stand_in = types.ModuleType("causal_conv1d")
        stand_in.causal_conv1d_fn = causal_conv1d_fn  # type: ignore[attr-defined]
        sys.modules["causal_conv1d"] = stand_in
    try:
        return import_peer("deep-delta-learning", f"model.{name}")
    finally:
        if missing:
            del sys.modules["causal_conv1d"]


def delta(
    file: str, length: int, *, hidden: int | None = None, **options: Any
) -> Callable[[int, torch.dtype], Case]:
    """A model file of the authors against our options; one branch is one site and the readout."""
    m = options.get("value_channels", 1)
    along_tokens = options.get("compress") == "tokens"
    convolves = options.get("expand") == "convolution"

    def case(seed: int, dtype: torch.dtype) -> Case:
        module = authors(file)
        blocks = -(-length // 2)
        shapes: dict[str, tuple[int, ...]] = {
            "gate": (length, hidden or WIDTH),
            "gate_bias": (length,),
            "value": (length, m, WIDTH),
            "value_bias": (length, m),
        }
        if hidden is not None:
            shapes["gate_hidden"] = (length, hidden, WIDTH)
        if m > 1:
            taps = (TAPS, m, WIDTH) if along_tokens else (m, WIDTH)
            shapes |= {"taps": (blocks + 1, *taps), "read_vector": (blocks + 1, m)}
        if convolves:
            shapes["expansion"] = (TAPS, m, WIDTH)
        names = list(shapes)
        x, branches = (BATCH, LENGTH, WIDTH), (length, WIDTH, WIDTH)
        leaves = normals(seed, dtype, x=x, branches=branches, **shapes)
        with torch.no_grad():
            for name in ("gate", "value", "gate_hidden"):
                if name in leaves:
                    leaves[name] *= WIDTH**-0.5
        spec = {"name": "delta", "parameterisation": "repo", "cc_form": "repo", **options}
        residual = make_residual(spec | {"gate_hidden": hidden}, WIDTH, sites(length))
        config = types.SimpleNamespace(
            hidden_size=WIDTH,
            ddl_value_channels=m,
            ddl_beta_init=1.0,
            ddl_beta_single_linear=hidden is None,
            ddl_beta_hidden_size=hidden,
        )
        if m == 1:
            site_module = module.DeepDeltaResidualVdim1(config)
        else:
            site_module = module.DeepDeltaResidualExpanded(config)
            compressor = module.ResidualShortConvCompressor(config)
        expander = module.InputEmbedShortConvExpander(config) if convolves else None

        def heads(leaves: Leaves, site: int) -> Callable[..., Tensor]:
            given = {
                "v_proj__weight": leaves["value"][site],
                "v_proj__bias": leaves["value_bias"][site],
            }
            out = "beta" if hidden is None else "beta_out"
            given[f"{out}__weight"] = leaves["gate"][site : site + 1]
            given[f"{out}__bias"] = leaves["gate_bias"][site : site + 1]
            if hidden is not None:
                given["beta_in__weight"] = leaves["gate_hidden"][site]
            return with_parameters(site_module, **given)

        def compress(leaves: Leaves, state: Tensor, block: int) -> Tensor:
            if m == 1:
                return state
            taps = leaves["taps"][block]
            if along_tokens:
                given = {"shortconv__weight": taps.permute(2, 1, 0).flatten(0, 1)}
            else:
                given = {"weight": taps.mT}
            return with_parameters(compressor, read=leaves["read_vector"][block], **given)(state)

        def theirs(leaves: Leaves) -> Tensor:
            state = leaves["x"]
            if expander is not None:
                weight = leaves["expansion"].permute(2, 1, 0).flatten(0, 1).unsqueeze(1)
                state = with_parameters(expander, conv__weight=weight)(state)
            elif m > 1:
                state = state.unsqueeze(-1).repeat(1, 1, 1, m)
            for site, weight in enumerate(leaves["branches"]):
                h = compress(leaves, state, site // 2)
                c = rms_norm(h)
                extra = {} if m == 1 else {"v_in": h}
                y = (c @ weight).tanh()
                state = heads(leaves, site)(state, k_in=y, context=c, **extra)
            return compress(leaves, state, blocks)

        return leaves, ours(residual, lambda leaves: {n: leaves[n] for n in names}), theirs

    return case


# Streams and averages.


def hyper_connections(seed: int, dtype: torch.dtype) -> Case:
    """Dynamic hyper-connections of four streams; the gain of their norm is a factor of our W."""
    length, n = 8, 4
    connect = import_peer("", "hyper_connections").HyperConnections
    modules = [connect(n, dim=WIDTH, layer_index=site) for site in range(length)]
    leaves = normals(
        seed,
        dtype,
        x=(BATCH, LENGTH, WIDTH),
        branches=(length, WIDTH, WIDTH),
        static=(length, n, n + 2),
        weight=(length, n + 2, WIDTH),
        scale=(length, 2),
        gain=(length, WIDTH),
    )
    with torch.no_grad():
        for name, size in (("static", 0.2), ("weight", WIDTH**-0.5), ("scale", 0.2), ("gain", 0.2)):
            leaves[name] *= size
        leaves["static"][:, :, 1:-1] += torch.eye(n)
        leaves["static"][:, :, -1] += 1.0

    def parameters(leaves: Leaves) -> dict[str, Tensor]:
        weight = leaves["weight"] * (1 + leaves["gain"]).unsqueeze(1)
        return {"static": leaves["static"], "weight": weight, "scale": leaves["scale"]}

    def theirs(leaves: Leaves) -> Tensor:
        streams = leaves["x"].repeat_interleave(n, 0)
        for site, weight in enumerate(leaves["branches"]):
            static, moved, scale = (leaves[name][site] for name in ("static", "weight", "scale"))
            connection = with_parameters(
                modules[site],
                norm__gamma=leaves["gain"][site],
                static_alpha=static[:, :-1],
                static_beta=static[:, -1],
                dynamic_alpha_fn=moved[:-1].mT,
                dynamic_beta_fn=moved[-1],
                dynamic_alpha_scale=scale[0],
                dynamic_beta_scale=scale[1],
            )
            h, add = connection(streams)
            streams = add((rms_norm(h) @ weight).tanh())
        return streams.unflatten(0, (-1, n)).sum(1)

    residual = make_residual({"name": "hyper_connections", "streams": n}, WIDTH, sites(length))
    run = ours(residual, parameters)

    def mine(leaves: Leaves) -> Tensor:
        # Their norm has no ε; ours, of 1e-6, would be all that is left to see.
        def statistic(x: Tensor, channel_dim: int, eps: float) -> Tensor:
            return key_statistic(x, channel_dim, 0.0)

        with mock.patch.object(ours_hyper, "key_statistic", statistic):
            return run(leaves)

    return leaves, mine, theirs


def denseformer(dilation: int, period: int) -> Callable[[int, torch.dtype], Case]:
    """The authors' depth-weighted averages over six blocks."""

    def case(seed: int, dtype: torch.dtype) -> Case:
        blocks = 6
        modules = import_peer("DenseFormer", "denseformer.denseformer")
        averages = modules.DWAModules(blocks, dilation, period)
        spec = {"name": "denseformer", "dilation": dilation, "period": period}
        residual = make_residual(spec, WIDTH, sites(2 * blocks))
        rows = {name: tuple(row.shape) for name, row in residual.named_parameters()}
        x, branches = (BATCH, LENGTH, WIDTH), (2 * blocks, WIDTH, WIDTH)
        leaves = normals(seed, dtype, x=x, branches=branches, **rows)

        def theirs(leaves: Leaves) -> Tensor:
            given = {
                f"alphas.{int(name.split('.')[1]) - 1}.weight": leaves[name].unsqueeze(0)
                for name in rows
            }
            x = leaves["x"]
            before = torch.get_default_dtype()
            torch.set_default_dtype(dtype)  # theirs makes an empty tensor of the default type
            averages.init_accumulators(x)
            for site, weight in enumerate(leaves["branches"]):
                x = x + (rms_norm(x) @ weight).tanh()
                if site % 2:
                    x = functional_call(averages, given, (x, site // 2), strict=True)
            torch.set_default_dtype(before)
            return x

        return leaves, ours(residual, lambda leaves: {name: leaves[name] for name in rows}), theirs

    return case


ONE, FOUR = "DDL-vdim1-gpt-mha-rope", "DDL-gpt-mha-rope"
CC = {"value_channels": COLUMNS}
TC = CC | {"compress": "tokens"}
EC = {"expand": "convolution"}
Cases = list[tuple[str, str, torch.dtype, Callable[[int, torch.dtype], Case]]]
CASES: Cases = [
    ("fla naive_attnres", "one read of 8 sources", torch.float32, one_read),
    ("fla naive_attnres", "Full, 8 branches", torch.float32, fla_stack(1)),
    ("fla naive_attnres", "S = 3, 8 branches", torch.float32, fla_stack(3)),
    ("tokenbender", "Full, 8 branches", torch.float64, tokenbender(None)),
    ("tokenbender", "S = 2, 8 branches", torch.float64, tokenbender(2)),
    ("tokenbender", "S = 3, 8 branches", torch.float64, tokenbender(3)),
    ("attn-res", "Full without gain, 8 branches", torch.float32, attn_res),
    ("authors' DDL", "m = 1, one site", torch.float32, delta(ONE, 1)),
    ("authors' DDL", "m = 1, 6 branches", torch.float32, delta(ONE, 6)),
    ("authors' DDL", "m = 1, two-layer gate", torch.float32, delta(ONE, 6, hidden=16)),
    ("authors' DDL", "CC without EC, one site", torch.float32, delta(f"{FOUR}-CC", 1, **CC)),
    ("authors' DDL", "CC without EC, 6 branches", torch.float32, delta(f"{FOUR}-CC", 6, **CC)),
    ("authors' DDL", "CC, 6 branches", torch.float32, delta(f"{FOUR}-CC-EC", 6, **CC, **EC)),
    ("authors' DDL", "TC without EC, 6 branches", torch.float32, delta(FOUR, 6, **TC)),
    ("authors' DDL", "TC, 6 branches", torch.float32, delta(f"{FOUR}-EC", 6, **TC, **EC)),
    ("lucidrains", "4 dynamic streams, 8 branches", torch.float64, hyper_connections),
    ("epfml DWAModules", "1 x 1, 6 blocks", torch.float64, denseformer(1, 1)),
    ("epfml DWAModules", "2 x 3, 6 blocks", torch.float64, denseformer(2, 3)),
]


def measure(quick: bool) -> Measurement:
    """Compare every case of this script."""
    return compare(CASES, quick)


def compare(cases: Cases, quick: bool) -> Measurement:
    """Compare cases on one seed or on five."""
    rows, bars = [], []
    for peer, what, dtype, make in cases:
        row: dict[str, Any] = {"peer": peer, "case": what, "dtype": str(dtype).split(".")[1]}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of packages that look for a GPU
                found = [difference(make(seed, dtype), seed) for seed in range(1 if quick else 5)]
        except ImportError as error:
            print(f"{peer}, {what}: {error}")
            rows.append(row | {"outputs": "not installed", "gradients": "not installed"})
            continue
        outputs, gradients = (max(column) for column in zip(*found, strict=True))
        rows.append(row | {"outputs": outputs, "gradients": gradients})
        bars.append(Bar(f"{peer}, {what}", max(outputs, gradients), LIMITS[dtype]))
    return rows, bars


if __name__ == "__main__":
    main("parity", measure)
