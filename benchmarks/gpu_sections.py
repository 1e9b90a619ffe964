"""The sections of `gpu.py`: what must hold on a GPU."""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from archzoo.layers.fast_path import is_installed
from archzoo.zoo import create_model, list_models, model_info
from archzoo.zoo.network import image_sides
from gpu_costs import cost_sections
from gpu_session import Session
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

SHARE_HALF = 0.1  # of the norm of the logits: eight bits of mantissa, through a few blocks
SHARE_SINGLE = 1e-3  # of the same, from float64 on the processor


class Definition(TorchDispatchMode):
    """Inside, nothing written for speed runs: what follows operators sees the definitions."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let every operator through."""
        return func(*args, **(kwargs or {}))


def device_facts(device: torch.device) -> dict[str, Any]:
    """What the figures depend on, beside what every benchmark tells."""
    facts: dict[str, Any] = {"device": str(device), "cuda": torch.version.cuda}
    if device.type == "cuda":
        told = torch.cuda.get_device_properties(device)
        facts |= {"gpu": told.name, "memory": told.total_memory}
    return facts | {name: is_installed(name) for name in ("fla", "triton")}


def sample(name: str, device: torch.device, batch: int = 4, tokens: int = 16) -> Tensor:
    """Inputs that follow from the name, the same on every device."""
    entry = model_info(name)
    default = {key: option.default for key, option in entry.options.items()}
    g = torch.Generator().manual_seed(0)
    if entry.kind == "tokens":
        return torch.randint(default["vocab_size"], (batch, tokens), generator=g).to(device)
    if entry.kind == "nodes":
        return torch.randint(default["num_nodes"], (batch, 5), generator=g).to(device)
    if entry.kind == "features":
        return torch.randn(batch, default["in_features"], generator=g).to(device)
    sides = image_sides(default["img_size"])
    return torch.randn(batch, default["in_chans"], *sides, generator=g).to(device)


def made(name: str, device: torch.device, **options: Any) -> nn.Module:
    """A model whose weights follow from its name, with no parameter at a zero that hides it."""
    torch.manual_seed(0)
    model = create_model(name, **options)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=g).to(parameter.dtype)
    return model.to(device)


