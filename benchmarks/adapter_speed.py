"""Time of a training step and bytes of the optimiser with every adapter, over training all weights.

`gpt_tiny` with 8 windows of 128 bytes in bfloat16 arithmetic, as `adapter_novels.py` trains it, on
one thread; AdamW, and every preset at about the numbers that a LoRA of rank 8 trains. Steps are
interleaved, and ratios are medians over pairs. ReMix takes its step as two halves.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from adapter_novels import CONTEXT, RANK
from adapter_runs import Task, sized
from archzoo.layers.lowrank import Controller
from archzoo.zoo import adapt, create_model
from archzoo.zoo.axes.adapters import presets
from harness import Bar, Measurement, interleaved, main, median_ratio
from torch import Tensor, nn
from torch.nn import functional as F

FIXED: dict[str, dict[str, Any]] = {
    "increlora": {"warmup": 10**6},
    "lora_sb": {"gradients": False},
}
"""What a schedule or data would decide in a run."""

STEPS = 4
BATCH = 8


def settings_of(task: Task, name: str, size: dict[str, Any]) -> dict[str, Any]:
    """Settings of a preset as it is in the middle of a run."""
    given = {**size, **FIXED.get(name, {})}
    if "target_rank" in given:  # as large as it becomes
        given["rank"] = given["target_rank"]
    if "total_steps" in presets[name].options:
        given["total_steps"] = 1000
    return given


def stepper(
    model: nn.Module, controller: Controller | None, tokens: Tensor, halves: int
) -> tuple[Callable[[], float], torch.optim.Optimizer]:
    """A function that trains some steps and returns the seconds of one, and its optimiser."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)

    def loss_of(part: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(part[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())

    if controller is not None:
        controller.held_out = lambda number: loss_of(tokens)
        controller.attach(optimizer)

    def steps() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            for part in tokens.chunk(halves):
                loss, penalty = loss_of(part), None
                if controller is not None:
                    controller.note_loss(loss)
                    penalty = controller.penalty()
                (loss if penalty is None else loss + penalty).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return (time.perf_counter() - began) / STEPS

    return steps, optimizer


def measure(quick: bool) -> Measurement:
    """Time all methods and count what their optimisers keep."""
    torch.set_num_threads(1)
    task = Task(
        "gpt_tiny", (), "bits_per_byte", ["embedding.*"], BATCH, {"context_length": CONTEXT}
    )
    tokens = torch.randint(256, (BATCH, CONTEXT + 1))
    names = ("lora", "dora", "miss") if quick else None
    made: dict[str, tuple[Callable[[], float], torch.optim.Optimizer, int]] = {}
    for name, size in {"all weights": {}, **sized(task, RANK, names)}.items():
        torch.manual_seed(0)
        model = create_model(task.model, **task.options)
        controller = None
        if name != "all weights":
            controller = adapt(model, {"name": name, **settings_of(task, name, size)})
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        steps, optimizer = stepper(model, controller, tokens, 2 if name == "remix" else 1)
        steps()
        made[name] = steps, optimizer, numbers
    times = interleaved({name: steps for name, (steps, _, _) in made.items()}, 3 if quick else 9)
    held = {name: bytes_of(optimizer) for name, (_, optimizer, _) in made.items()}
    rows = [
        {
            "method": name,
            "trained": numbers,
            "optimiser, KiB": round(held[name] / 1024, 1),
            "optimiser over all weights": round(held[name] / held["all weights"], 4),
            "step over all weights": round(median_ratio(times[name], times["all weights"]), 3),
        }
        for name, (_, _, numbers) in made.items()
    ]
    (lora,) = (row for row in rows if row["method"] == "lora")
    return rows, [
        Bar(
            "bytes of the optimiser with LoRA over all weights",
            lora["optimiser over all weights"],
            0.1,
        ),
        Bar("step with LoRA over all weights", lora["step over all weights"], 1.25),
    ]


def bytes_of(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimiser's states."""
    kept = [v for state in optimizer.state.values() for v in state.values()]
    return sum(v.numel() * v.element_size() for v in kept if isinstance(v, Tensor))


if __name__ == "__main__":
    main("adapter_speed", measure)
