"""Evidence for the depth mechanisms: what the field's baselines cost, and every long study's bars.

1. A training step of a 12-block network of width 384, a ViT (65 tokens) and a GPT (64 tokens), over
   each baseline against the same network over plain addition: one thread, medians of pairwise
   ratios of interleaved repetitions. The figures want a machine that does nothing else.
2. The bars of the studies that take hours, read from their kept results. One that has none is "not
   run", and fails the check; `python benchmarks/NAME.py --check --keep` makes it.
"""

import json
import statistics
from typing import Any

import torch
from archzoo.zoo import create_model
from archzoo.zoo.axes.residuals import ResidualSpec
from harness import RESULTS, Bar, Measurement, interleaved, main, median_ratio
from residual import NETWORK, timed
from torch import Tensor, nn

Row = dict[str, Any]
STUDIES = ("baseline_parity", "scaling", "connect", "encoder_proteins", "trans_lora")
SPECS: dict[str, ResidualSpec] = {
    "add": "add",
    "embedding_skip": "embedding_skip",
    "orthogonal": "orthogonal",
    "value_residual": "value_residual",
    "lime": "lime",
}
LIMITS = {"embedding_skip": 1.02, "orthogonal": 1.05, "value_residual": 1.05}
VIT = {"img_size": 32, "patch_size": 4, "num_classes": 100}


def steps(quick: bool) -> tuple[list[Row], list[Bar]]:
    """Time training steps over every baseline."""
    torch.set_num_threads(1)
    rows, bars, batch = [], [], 2 if quick else 8
    images, tokens = torch.randn(batch, 3, 32, 32), torch.randint(256, (batch, 64))
    kinds: list[tuple[str, str, dict[str, Any], Tensor]] = [
        ("ViT", "vit_tiny", VIT, images),
        ("GPT", "gpt_base", {}, tokens),
    ]
    for kind, name, options, inputs in kinds:
        models: dict[str, nn.Module] = {}
        for residual, spec in SPECS.items():
            torch.manual_seed(0)
            models[residual] = create_model(name, residual=spec, **NETWORK, **options)

        def step(model: nn.Module, inputs: Tensor = inputs) -> None:
            model(inputs).square().mean().backward()
            model.zero_grad(set_to_none=True)

        calls = {n: timed(lambda m=m, f=step: f(m)) for n, m in models.items()}
        for call in calls.values():
            call()
        times = interleaved(calls, 5 if quick else 21)
        for residual, figures in times.items():
            ratio = median_ratio(figures, times["add"])
            milliseconds = 1e3 * statistics.median(figures)
            what = f"{kind} step, {residual} over add"
            rows.append({"section": "steps", "what": what, "ms": milliseconds, "figure": ratio})
            if residual in LIMITS:
                bars.append(Bar(what, ratio, LIMITS[residual]))
    return rows, bars


def kept(name: str) -> tuple[list[Row], list[Bar]]:
    """Judge a study's bars anew by its kept figures; one bar falls short where there are none."""
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        row = {"section": name, "what": "not run"}
        return [row], [Bar(f"{name}: not run; its kept results", 0, 1, at_most=False)]
    told = json.loads(file.read_text())["bars"]
    bars = [Bar(f"{name}: {b['what']}", b["figure"], b["limit"], b["at_most"]) for b in told]
    if not bars:
        bars = [Bar(f"{name}: its kept bars", 0, 1, at_most=False)]
    rows = [{"section": name, "what": bar.what, "figure": bar.figure} for bar in bars]
    return rows, bars


def measure(quick: bool) -> Measurement:
    """Time the steps and read the studies."""
    rows, bars = steps(quick)
    for name in STUDIES:
        more, limits = kept(name)
        rows += more
        bars += limits
    return rows, bars


if __name__ == "__main__":
    main("evidence", measure)
