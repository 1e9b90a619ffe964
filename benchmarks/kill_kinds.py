"""Ten kinds of run that differ in what they must keep, each of a second or so."""

import random
from dataclasses import dataclass
from pathlib import Path

__all__ = ["COMMON", "KINDS", "Kind", "make_data"]

COMMON = ("resume=auto", "trainer.progress=false", "trainer.threads=1")
OFTEN = ("trainer.log_every=3", "trainer.checkpoint_every=5", "trainer.evaluate_every=10")
STEPS = ("trainer.epochs=null", "trainer.steps=40", "trainer.batch_size=16", *OFTEN)
DIGITS = ("data=digits", *STEPS)
PLAIN = ("optim=adamw", "callbacks=[none]", "logger=[csv]")


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Args:
        name: For the table.
        variants: Arguments of its commands; `DATA` stands for the folder of the data.
        ranks: Processes under torchrun.
        sweep: Whether a command is a sweep.
    """

    name: str
    variants: tuple[tuple[str, ...], ...]
    ranks: int = 1
    sweep: bool = False

    @property
    def place(self) -> tuple[str, ...]:
        """The arguments that say where it goes, relative to where it is started."""
        return ("-m", "hydra.sweep.dir=sweep") if self.sweep else ("run_dir=run",)


def make_data(place: Path) -> None:
    """Write a text, a table and a folder of images."""
    from PIL import Image

    draw = random.Random(0)
    words = ["def", "return", "for", "in", "x", "y", "+", "(", ")", ":", "\n"]
    (place / "text.py").write_text(" ".join(draw.choices(words, k=4000)))
    lines = ["a,b,c,d,kind"]
    for _ in range(300):
        a, b = draw.gauss(0, 1), draw.gauss(0, 1)
        c, d = draw.choice(["red", "green", ""]), draw.choice(["", f"{a * b:.3f}"])
        lines.append(f"{a:.3f},{b:.3f},{c},{d},{'yes' if a + b > (c == 'red') else 'no'}")
    (place / "table.csv").write_text("\n".join(lines) + "\n")
    for name, shade in {"dark": 60, "light": 150}.items():
        folder = place / "images" / name
        folder.mkdir(parents=True)
        for i in range(60):
            pixels = bytes(shade + draw.randrange(80) for _ in range(3 * 12 * 12))
            Image.frombytes("RGB", (12, 12), pixels).save(folder / f"{i}.png")


def lowrank(*arguments: str, model: str = "mlp_tiny", optim: str = "adamw") -> tuple[str, ...]:
    """A low-rank method on the digits, its average kept as well."""
    return (f"model={model}", *DIGITS, f"optim={optim}", "callbacks=[ema]", "logger=[csv]",
            *(f"lowrank{text}" for text in arguments))  # fmt: skip


KINDS = (
    # Muon, EMA, mixup and label smoothing, CSV and TensorBoard, epochs; one save an epoch.
    Kind("ViT, default config", (
        ("model.depth=2", "model.width=32", "trainer.epochs=3", "trainer.batch_size=96"),
    )),
    Kind("GPT on text, accumulated gradients", (
        ("model=gpt_nano", "model.width=32", "model.drop_path_rate=0.1", "data=bytes",
         "data.path=DATA/text.py", "data.context_length=32", *STEPS, "trainer.batch_size=8",
         "trainer.accumulate=2", "trainer.clip_grad=1", "optim=adamw", "callbacks=[ema,sample]",
         "callbacks.sample.length=16"),
    )),
    Kind("Poincaré, Riemannian optimisers", (
        ("model=poincare_mlp_nano", "model.learned_curvature=true", "model.drop_path_rate=0.1",
         *DIGITS, "optim=riemannian_adam", "callbacks=[geometry]", "logger=[csv]"),
        ("model=poincare_embedding_nano", "data=tree", *STEPS, "trainer.batch_size=4",
         "optim=riemannian_sgd", "callbacks=[reconstruction]", "logger=[csv]"),
    )),
    Kind("low rank, ranks that fall", (
        lowrank("=maestro", ".shrink_every=7", ".threshold=0.9"),
        lowrank("=trp", ".period=4", model="resnet_nano", optim="sgd"),
    )),
    Kind("low rank, restarts and switches", (
        lowrank("=relora", ".merge_every=7"),
        lowrank("=sltrain"),
        lowrank("=switchlora", ".interval=12", optim="step_adamw"),
        lowrank("=sst", ".resample_every=7"),
    )),
    Kind("table from CSV", (
        ("model=mlp_nano", "model.drop_rate=0.2", "data=tabular", "data.root=DATA",
         "data.table=table", *STEPS, *PLAIN),
        ("model=ldlt_mlp_nano", "data=tabular", "data.root=DATA", "data.table=table", *STEPS,
         "optim=adamw", "callbacks=[margin_loss]", "logger=[csv]"),
    )),
    Kind("images, two data workers", (
        ("model=mlp_nano", "data=imagefolder", "data.root=DATA/images", "data.img_size=8",
         "data.resize=8", "data.validation=0.2", "data.policy=trivial_augment", *STEPS,
         "trainer.batch_size=8", "trainer.evaluate_every=20", "trainer.workers=2", *PLAIN),
    )),
    Kind("ResNet, bfloat16, CutMix, every checkpoint kept", (
        ("model=resnet_nano", "model.drop_path_rate=0.1", *DIGITS, "trainer.amp=bf16",
         "trainer.cutmix=1", "trainer.keep_checkpoints=100", "optim=sgd", "callbacks=[none]",
         "logger=[csv,tensorboard]"),
    )),
    Kind("two processes", (
        ("model=mlp_nano", "model.drop_rate=0.2", *DIGITS, "optim=adamw", "callbacks=[ema]",
         "logger=[csv]"),
    ), ranks=2),
    Kind("sweep", (
        ("model=mlp_nano", *DIGITS, "trainer.steps=15", *PLAIN, "seed=0,1"),
        ("model=mlp_nano", *DIGITS, "trainer.steps=15", *PLAIN, "sweep=optuna",
         "hydra.sweeper.n_trials=3"),
    ), sweep=True),
)  # fmt: skip
