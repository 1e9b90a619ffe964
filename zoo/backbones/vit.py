"""Vision Transformer over any residual.

Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv:2010.11929; the sizes tiny,
small and base are those of Touvron et al. 2021 (DeiT), arXiv:2012.12877; registers are from Darcet
et al. 2024, arXiv:2309.16588.
Differs from them: the residual is a choice; registers and the class token carry no position.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...layers.decay import exclude_from_decay
from ...layers.residual import Site
from ..axes.residuals import ResidualSpec, make_residual
from ..models import register_model
from ..network import Network, check_rates, check_sizes, image_cfg
from ..recipe import record
from ..trunk import Trunk, drop_path_rates
from .self_attention import SelfAttention

__all__ = ["VisionTransformer", "vit_base", "vit_nano", "vit_small", "vit_tiny"]


class VisionTransformer(Network):
    """Patches, attention and MLP branches, and a class token or mean pool.

    Args:
        num_classes: Length of the logits; 0 for features.
        in_chans: Image channels.
        img_size: Side of the square image in pixels; a multiple of patch_size.
        patch_size: Side of a patch in pixels.
        width: Token width; a multiple of num_heads.
        depth: Blocks, each an attention and an MLP branch.
        num_heads: Attention heads.
        mlp_ratio: Hidden width of the MLP over `width`.
        registers: Extra learned tokens that no head reads.
        global_pool: `token` reads the class token, `avg` the mean of the patch tokens.
        qk_norm: Whether queries and keys are layer-normed.
        residual: The residual mechanism: a name, a mapping or a builder.
        drop_rate: Dropout before the head and inside the MLPs, in [0, 1).
        drop_path_rate: Stochastic depth of the last branch, in [0, 1).

    Shape:
        (B, in_chans, img_size, img_size) -> (B, num_classes).

    Raises:
        ValueError: sizes that do not divide, or an unknown residual or pool.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        img_size: int = 224,
        patch_size: int = 16,
        width: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        registers: int = 0,
        global_pool: Literal["token", "avg"] = "token",
        qk_norm: bool = False,
        residual: ResidualSpec = "add",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Build the patch embedding, the trunk and the head."""
        check_sizes(1, in_chans=in_chans, img_size=img_size, patch_size=patch_size)
        check_sizes(1, width=width, depth=depth, num_heads=num_heads)
        check_sizes(0, registers=registers)
        check_rates(drop_rate=drop_rate)
        check_sizes(1, **{"mlp_ratio · width": int(mlp_ratio * width)})
        if img_size % patch_size:
            raise ValueError(
                f"patch_size={patch_size} does not divide img_size={img_size}; "
                f"choose a patch_size among {_divisors(img_size)}"
            )
        if width % num_heads:
            raise ValueError(
                f"num_heads={num_heads} does not divide width={width}; choose a divisor"
            )
        # timm takes seconds to import, so only a model that uses its layers pays.
        from timm.layers import Mlp, PatchEmbed

        super().__init__(**image_cfg(in_chans, img_size, "patch_embed.proj"))
        self.num_features = width
        self.set_global_pool(global_pool)
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, width)
        self.pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.num_patches, width))
        # The class token exists under either pool, so that the pool can be changed later.
        self.prefix = nn.Parameter(torch.empty(1, 1 + registers, width))
        exclude_from_decay(self, "pos_embed", "prefix")

        sites, branches = [], []
        for block in range(depth):
            attention = SelfAttention(width, num_heads, qk_norm=qk_norm)
            branches += [attention, Mlp(width, int(width * mlp_ratio), drop=drop_rate)]
            sites += [Site("attention", block), Site("mlp", block)]
        self.trunk = Trunk(
            make_residual(residual, width, sites),
            branches,
            [nn.LayerNorm(width, eps=1e-6) for _ in branches],
            drop_path_rates(drop_path_rate, len(branches)),
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self._reset_parameters()
        self._set_head(num_classes)

    def _reset_parameters(self) -> None:
        """Xavier for weights as in the original, at any width; tables of std 0.02; zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.trunk.apply_branch_gain()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.prefix, std=0.02)

    def set_global_pool(self, global_pool: str) -> None:
        """Choose `token` or `avg`."""
        if global_pool not in ("token", "avg"):
            raise ValueError(f"global_pool must be 'token' or 'avg', got {global_pool!r}")
        self.global_pool = global_pool
        record(self, global_pool=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the normed tokens (B, 1 + registers + patches, width)."""
        x = self.patch_embed(x) + self.pos_embed
        x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        return self.norm(self.trunk(x))

    def pool(self, x: Tensor) -> Tensor:
        """Return the class token or the mean patch token (B, width)."""
        pooled = x[:, 0] if self.global_pool == "token" else x[:, self.prefix.shape[1] :].mean(1)
        return self.head_drop(pooled)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@register_model(source="arXiv:2010.11929", kind="image", extends=VisionTransformer)
def vit_nano(
    num_classes: int = 10,
    in_chans: int = 1,
    img_size: int = 8,
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
