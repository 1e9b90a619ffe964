"""Vision Transformer over any residual, in any geometry.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv:2010.11929; the sizes tiny,
small and base are those of Touvron et al. 2021 (DeiT), arXiv:2012.12877; registers are from Darcet
et al. 2024, arXiv:2309.16588.
Differs from them: residual and geometry are choices; registers and the class token carry no
position.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...layers.decay import exclude_from_decay
from ...layers.residual import Site
from ...layers.sizes import check_rates, check_sizes
from ..axes.geometry import GeometryName, HeadName, choose_geometry, give_head
from ..axes.residuals import ResidualSpec, make_residual
from ..depth import block_ends, handed_on
from ..image_network import ImageNetwork
from ..models import register_model
from ..network import ImageSize, image_sides
from ..trunk import Trunk, drop_path_rates
from .feed_forward import FeedForward
from .self_attention import SelfAttention

__all__ = ["VisionTransformer", "vit_base", "vit_nano", "vit_small", "vit_tiny"]


class VisionTransformer(ImageNetwork):
    """Patches, attention and MLP branches, and a class token or mean pool.

    Args:
        num_classes: Length of the logits; 0 for features.
        in_chans: Image channels.
        img_size: Side of the images in pixels, or height and width; multiples of patch_size.
        patch_size: Side of a patch in pixels.
        width: Token width; a multiple of num_heads.
        depth: Blocks, each an attention and an MLP branch.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over `width`.
        registers: Extra learned tokens that no head reads.
        global_pool: `token` reads the class token, `avg` the mean of the patch tokens; `""` gives
            all tokens where there is no head.
        qk_norm: Whether queries and keys are layer-normed; None is in a curved space only.
        residual: The residual mechanism: a name, a mapping or a builder.
        geometry: The space of the tokens: `euclidean`, `poincare` or `lorentz`.
        curvature: c > 0, minus the sectional curvature; None is 0.1 in a curved space.
        learned_curvature: Whether c is learned, one for all layers.
        head: `linear`, `mlr` (distances to hyperplanes) or `distance` (to points); None is
            `linear` in flat space and `mlr` in a curved one.
        drop_rate: Dropout before the head and inside the MLPs, in [0, 1).
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).
        attn_drop_rate: Dropout of the attention weights, in [0, 1), in flat space.

    Shape:
        (B, in_chans, H, W) -> (B, num_classes), at H and W of img_size.

    Raises:
        ValueError: sizes that do not divide, an unknown residual or pool, a residual or a head of
            another space, attention dropout in a curved one, or a curvature that nothing has.
    """

    pools = ("token", "avg", "")

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: ImageSize = 224,
        patch_size: int = 16,
        width: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        registers: int = 0,
        global_pool: Literal["token", "avg", ""] = "token",
        qk_norm: bool | None = None,
        residual: ResidualSpec = "add",
        geometry: GeometryName = "euclidean",
        curvature: float | None = None,
        learned_curvature: bool = False,
        head: HeadName | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ) -> None:
        """Build the patch embedding, the trunk and the head."""
        check_sizes(1, patch_size=patch_size, width=width, depth=depth, num_heads=num_heads)
        check_sizes(0, registers=registers)
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate)
        check_sizes(1, **{"mlp_ratio · width": int(mlp_ratio * width)})
        sides = image_sides(img_size)
        if any(side % patch_size for side in sides):
            raise ValueError(
                f"patch_size={patch_size} does not divide img_size={img_size}; "
                f"choose a patch_size among {_divisors(math.gcd(*sides))}"
            )
        if width % num_heads:
            raise ValueError(
                f"num_heads={num_heads} does not divide width={width}; choose a divisor"
            )
        space = choose_geometry(
            geometry,
            curvature=curvature,
            learned_curvature=learned_curvature,
            head=head,
            residual=residual,
        )
        # timm takes seconds to import, so only a model that uses its layers pays.
        from timm.layers import PatchEmbed

        facts = {"num_classes": num_classes, "global_pool": global_pool, "fixed_input_size": True}
        super().__init__(in_chans, sides, "patch_embed.proj", **facts)
        self.num_classes = num_classes
        self.num_features = width
        self.patch_embed = PatchEmbed(sides, patch_size, in_chans, width)
        self.pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.num_patches, width))
        # The class token exists under either pool, so that the pool can be changed later.
        self.prefix = nn.Parameter(torch.empty(1, 1 + registers, width))
        exclude_from_decay(self, "pos_embed", "prefix")

        sites, branches = [], []
        for block in range(depth):
            branches += [
                SelfAttention(
                    width, num_heads, qk_norm=qk_norm, drop_rate=attn_drop_rate, space=space
                ),
                FeedForward(width, int(width * mlp_ratio), drop_rate, space=space),
            ]
            sites += [Site("attention", block), Site("mlp", block)]
        self.trunk = Trunk(
            make_residual(residual, width, sites, shared=space.shared),
            branches,
            [space.layer_norm(width, eps=1e-6) for _ in branches],
            drop_path_rates(drop_path_rate, len(branches)),
        )
        self.norm = space.layer_norm(width, eps=1e-6)
        self.num_prefix_tokens = 1 + registers
        self.head_drop = nn.Dropout(drop_rate)
        self.space = space
        self._reset_parameters()
        give_head(self, space, head)

    def _reset_parameters(self) -> None:
        """Xavier for weights as in the original, at any width; tables of std 0.02; zero biases."""
        for layer in self.space.linear_layers(self):
            nn.init.xavier_uniform_(layer.weight, gain=self.space.weight_scale)
            if getattr(layer, "bias", None) is not None:
                nn.init.zeros_(layer.bias)
        self.trunk.apply_branch_gain()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.prefix, std=0.02)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Each block; what enters the norm of the next is what it hands on."""
        *between, last = block_ends(self.trunk)
        seen = [
            {"module": f"trunk.norms.{site}{view}", "hook_type": "forward_pre"}
            for site in between
            for view in [".value" if "value" in self.trunk.residual.views(site) else ""]
        ]
        facts = {"num_chs": self.num_features, "reduction": self.patch_embed.patch_size[0]}
        return [{**facts, **one} for one in [*seen, {"module": "trunk"}]]

    @property
    def global_pool(self) -> str:
        """The pool, under timm's name."""
        return self.pool_type

    def embed(self, x: Tensor) -> Tensor:
        """Return class token, registers and patches (B, 1 + registers + patches, width)."""
        x = self.patch_embed(x) + self.pos_embed
        return torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed tokens (B, 1 + registers + patches, width)."""
        return self.norm(self.trunk(self.embed(x)))

    def depths(self, x: Tensor, taken: set[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield what the blocks hand on (B, 1 + registers + patches, width)."""
        return handed_on(self.trunk, self.embed(x), taken)

    def as_map(self, h: Tensor) -> Tensor:
        """Arrange the patch tokens as (B, width, H, W)."""
        patches = h[:, self.num_prefix_tokens :].mT.contiguous()
        return patches.unflatten(2, self.patch_embed.grid_size)

    def pool(self, x: Tensor) -> Tensor:
        """Return the class token or the mean patch token (B, width)."""
        patches = x[:, self.num_prefix_tokens :]
        token = self.pool_type == "token"
        pooled = x[:, 0] if token else self.space.mean(patches, over=1, dim=-1)
        return self.head_drop(pooled)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@register_model(source="arXiv:2010.11929", kind="image", extends=VisionTransformer)
