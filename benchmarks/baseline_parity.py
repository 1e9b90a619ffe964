"""How far the residual baselines are from public code with the same weights, as in `parity.py`.

Clones in the folder that the environment variable ARCHZOO_PEERS names:

    git clone https://github.com/karpathy/nanochat
    git clone https://github.com/BootsofLagrangian/ortho-residual
    git clone https://github.com/corl-team/lime
    git clone https://github.com/Zcchill/Value-Residual-Learning

nanochat runs its own forward pass over toy blocks, with what else it adds to a stream at zero. The
last two need transformers (`pip install -e ".[peers]"`); the attention of the value residual, which
was written for 4.44, runs without a rotation.
"""

import sys
import types
from collections.abc import Callable
from unittest import mock

import torch
from archzoo.layers.residual import Context, LayerMemory, OrthogonalUpdate, Site
from archzoo.zoo.axes.geometries.euclidean_space import Euclidean
from archzoo.zoo.axes.residuals import make_residual
from archzoo.zoo.backbones.self_attention import SelfAttention
from archzoo.zoo.trunk import Trunk
from harness import main
from parity import BATCH, LENGTH, WIDTH, Case, Leaves, compare, normals, ours, sites
from residual_peers import import_peer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

BLOCKS, HEADS = 6, 4


class ToyBlock(nn.Module):
    """x + tanh(norm(x) W), called as nanochat calls a block."""

    def __init__(self) -> None:
        """Make W, which the case gives."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH, WIDTH))

    def forward(self, x: Tensor, *attention: object) -> Tensor:
        """Add the branch."""
        return x + (F.rms_norm(x, (WIDTH,), eps=1e-5) @ self.weight).tanh()


def nanochat(seed: int, dtype: torch.dtype) -> Case:
    """`GPT.forward` of nanochat: its two scalars before each of six blocks of one branch."""
    module = import_peer("nanochat", "nanochat.gpt")
    network = module.GPT(
        module.GPTConfig(
            sequence_len=LENGTH, vocab_size=WIDTH, n_layer=BLOCKS, n_head=4, n_kv_head=4,
            n_embd=WIDTH,
        )
    )  # fmt: skip
    network.transformer["h"] = nn.ModuleList(ToyBlock() for _ in range(BLOCKS))
    network.value_embeds, network.lm_head = nn.ModuleDict(), nn.Identity()
    for added in (network.smear_lambda, network.backout_lambda):
        nn.init.zeros_(added)
    residual = make_residual("embedding_skip", WIDTH, [Site("mlp", i) for i in range(BLOCKS)])
    shapes = {"table": (WIDTH, WIDTH), "branches": (BLOCKS, WIDTH, WIDTH)}
    leaves = normals(seed, dtype, **shapes, carry=(BLOCKS,), skip=(BLOCKS,))
    tokens = torch.randint(WIDTH, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))
    stack = ours(residual, lambda leaves: {name: leaves[name] for name in ("carry", "skip")})

    def mine(leaves: Leaves) -> Tensor:
        x = F.rms_norm(leaves["table"][tokens], (WIDTH,))
        closed = F.rms_norm(stack({**leaves, "x": x}), (WIDTH,))
        return 15 * (closed / 15).tanh()

    def theirs(leaves: Leaves) -> Tensor:
        given = {
            "transformer.wte.weight": leaves["table"],
            "resid_lambdas": leaves["carry"],
            "x0_lambdas": leaves["skip"],
        }
        blocks = enumerate(leaves["branches"])
        given |= {f"transformer.h.{i}.weight": weight for i, weight in blocks}
        return functional_call(network, given, (tokens,))

    return leaves, mine, theirs


def orthogonal(seed: int, dtype: torch.dtype) -> Case:
    """The authors' `connect` over features, in a stack of eight branches."""
    connect = import_peer("ortho-residual", "connect").connect
    shapes = {"x": (BATCH, LENGTH, WIDTH), "branches": (8, WIDTH, WIDTH)}
    residual = make_residual("orthogonal", WIDTH, sites(8))

    def theirs(leaves: Leaves) -> Tensor:
        x = leaves["x"]
        for weight in leaves["branches"]:
            y = (F.rms_norm(x, (WIDTH,), eps=1e-5) @ weight).tanh()
            x, _ = connect(x, y, method="orthogonal", orthogonal_method="feature", dim=-1)
        return x

    return normals(seed, dtype, **shapes), ours(residual, lambda leaves: {}), theirs


def orthogonal_images(over: str, method: str) -> Callable[[int, torch.dtype], Case]:
    """One write of the authors' over channels or over all of an image."""

    def case(seed: int, dtype: torch.dtype) -> Case:
        connect = import_peer("ortho-residual", "connect").connect
        shape = (BATCH, WIDTH, 5, 4)
        make = OrthogonalUpdate(WIDTH, [Site("conv", 0)], channel_dim=1, over=over)  # type: ignore[arg-type]

        def mine(leaves: Leaves) -> Tensor:
            (x,) = make.write((leaves["x"],), 0, leaves["y"], Context(leaves["x"], leaves["x"]))
            return x

        def theirs(leaves: Leaves) -> Tensor:
            options = {"method": "orthogonal", "orthogonal_method": method, "dim": 1}
            return connect(leaves["x"], leaves["y"], **options)[0]

        return normals(seed, dtype, x=shape, y=shape), mine, theirs

    return case


