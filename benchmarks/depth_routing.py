"""Draw `docs/depth_routing.png`: what a small ViT's branches read, and how large they are.

Trains `vit_nano` (4 blocks, 8 branches) with three residuals for 300 steps each on the digits, and
looks into it on the 180 validation images. Under a minute on one core. One seed and a tiny model:
the picture shows how to look, not which residual is better.
"""

import tempfile
from pathlib import Path

import torch
from archzoo.train.config import run_config
from archzoo.train.data import data_sets
from archzoo.train.run import run
from archzoo.train.schemas import register_schemas
from archzoo.zoo import create_model, depth_mixing_matrix, plot_depth_mixing, plot_magnitudes, trace
from hydra import compose, initialize_config_module
from matplotlib.figure import Figure
from torch.nn import functional as F

OUT = Path(__file__).parents[1] / "docs" / "depth_routing.png"
RESIDUALS = ("add", "attnres", "block_attnres")
TRAINING = [
    "model=vit_nano",
    "data=digits",
    "trainer.epochs=null",
    "trainer.steps=300",
    "trainer.batch_size=64",
    "trainer.evaluate_every=300",
    "trainer.progress=false",
    "callbacks=[none]",
    "logger=[csv]",
]


def main() -> None:
    """Train, look and draw."""
    fold = data_sets.build("digits").validation
    images, target = fold.__getitems__([(0, i) for i in range(len(fold))])

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, target)

    register_schemas()
    traces, matrices = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for residual in RESIDUALS:
            folder = f"{place}/{residual}"
            changes = [*TRAINING, f"model.residual={residual}", f"run_dir={folder}"]
            with initialize_config_module("archzoo.conf", version_base="1.3"):
                run(run_config(compose("train", overrides=changes)))
            model = create_model(f"local-dir:{folder}")
            traces[residual] = trace(model, images, loss)
            matrices[residual] = depth_mixing_matrix(model, images)
    del matrices["add"]  # ones
    figure = Figure(figsize=(9, 7.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.2, 1))
    plot_depth_mixing(matrices, traces["attnres"].sites, figure=upper)
    plot_magnitudes(traces, figure=lower)
    figure.savefig(OUT, dpi=150)
    print(OUT)


if __name__ == "__main__":
    main()
