"""What models of a curved space cost, beside their flat twins of the same sizes.

A training step without an optimiser: forward, loss and backward on one thread, and the bytes that
are kept for the backward pass; with layers written for speed, and as they are defined, which is
what compiled and traced code sees. Then a step of decoding with a cache. Times are of the process's
CPU; rows are medians of interleaved repetitions, ratios medians of pairwise ratios, and figures
want a machine that does nothing else.
"""

import statistics
import time
from typing import Any

import torch
from archzoo.zoo import create_model
from archzoo.zoo.backbones.self_attention import KeyValueCache
from geometry import Definition
from harness import Bar, Measurement, interleaved, main, median_ratio
from hyperbolic import Candidate
from torch import Tensor, nn

Row = dict[str, Any]
MODELS: list[tuple[str, dict[str, tuple[float, float]], tuple[int, ...]]] = [
    ("vit_tiny", {"lorentz": (1.20, 1.35), "poincare": (1.6, 2.5)}, (2, 3, 224, 224)),
    ("gpt_tiny", {"lorentz": (1.20, 1.35)}, (4, 256)),
    ("resnet20", {"lorentz": (1.35, 1.7)}, (16, 3, 32, 32)),
    ("mlp_small", {"lorentz": (1.3, 1.5)}, (256, 64)),
    ("poincare_resnet20", {"poincare": (1.75, 3.5)}, (16, 3, 32, 32)),
]
"""Name, the largest ratios of each geometry to the flat twin, fast and as defined, and a batch."""
TWINS = {"poincare_resnet20": "euclidean_resnet20"}
"""Flat twins of another name. Their bytes are judged in `hyperbolic.py`."""
KEPT = 1.35
DECODED = 1.3


def batch(shape: tuple[int, ...], tokens: bool) -> Tensor:
    """Draw inputs."""
    g = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, generator=g) if tokens else torch.randn(shape, generator=g)


def built(name: str, geometry: str) -> nn.Module:
    """Build a model whose time columns are no fresh zeros."""
    torch.manual_seed(0)
    if name in TWINS:
        return create_model(TWINS[name] if geometry == "euclidean" else name)
    model = create_model(name, geometry=geometry)
    for key, parameter in model.named_parameters():
        if key.endswith("time_weight"):
            nn.init.normal_(parameter, std=0.02)
    return model


def training(quick: bool) -> list[Row]:
    """Steps of all models."""
    rows = []
    for name, bars, shape in MODELS:
        x = batch(shape, name.startswith("gpt"))
        candidates = {}
        for geometry in ("euclidean", *bars):
            model = built(name, geometry)
            leaves: list[Tensor] = list(model.parameters())
            run = (lambda model=model, x=x: model(x)), [], leaves
            candidates[geometry] = Candidate(*run)
            if geometry in bars:
                candidates[f"{geometry}, plain"] = Definition(*run)
        for candidate in candidates.values():
            candidate.step()
        steps = {key: each.step for key, each in candidates.items()}
        times = interleaved(steps, 3 if quick else 15)
        kept = {key: each.kept() for key, each in candidates.items()}
        rows += [
            {
                "model": name,
                "geometry": key,
                "ms": 1e3 * statistics.median(times[key]),
                "time": median_ratio(times[key], times["euclidean"]),
                "kept": kept[key] / kept["euclidean"],
            }
            for key in candidates
        ]
    return rows


@torch.no_grad()
def decoding(quick: bool) -> list[Row]:
    """A token at a time behind a prompt of 128."""
    tokens = batch((1, 160), True)

    def decode(model: Any) -> float:
        cache = KeyValueCache(256)
        model.forward_features(tokens[:, :128], cache)
        started = time.process_time()
        for one in tokens[:, 128:].split(1, 1):
            model.forward_features(one, cache)
        return time.process_time() - started

    models = {name: built("gpt_tiny", name).eval() for name in ("euclidean", "lorentz")}
    runs = {name: lambda model=model: decode(model) for name, model in models.items()}
    times = interleaved(runs, 3 if quick else 15)
    return [
        {
            "model": "gpt_tiny, decoding",
            "geometry": name,
            "ms": 1e3 * statistics.median(times[name]) / 32,
            "time": median_ratio(times[name], times["euclidean"]),
        }
        for name in models
    ]


def measure(quick: bool) -> Measurement:
    """Measure everything."""
    torch.set_num_threads(1)
    rows = [*training(quick), *decoding(quick)]
    most = {
        (name, key): bar
        for name, geometries, _ in MODELS
        for geometry, pair in geometries.items()
        for key, bar in zip((geometry, f"{geometry}, plain"), pair, strict=True)
    }
    most["gpt_tiny, decoding", "lorentz"] = DECODED
    bars = []
    for row in rows:
        bar = most.get((row["model"], row["geometry"]))
        what = f"{row['geometry']} over flat, {row['model']}"
        if bar is None:
            continue
        bars.append(Bar(what, row["time"], bar))
        if "kept" in row and row["model"] not in TWINS and "plain" not in row["geometry"]:
            bars.append(Bar(f"bytes kept, {what}", row["kept"], KEPT))
    return rows, bars


if __name__ == "__main__":
    main("geometry_models", measure)