def lime(seed: int, dtype: torch.dtype) -> Case:
    """The authors' static router at the third attention, keys beside values of four heads."""
    module, head, place = import_peer("lime", "src.lm.lime"), WIDTH // HEADS, 2
    router = module.StaticRouter(types.SimpleNamespace(num_key_value_heads=HEADS), None, place)
    attentions = [Site("attention", i) for i in range(place + 1)]
    residual = LayerMemory(WIDTH, attentions, num_heads=HEADS)
    pairs = (place + 1, 2, BATCH, HEADS, LENGTH, head)
    leaves = normals(seed, dtype, pairs=pairs, route=(HEADS, (place + 1) * HEADS))

    def mine(leaves: Leaves) -> Tensor:
        given = {f"route.{place}": leaves["route"]}
        *before, (key, value) = leaves["pairs"].unbind()
        state = (key, tuple(torch.cat([*pair], -1) for pair in before))
        call = functional_call(_Mix(residual), {f"residual.{k}": v for k, v in given.items()},
                               (state, place, key, value))  # fmt: skip
        return torch.cat(call, -1)

    def theirs(leaves: Leaves) -> Tensor:
        rows = torch.cat([*leaves["pairs"].unbind(1)], -1).movedim(2, 1).flatten(0, 1).flatten(1)
        found = functional_call(router, {"static_weights": leaves["route"]}, (rows,))
        return found.unflatten(1, (BATCH, LENGTH, 2 * head)).movedim(0, 1)

    return leaves, mine, theirs


def value_residual(seed: int, dtype: torch.dtype) -> Case:
    """Three of the authors' attentions in a plain sum, against ours in a trunk; no norms."""
    # What transformers has dropped since and the attention does not use.
    gone = types.ModuleType("transformers.modeling_attn_mask_utils")
    gone.AttentionMaskConverter = None  # type: ignore[attr-defined]
    sys.modules.setdefault(gone.__name__, gone)
    with mock.patch("transformers.utils.is_torchdynamo_compiling", create=True):
        folder = "Value-Residual-Learning/src/modeling"
        module = import_peer(folder, "modeling_llama_resformer")
    config = types.SimpleNamespace(
        attention_dropout=0.0, hidden_size=WIDTH, num_attention_heads=HEADS, pretraining_tp=1,
        num_key_value_heads=HEADS, max_position_embeddings=LENGTH, rope_theta=1e4,
        attention_bias=False,
    )  # fmt: skip
    with mock.patch.object(module, "LlamaRotaryEmbedding", lambda config: nn.Identity()):
        layers = [module.LlamaAttention(config, place) for place in range(3)]
    attentions = [Site("attention", place) for place in range(3)]
    residual = make_residual({"name": "value_residual", "form": "identity"}, WIDTH, attentions)
    branches = [SelfAttention(WIDTH, HEADS, space=_NoBias()) for _ in attentions]
    trunk = Trunk(residual, branches, [nn.Identity() for _ in attentions], [0.0] * 3)
    parts = ("q_proj", "k_proj", "v_proj", "o_proj")
    x, weights = (BATCH, LENGTH, WIDTH), (3, len(parts), WIDTH, WIDTH)
    leaves = normals(seed, dtype, x=x, branches=weights)

    def mine(leaves: Leaves) -> Tensor:
        given = {}
        for place, rows in enumerate(leaves["branches"]):
            given[f"branches.{place}.qkv.weight"] = rows[:3].flatten(0, 1)
            given[f"branches.{place}.proj.weight"] = rows[3]
        return functional_call(trunk, given, (leaves["x"],), strict=True)

    def theirs(leaves: Leaves) -> Tensor:
        x, values = leaves["x"], []
        flat = torch.ones(BATCH, LENGTH, WIDTH // HEADS, dtype=dtype)
        for layer, rows in zip(layers, leaves["branches"], strict=True):
            given = {f"{part}.weight": w for part, w in zip(parts, rows, strict=True)}
            options = {"formal_layer_values": values, "position_embeddings": (flat, 0 * flat)}
            x = x + functional_call(layer, given, (x,), options)[0]
        return x

    return leaves, mine, theirs


class _NoBias(Euclidean):
    """Flat space, whose linear layers have no biases."""

    def linear(self, in_width: int, out_width: int, *, bias: bool = True) -> nn.Module:
        return nn.Linear(in_width, out_width, bias=False)

    def qkv(self, width: int, *, bias: bool = True) -> nn.Module:
        return nn.Linear(width, 3 * width, bias=False)


class _Mix(nn.Module):
    def __init__(self, residual: LayerMemory) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, *given: object) -> tuple[Tensor, Tensor]:
        return self.residual.mix_heads(*given)  # type: ignore[arg-type]


CASES = [
    ("nanochat", "two scalars, 6 blocks", torch.float32, nanochat),
    ("ortho-residual", "features, 8 branches", torch.float32, orthogonal),
    (
        "ortho-residual",
        "channels of images",
        torch.float32,
        orthogonal_images("features", "feature"),
    ),
    ("ortho-residual", "all of an image", torch.float32, orthogonal_images("sample", "global")),
    ("authors' ResFormer", "identity, 3 attentions", torch.float32, value_residual),
    ("corl-team LIMe", "static router, 3 attentions", torch.float64, lime),
]


if __name__ == "__main__":
    main("baseline_parity", lambda quick: compare(CASES, quick))
