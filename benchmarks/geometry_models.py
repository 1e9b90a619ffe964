"""What models of a curved space cost, beside their flat twins of the same sizes.

A training step without an optimiser: forward, loss and backward on one thread, and the bytes that
are kept for the backward pass. Then a step of decoding with a cache. Times are of the process's
CPU; rows are medians of interleaved repetitions, ratios medians of pairwise ratios, and figures
want a machine that does nothing else.
"""

import statistics
import time
from typing import Any

import torch
from archzoo.zoo import create_model
from archzoo.zoo.backbones.self_attention import KeyValueCache
from harness import Bar, Measurement, interleaved, main, median_ratio
from hyperbolic import Candidate
from torch import Tensor, nn

Row = dict[str, Any]
MODELS: list[tuple[str, dict[str, float], tuple[int, ...]]] = [
    ("vit_tiny", {"lorentz": 1.20, "poincare": 1.6}, (2, 3, 224, 224)),
    ("gpt_tiny", {"lorentz": 1.20}, (4, 256)),
    ("resnet20", {"lorentz": 1.35}, (16, 3, 32, 32)),
    ("mlp_small", {"lorentz": 1.3}, (256, 64)),
]
"""Name, the largest ratio of each geometry to the flat twin, and a batch."""
KEPT = 1.35
DECODED = 1.3


def batch(shape: tuple[int, ...], tokens: bool) -> Tensor:
    """Draw inputs."""
    g = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, generator=g) if tokens else torch.randn(shape, generator=g)


def built(name: str, geometry: str) -> nn.Module:
    """Build a model whose time columns are no fresh zeros."""
    torch.manual_seed(0)
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
            candidates[geometry] = Candidate(
                lambda model=model, x=x: model(x), [], list(model.parameters())
            )
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
    most = {(name, key): bar for name, bars, _ in MODELS for key, bar in bars.items()}
    most["gpt_tiny, decoding", "lorentz"] = DECODED
    bars = []
    for row in rows:
        bar = most.get((row["model"], row["geometry"]))
        what = f"{row['geometry']} over flat, {row['model']}"
        if bar is not None:
            bars.append(Bar(what, row["time"], bar))
        if bar is not None and row["geometry"] == "lorentz" and "kept" in row:
            bars.append(Bar(f"bytes kept, {what}", row["kept"], KEPT))
    return rows, bars


if __name__ == "__main__":
    main("geometry_models", measure)
