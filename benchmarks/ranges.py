"""Values that no run may have, what goes with what, and lines that are no overrides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["COMBINATIONS", "LOWRANK", "MODELS", "RESIDUALS", "SETTINGS", "SYNTAX", "Bad"]


@dataclass(frozen=True)
class Bad:
    """A key of a run, values that it may not have, and what has to be said before it.

    Args:
        base: The run that is broken.
        key: The key; empty where the values are whole overrides.
        values: Each of them is wrong.
        start: Overrides that go before.
        names: What the error must name; None is the key and its value.
    """

    base: str
    key: str
    values: Sequence[Any]
    start: Sequence[str] = ()
    names: Sequence[str | tuple[str, ...]] | None = None


VIT, RES, MLP, GPT = "vit_nano", "resnet_nano", "mlp_nano", "gpt_nano"
NODES, BALL, CONV = "poincare_embedding_nano", "poincare_mlp_nano", "poincare_resnet_nano"
LIP, LIPCONV = "ldlt_mlp_nano", "ldlt_resnet_small"
TEXT = ["data.path={files}/text.txt"]
PHOTOS = ["data=imagefolder", "data.root={files}/photos", "data.img_size=8", "data.resize=9"]
SHARE = [*PHOTOS, "data.validation=0.2"]

SETTINGS = [
    Bad(MLP, "trainer.steps", [0, -1]),
    Bad(MLP, "trainer.epochs", [0, -1], ["trainer.steps=null"]),
    *(Bad(RES, f"trainer.{key}", [0, -1]) for key in ("batch_size", "accumulate", "log_every")),
    *(Bad(VIT, f"trainer.{key}", [0, -2]) for key in ("evaluate_every", "checkpoint_every")),
    Bad(MLP, "trainer.keep_checkpoints", [0, -1]),
    Bad(MLP, "trainer.threads", [0, -1]),
    Bad(MLP, "trainer.workers", [-1]),
    Bad(MLP, "trainer.label_smoothing", [1.0, 1.5, -0.1]),
    Bad(VIT, "trainer.mixup", [-0.1]),
    Bad(VIT, "trainer.cutmix", [-1]),
    Bad(MLP, "trainer.clip_grad", [-1]),
    Bad(MLP, "trainer.max_time", [-1]),
    Bad(MLP, "trainer.amp", ["fp8", "on"]),
    Bad(MLP, "trainer.device", ["gpu", "tpu"]),
    Bad(MLP, "trainer.parallel", ["dp", "fsdp2"]),
    Bad(MLP, "optim.lr", [0, -0.001]),
    Bad(MLP, "optim.name", ["adahessian", "bnbadam", "fusedlamb"], ["optim=step_adamw"]),
    Bad(MLP, "+optim.options.betas", ["[2,2]", "[0.9,-1]"], ["optim=adamw"], ["optim.options"]),
    Bad(MLP, "optim.weight_decay", [-0.1]),
    Bad(MLP, "schedule.name", ["cosin", "step"]),
    *(Bad(MLP, f"schedule.{key}", [-0.1, 1.5]) for key in ("warmup", "cooldown", "final")),
    Bad(MLP, "seed", [-1, 2**32, 10**12, 1.5, "one"]),
    Bad(MLP, "lowrank.seed", [-1, 2**32], ["lowrank=sltrain"]),
    Bad(NODES, "data.seed", [-1, 2**32], ["data=random_tree"]),
    Bad(MLP, "callbacks.ema.decay", [1.0, -0.1, 2], ["callbacks=[ema]"]),
    Bad(MLP, "callbacks.geometry.samples", [0, -1], ["callbacks=[geometry]"]),
    Bad(MLP, "callbacks.margin_loss.offset", [-1], ["callbacks=[margin_loss]"]),
    Bad(MLP, "callbacks.margin_loss.temperature", [0, -1], ["callbacks=[margin_loss]"]),
    *(Bad(GPT, f"callbacks.sample.{key}", [-1], ["callbacks=[sample]"])
      for key in ("length", "temperature", "top_k")),
    Bad(GPT, "callbacks.sample.prompt", ["''"], ["callbacks=[sample]"], ["prompt"]),
    Bad(MLP, "data.split", [5, -1]),
    Bad(MLP, "data.max_rows", [0, -5]),
    Bad(GPT, "data.context_length", [0, -4]),
    Bad(NODES, "data.branching", [0, -1]),
    Bad(NODES, "data.depth", [0, -1, 40]),
    Bad(NODES, "data.negatives", [0, -1]),
    Bad(NODES, "data.held_out", [1.0, -0.1, 0.9]),
    Bad(NODES, "data.num_nodes", [1, 0, 2_000_000], ["data=random_tree"]),
    Bad(RES, "data.img_size", [0, -8], SHARE),
    Bad(RES, "data.resize", [4, 0], SHARE),
    Bad(RES, "data.validation", [0.0, 1.0, -0.1, 1.5, 0.01], PHOTOS),
    Bad(RES, "data.policy", ["crop", "flip"], SHARE),
    Bad(RES, "data.jitter", [-0.1], SHARE),
    Bad(RES, "data.erasing", [-0.1, 1.5], SHARE),
    Bad(RES, "data.validation", [0, -1, 100_000], ["data=mnist", "data.root={files}"]),
    Bad(NODES, "data.subset", ["verbs"], ["data=wordnet", "data.root={files}"]),
]  # fmt: skip

MODELS = [
    *(Bad(base, f"model.{key}", [0, -8]) for base in (VIT, GPT, MLP, BALL, LIP)
      for key in ("width", "depth")),
    *(Bad(base, "model.num_heads", [0, -1]) for base in (VIT, GPT)),
    *(Bad(base, "model.num_heads", [7], names=["num_heads"]) for base in (VIT, GPT)),
    Bad(VIT, "model.patch_size", [0, -1, 3, 16]),
    Bad(VIT, "model.mlp_ratio", [0, -1], names=["mlp_ratio"]),
    Bad(VIT, "model.registers", [-1]),
    Bad(VIT, "model.global_pool", ["max", "mean"]),
    *(Bad(base, "model.drop_rate", [-0.1, 1.0, 1.5]) for base in (VIT, RES, MLP, BALL, CONV)),
    *(Bad(base, "model.drop_path_rate", [-0.1, 1.0, 1.5])
      for base in (VIT, RES, MLP, GPT, BALL, CONV)),
    *(Bad(base, "model.expansion", [0, -1], names=["expansion"]) for base in (MLP, BALL, LIP)),
    Bad(GPT, "model.context_length", [0, -1]),
    Bad(GPT, "model.short_window", [0, -1]),
    Bad(GPT, "model.norm_eps", [-1.0]),
    *(Bad(base, "model.widths", [[], [0], [-4, 8]], names=["widths"]) for base in (RES, CONV)),
    *(Bad(base, "model.depths", [[0, 1], [1, 1, 1], []]) for base in (RES, CONV)),
    Bad(RES, "model.stem", ["tiny"]),
    *(Bad(base, "model.lipschitz", [0, -1]) for base in (LIP, LIPCONV)),
    *(Bad(base, "model.split", ["last"]) for base in (LIP, LIPCONV)),
    *(Bad(base, "model.block", ["conv"]) for base in (LIP, LIPCONV)),
    *(Bad(base, "model.activation", ["gelu", "nope"]) for base in (LIP, LIPCONV)),
    *(Bad(base, "model.head", ["mlr2"]) for base in (LIP, LIPCONV, BALL, CONV)),
    *(Bad(base, "model.hidden_depth", [0, -1]) for base in (LIP, LIPCONV)),
    Bad(LIP, "model.wiring", ["ring"]),
    Bad(LIPCONV, "model.widths", [[6, 8], [16, 8], [0, 4]], names=["widths"]),
    Bad(LIPCONV, "model.downsample", ["stride"]),
    *(Bad(base, "model.curvature", [0, -1]) for base in (BALL, CONV, NODES)),
    *(Bad(base, "model.geometry", ["sphere"]) for base in (BALL, CONV, NODES)),
    *(Bad(base, "model.init", ["zero"]) for base in (BALL, CONV)),
    Bad(CONV, "model.averaging", ["mean"]),
    Bad(NODES, "model.dim", [0, -1]),
    Bad(NODES, "model.init_range", [-1.0, 2.0]),
    Bad(NODES, "model.init_range", [-1.0], ["model.geometry=euclidean", "optim=adamw"]),
    Bad(NODES, "model.precision", ["float16"]),
    Bad(MLP, "model.num_classes", [2, 7]),
    Bad(MLP, "model.in_features", [5]),
    Bad(VIT, "model.img_size", [16]),
    Bad(RES, "model.in_chans", [3]),
    Bad(GPT, "model.vocab_size", [100]),
    Bad(NODES, "model.num_nodes", [5]),
]  # fmt: skip

RESIDUALS: dict[str, dict[str, list[Any]]] = {
    "scaled": {"exponent": [-1], "count": ["sites"], "coefficient": ["nan", "big"]},
    "attnres": {"heads": [0, 5], "window": [0, -1], "competition": ["max"], "eps": [-1.0]},
    "block_attnres": {"block_size": [0, -2], "num_blocks": [0], "block_layers": [0], "heads": [7]},
    "delta": {"value_channels": [0], "initial_beta": [0, 2, 3], "frozen_beta": [-1, 3],
              "gate_hidden": [0], "mode": ["half"], "parameterisation": ["v2"]},
    "muddformer": {"hidden": [0, -1]},
    "dca": {"keep": [0, -1]},
    "deepnorm": {"alpha": [0, -1], "beta": [0]},
    "highway": {"gate": ["pixel"], "bias": ["low"]},
    "depth_swa": {"window": [0], "heads": [0, 5], "mode": ["mean"]},
    "denseformer": {"dilation": [0], "period": [0, -1]},
    "elc_bert": {"flavour": ["one"], "eps": [0, -1]},
    "hyper_connections": {"streams": [0, -1]},
    "mhc": {"streams": [0], "sinkhorn_steps": [0]},
    "mhc_lite": {"streams": [0, 7]},
    "parallel": {"group": [0, -1], "exponent": [-1]},
    "mobius": {"curvature": [0, -1], "order": ["last"]},
    "gyro_attnres": {"curvature": [-1], "window": [0], "competition": ["max"]},
}  # fmt: skip

LOWRANK: dict[str, dict[str, list[Any]]] = {
    "low_rank": {
        "rank": [0, -1, 1.5, 10_000],
        "init": ["one"],
        "frobenius": [-1],
        "scheme": ["x"],
        "refactorize_every": [-1, 1.5],
        "total_steps": [0],
    },
    "maestro": {
        "group_lasso": [-1],
        "lasso": ["l1"],
        "sampler": ["none"],
        "budget": [0.0, 1.0, 2],
        "shrink_every": [-1],
        "min_rank": [-1],
        "threshold": [-1],
    },
    "trp": {
        "period": [0],
        "energy": [-0.1, 1.0],
        "nuclear": [-1],
        "min_kernel": [0],
        "warmup": [-1],
        "ramp": [-1],
    },
    "sltrain": {"rank": [0, 1.5], "scale": [0, -1], "density": [0, 1, 1.5]},
    "lost": {"gamma": [-0.1, 2], "density": [0, 1.5], "residual_rank": [0], "activation": ["relu"]},
    "cola": {"rank": [0, -2, 2.5]},
    "relora": {"scale": [0], "merge_every": [-1, 1.5], "rewarm": [-1], "total_steps": [0]},
    "sst": {"resample_every": [0, 1.5], "iterations": [0], "rewarm": [-1]},
    "switchlora": {"alpha": [0], "decay_share": [0, -1], "freeze": [-1], "interval": [0.5, 2]},
    "full": {"rank": [0, 1.5]},
    "fixed_ranks": {"scheme": ["rows"]},
}
for _settings in LOWRANK.values():
    _settings["learning_rate_ratio"] = [0, -1]
    _settings["targets"] = [["nothing.*"]]

COMBINATIONS = [
    Bad("", "", ["model=gpt_nano data=digits"], names=["gpt_nano", "digits"]),
    Bad("", "", ["model=vit_nano data=tabular"], names=["vit_nano", "tabular"]),
    Bad("", "", ["model=mlp_nano data=tree"], names=["mlp_nano", "tree"]),
    Bad("", "", ["model=poincare_embedding_nano data=digits"], names=["digits", "nodes"]),
    Bad("", "", ["model=resnet_nano data=bytes"], names=["resnet_nano", "bytes"]),
    Bad(MLP, "trainer.epochs", [3]),
    Bad(MLP, "trainer.steps", ["null"], names=["steps", "epochs"]),
    Bad(MLP, "trainer.cutmix", [1], names=["cutmix", "features"]),
    *(Bad(base, f"trainer.{key}", [0.5], names=[key])
      for base in (GPT, NODES) for key in ("mixup", "cutmix")),
    Bad(MLP, "callbacks", ["[sample]", "[reconstruction]"], names=[("sample", "reconstruction")]),
    Bad(GPT, "callbacks", ["[margin_loss]", "[reconstruction]"],
        names=[("margin_loss", "reconstruction")]),
    *(Bad(base, "callbacks", ["[geometry]"], names=["geometry"]) for base in (NODES, LIP)),
    Bad(MLP, "optim", ["muon"], ["trainer.parallel=fsdp"], ["muon", "fsdp"]),
    Bad(MLP, "trainer.parallel", ["fsdp"], ["lowrank=maestro", "optim=adamw"], ["maestro", "fsdp"]),
    Bad(MLP, "callbacks", ["[ema]"], ["trainer.parallel=fsdp", "optim=adamw"], ["ema", "parallel"]),
    Bad(MLP, "optim", ["adamw", "sgd"], ["lowrank=switchlora"], ["SwitchLoRA"]),
    Bad(NODES, "optim", ["adamw", "sgd", "muon"], names=["optim", "riemannian_adam"]),
    Bad(MLP, "trainer.batch_size", [5000]),
    Bad(MLP, "trainer.accumulate", [5000]),
    Bad(MLP, "trainer.device", ["cuda"]),
    *(Bad(MLP, "logger", [f"[{name}]"], names=[name]) for name in ("wandb", "trackio")),
    Bad(LIP, "model.hidden_depth", [2], ["model.block=sll"]),
    Bad(LIP, "model.width", [9], ["model.block=aol"]),
    Bad(NODES, "model.curvature", [2.0], ["model.geometry=euclidean"]),
    Bad(VIT, "model.residual", ["{name:delta,expand:convolution,value_channels:2}"],
        ["model=resnet_nano"], ["expand"]),
    Bad(VIT, "model.residual", ["{name:scaled,shared:true}"], names=["shared"]),
    Bad(MLP, "lowrank.budget", [0.5], ["lowrank=maestro", "lowrank.shrink_every=0"],
        ["budget", "shrink_every"]),
    # files and folders
    Bad(VIT, "data.root", ["{files}/none"], ["data=mnist"], ["{files}/none"]),
    Bad(MLP, "data.table", ["iriss", "wines"]),
    Bad(MLP, "data.table", ["nope", "mixe"], ["data.root={files}/tables"]),
    Bad(MLP, "data.table", ["short"], ["data.root={files}/damaged"], ["short.csv"]),
    Bad(MLP, "data.target", ["colours"], ["data.root={files}/tables", "data.table=mixed"]),
    Bad(MLP, "data.target", ["b"], ["data.root={files}/tables", "data.table=middle"], ["target"]),
    Bad(GPT, "data.path", ["{files}/nothing.txt"], names=["nothing.txt"]),
    Bad(GPT, "data.pattern", ["*.rs"], ["data.path={files}/texts"]),
    Bad(GPT, "data.context_length", [100_000]),
    Bad(NODES, "data.root", ["{files}/none"], ["data=wordnet"], ["none"]),
    Bad(RES, "data.root", ["{files}/none", "{files}/texts", "{files}/tables"],
        ["data=imagefolder", "data.img_size=8", "data.resize=9"], ["{files}"]),
    Bad(RES, "data.root", ["{files}/none"], ["data=cifar10"], ["none"]),
    Bad(MLP, "resume", ["{files}/none", "nowhere"], names=[("none", "nowhere")]),
    Bad(MLP, "resume", ["{files}"], names=["config.yaml"]),
    Bad(MLP, "run_dir", ["{files}/text.txt", "{files}/text.txt/run"], names=["run_dir"]),
    Bad(MLP, "run_dir", ["{files}/ended"], names=["ended", "resume"]),
]  # fmt: skip

SYNTAX = [
    Bad(MLP, "", ["trainer.steps", "trainer.steps:3", "=3", "trainer..steps=3", "trainer.=3"],
        names=[]),
    Bad(MLP, "", ["model.residual={name:add", "model.residual=[add", "data.table='iris"], names=[]),
    Bad(MLP, "", ["+trainer.steps.x=3", "trainer.steps.x=3"], names=["steps"]),
    Bad(MLP, "", ["~trainer.stepz", "~optim.lrr", "~nothing"], names=[]),
    Bad(MLP, "", ["trainer=3", "optim=7", "schedule={a:1}"], names=[]),
    Bad(MLP, "", ["optim.lr=", "trainer.batch_size=", "model.width="], names=[]),
    Bad(MLP, "", ["trainer.steps=${nope}", "seed=${oc.env:NOT_SET_ANYWHERE}", "name=${a.b}"],
        names=[]),
    Bad(MLP, "", ["--confg=x", "--multrun", "-q"], names=[]),
    Bad(MLP, "", ["model=mlp_nano,vit_nano", "seed=0,1", "trainer.steps=range(3)"], names=[]),
]  # fmt: skip
"""Lines that are no overrides, or are none of this command; they need name nothing."""