def vit_nano(
    num_classes: int = 10,
    in_chans: int = 1,
    img_size: ImageSize = 8,
    patch_size: int = 2,
    width: int = 64,
    depth: int = 4,
    num_heads: int = 4,
    **options: Any,
) -> VisionTransformer:
    """The smallest ViT, for tests and 8×8 images such as scikit-learn's digits."""
    image = {"in_chans": in_chans, "img_size": img_size, "patch_size": patch_size}
    sizes = {"width": width, "depth": depth, "num_heads": num_heads}
    return VisionTransformer(num_classes=num_classes, **image, **sizes, **options)


@register_model(source="arXiv:2012.12877", kind="image", extends=VisionTransformer)
def vit_tiny(
    width: int = 192, depth: int = 12, num_heads: int = 3, **options: Any
) -> VisionTransformer:
    """ViT-Ti/16, 5.7 M parameters."""
    return VisionTransformer(width=width, depth=depth, num_heads=num_heads, **options)


@register_model(source="arXiv:2012.12877", kind="image", extends=VisionTransformer)
def vit_small(
    width: int = 384, depth: int = 12, num_heads: int = 6, **options: Any
) -> VisionTransformer:
    """ViT-S/16, 22 M parameters."""
    return VisionTransformer(width=width, depth=depth, num_heads=num_heads, **options)


@register_model(source="arXiv:2010.11929", kind="image", extends=VisionTransformer)
def vit_base(
    width: int = 768, depth: int = 12, num_heads: int = 12, **options: Any
) -> VisionTransformer:
    """ViT-B/16, 86 M parameters."""
    return VisionTransformer(width=width, depth=depth, num_heads=num_heads, **options)
