"""What every model of the zoo answers, under the names that timm's users know."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..layers.decay import decay_exclusions
from ..layers.lowrank import Controller
from .depth import blocks_of, layer_order
from .recipe import Recipe, record
from .recomputation import RecomputedSequential
from .trunk import Trunk

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "HeadBuilder",
    "ImageSize",
    "Network",
    "image_cfg",
    "image_sides",
    "linear_head",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


HeadBuilder = Callable[[int, int], nn.Module]

ImageSize = int | tuple[int, int]
"""The side of a square image in pixels, or height and width."""


class Network(nn.Module):
    """A backbone with a head: features, logits and the handles that fine-tuning scripts use.

    A subclass sets `num_features`, calls `_set_head` and implements `forward_features` and `pool`.

    Attributes:
        num_classes: Length of the logits; 0 means that the features come out.
        num_features: Length of the pooled features.
        default_cfg: Input size, statistics and layer names, as timm writes them.
        conventions: What of that is known from the data of a training; see `follow_data`.
        recipe: How `create_model` would build it; what `save_model` writes. None where no recipe
            leads to it; `lost_recipe` says what was done to it, if it had one.
        shared: What its layers have in common and a residual may take: curvature, number of heads.
        lowrank: What happens to factored weights in training, or None where all weights are dense
            and stay as the optimiser leaves them. A copy of the model has a controller of its own.
    """

    head: nn.Module
    make_head: HeadBuilder
    num_features: int
    num_classes: int

    def __init__(self, **default_cfg: Any) -> None:
        """Keep the facts that timm's data and training tools read off a model."""
        super().__init__()
        self.default_cfg: dict[str, Any] = {"classifier": "head", **default_cfg}
        self.recipe: Recipe | None = None
        self.lost_recipe: str | None = None
        self.shared: dict[str, Any] = {}
        self.lowrank: Controller | None = None
        self.make_head = linear_head
        self.conventions: dict[str, Any] = {}

    def follow_data(self, **conventions: Any) -> None:
        """Record how the data are prepared that the model is trained on; `save_model` keeps it.

        The facts join `default_cfg`, where timm's `resolve_model_data_config` finds them.

        Args:
            conventions: Plain values under timm's names: `input_size`, `mean`, `std`, `crop_pct`,
                `crop_mode`, `interpolation`, `label_names`; and `encoder`, that of a table's rows.
        """
        self.conventions |= conventions
        self.default_cfg |= conventions

    @property
    def logits_are_odds(self) -> bool:
        """Whether each logit of a sample is the log-odds of that one candidate.

        The loss is then binary for each candidate; else the logits are of one choice among all.
        """
        return False

    def follow_graph(self, edges: Tensor, features: Tensor | None = None) -> None:
        """Take over the graph whose nodes the samples are; a model that looks at none has no use.

        Args:
            edges: Of the training fold, undirected, each once, int64 (E, 2).
            features: Of the nodes, (N, F).
        """

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The same facts under timm's other name."""
        return self.default_cfg

    @property
    def head_hidden_size(self) -> int:
        """Length of what the head reads, under timm's other name."""
        return self.num_features

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features before pooling."""
        raise NotImplementedError

    def pool(self, x: Tensor) -> Tensor:
        """Reduce features to what the head reads."""
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the features and, unless `pre_logits`, classify them."""
        x = self.pool(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one; 0 classes removes it.

        Raises:
            ValueError: num_classes < 0, or a global_pool that the model does not have.
        """
        if global_pool is not None:
            self.set_global_pool(global_pool)
        self._set_head(num_classes)
        record(self, num_classes=num_classes)

    def set_global_pool(self, global_pool: str) -> None:
        """Choose the pooling; models with one kind refuse."""
        raise ValueError(f"{type(self).__name__} has no choice of global_pool, got {global_pool!r}")

    def use_head(self, make_head: HeadBuilder) -> None:
        """Classify by another kind of head, now and after every `reset_classifier`.

        `save_model` refuses it, unless it is the kind that the recipe makes: a kind that is known
        by name, as in `archzoo.zoo.models.heads`, is recorded by the function that calls this one.

        Args:
            make_head: Makes a head with `in_features` and `out_features` of these two numbers.
        """
        self.make_head = make_head
        self._set_head(self.num_classes)
        record(self, drop=("classifier",))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone, for timm's optimisers."""
        return decay_exclusions(self)

    def stages_of_blocks(self) -> list[list[list[nn.Module]]]:
        """The modules of each block of each stage, in order; a trunk is one stage."""
        return [blocks_of(module) for module in self.modules() if isinstance(module, Trunk)]

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[float, ...]]:
        """Order parameters by depth, for timm's layer-wise learning rates; see `layer_order`.

        Args:
            coarse: Whether a stage is one group, and not each of its blocks.
        """
        head = self.default_cfg["classifier"]
        return layer_order(self, self.stages_of_blocks(), head, coarse=coarse)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each branch in the backward pass instead of keeping its activations.

        Raises:
            ValueError: the network has no branches and no blocks.
        """
        found = [m for m in self.modules() if isinstance(m, Trunk | RecomputedSequential)]
        if enable and not found:
            raise ValueError(
                f"{type(self).__name__} has no blocks whose activations could be computed again; "
                f"leave gradient checkpointing off"
            )
        for module in found:
            module.grad_checkpointing = enable

    def compile_blocks(self, **options: Any) -> None:
        """Compile each branch in place, and not the network as a whole.

        Branches that differ in their weights only share their compiled code, so this starts in a
        fraction of the time of `model.compile()`, whose graph has every branch once. What joins
        the branches, the residual and its norms, runs as it is.

        Args:
            options: Those of `torch.compile`.

        Raises:
            ValueError: the network has no branches and no blocks.
        """
        found = [
            part
            for module in self.modules()
            if isinstance(module, Trunk | RecomputedSequential)
            for part in (module.branches if isinstance(module, Trunk) else module)
        ]
        if not found:
            raise ValueError(
                f"{type(self).__name__} has no blocks to compile; compile the model as a whole"
            )
        # Every kind and shape of a branch is one more entry under the same few frames.
        options.setdefault("recompile_limit", len(found) + 8)
        for part in found:
            part.compile(**options)

    def _set_head(self, num_classes: int) -> None:
        if num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, got {num_classes}")
        self.num_classes = num_classes
        self.default_cfg["num_classes"] = num_classes
        like = next(self.parameters())
        if num_classes == 0:
            self.head = nn.Identity()
        else:
            head = self.make_head(self.num_features, num_classes)
            self.head = head.to(device=like.device, dtype=like.dtype)


def linear_head(in_features: int, out_features: int) -> nn.Linear:
    """Make a linear head with small weights, so that a fresh network is nearly undecided."""
    head = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def image_sides(img_size: ImageSize) -> tuple[int, int]:
    """Height and width of images.

    Raises:
        ValueError: a side below 1, or another number of sides than one or two.
    """
    sides = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(sides) != 2:
        raise ValueError(f"img_size must be a side, or height and width, got {img_size}")
    if min(sides) < 1:
        raise ValueError(f"img_size must be at least 1, got {img_size}")
    return sides


def image_cfg(in_chans: int, img_size: ImageSize, first_conv: str) -> dict[str, Any]:
    """Write timm's facts for an image model."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if in_chans == 3 else ((0.5,) * in_chans,) * 2
    return {
        "input_size": (in_chans, *image_sides(img_size)),
        "mean": mean,
        "std": std,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "first_conv": first_conv,
    }