def run(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits, and the gradients of a loss on all of them."""
    model.zero_grad(set_to_none=True)
    logits = model(x)
    weights = torch.linspace(-1.0, 2.0, logits.numel(), device=x.device).view(logits.shape)
    (logits.float() * weights).sum().backward()
    found = {name: p.grad.detach() for name, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), found


def near(found: Tensor, expected: Tensor, share: float, what: str) -> float:
    """How far a result is off, as a share of the norm of what is expected.

    Raises:
        AssertionError: further than allowed, or not finite.
    """
    expected = expected.double()
    off = float((found.to(expected.device).double() - expected).norm())
    size = float(expected.norm())
    assert off <= share * size, (
        f"{what} is off by {off / max(size, 1e-30):.1e}, allowed {share:.0e}"
    )
    return off / max(size, 1e-30)


def nano() -> list[str]:
    """The smallest models of all families."""
    return list_models("*_nano*")


def models(session: Session) -> None:
    """Every smallest model: float32 against float64 on the processor, bfloat16 against float32."""
    for name in nano():

        def compare(name: str = name) -> str:
            x = sample(name, session.device)
            model = made(name, session.device).eval()
            exact = made(name, torch.device("cpu")).double().eval()
            wide = x.cpu().double() if x.is_floating_point() else x.cpu()
            logits, gradients = run(model, x)
            off = near(logits, run(exact, wide)[0], SHARE_SINGLE, "float32")
            with torch.autocast(session.device.type, torch.bfloat16):
                half, half_gradients = run(model, x)
            rounded = near(half, logits, SHARE_HALF, "bfloat16")
            assert half_gradients.keys() == gradients.keys(), "gradients are missing"
            assert all(g.isfinite().all() for g in half_gradients.values()), "gradients not finite"
            return f"float32 off by {off:.1e}, bfloat16 by {rounded:.1e}"

        session.check(name, compare)


def compiled(session: Session) -> None:
    """Every smallest model in bfloat16 with compiled blocks, and two compiled whole."""
    backend = "inductor" if session.device.type == "cuda" else "aot_eager"
    names = [name for name in nano() if model_info(name).kind != "nodes"]
    whole = [f"{name}, whole" for name in ("gpt_nano_block_attnres", "vit_nano")]
    for case in [*whole, *names]:

        def compare(case: str = case) -> str:
            name = case.removesuffix(", whole")
            x = sample(name, session.device)
            model: Any = made(name, session.device).eval()
            torch._dynamo.reset()
            with torch.autocast(session.device.type, torch.bfloat16):
                expected, gradients = run(model, x)
                if case == name:
                    model.compile_blocks(backend=backend)
                else:
                    model.compile(backend=backend, fullgraph=True)
                found, others = run(model, x)
            assert others.keys() == gradients.keys(), "gradients are missing"
            return f"off by {near(found, expected, SHARE_HALF, 'compiled'):.1e}"

        session.check(case, compare)


def kernels(session: Session) -> None:
    """What is written for speed against the definitions: outputs and gradients, float32."""
    cases: list[tuple[str, str, dict[str, Any]]] = []
    for residual in ("attnres", "block_attnres"):
        cases += [(n, "fla", {"residual": residual}) for n in ("vit_nano", "gpt_nano")]
    cases += [(n, "triton", {}) for n in nano() if n.startswith("poincare") and "emb" not in n]
    for name, package, options in cases:

        def compare(name: str = name, options: dict[str, Any] = options) -> str:
            x = sample(name, session.device, tokens=48)
            model = made(name, session.device, **options)
            model.eval()
            fast, gradients = run(model, x)
            with Definition():
                plain, expected = run(model, x)
            off = near(fast, plain, SHARE_SINGLE, "the logits")
            worst = max(
                near(gradients[key], value, 1e-2, f"the gradient of {key}")
                for key, value in expected.items()
                if float(value.norm()) > 1e-6
            )
            return f"logits off by {off:.1e}, gradients by {worst:.1e}"

        told = f"{name} {options.get('residual', '')}".strip()
        if session.device.type == "cuda" and not is_installed(package):
            session.row(case=told, note=f"{package} is not installed: the definition runs")
        session.check(f"{told}, {package}", compare)


def sharding(session: Session) -> None:
    """FSDP2 on one rank: the same step as without."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def compare() -> str:
        name = "gpt_nano_block_attnres"
        x = sample(name, session.device)
        results = []
        for sharded in (False, True):
            model: Any = made(name, session.device)
            if sharded:
                mesh = init_device_mesh(session.device.type, (1,))
                for branch in model.trunk.branches:
                    fully_shard(branch, mesh=mesh)
                fully_shard(model, mesh=mesh)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            for _ in range(2):
                run(model, x)
                optimizer.step()
            results.append({n: getattr(p, "full_tensor", lambda p=p: p)().detach()
                            for n, p in model.named_parameters()})  # fmt: skip
        # Adam divides by the root of a square: where a gradient is near zero, rounding shows.
        worst = max(near(results[1][n], p, 1e-3, n) for n, p in results[0].items())
        return f"weights after two steps off by {worst:.1e}"

    with tempfile.TemporaryDirectory() as place:
        backend = "nccl" if session.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{place}/store", rank=0, world_size=1)
        try:
            session.check("two steps of AdamW", compare)
        finally:
            dist.destroy_process_group()


def decoding(session: Session) -> None:
    """Greedy decoding with the cache against the whole text at every token."""
    for name in ("gpt_nano", "gpt_nano_block_attnres"):

        def compare(name: str = name) -> str:
            model: Any = made(name, session.device).eval()
            prompt = sample(name, session.device, batch=2, tokens=5)
            with torch.no_grad():
                found = model.generate(prompt, 24, temperature=0.0)
                logits = model(found)
            # Where two tokens are as likely, either may come.
            chosen = logits[:, 4:-1].gather(-1, found[:, 5:, None])[..., 0]
            short = float((logits[:, 4:-1].max(-1).values - chosen).max())
            assert short <= 1e-3 * float(logits.std()), f"a token is {short:.1e} below the best"
            return "every token is the likeliest"

        session.check(name, compare)


SECTIONS: dict[str, tuple[float, Callable[[Session], None]]] = {
    "models": (50.0, models),
    "kernels": (40.0, kernels),
    "sharding": (20.0, sharding),
    "decoding": (15.0, decoding),
    **cost_sections(),
    "compiled": (120.0, compiled),
}
"""Seconds and work of each; what may take longest comes last."""
