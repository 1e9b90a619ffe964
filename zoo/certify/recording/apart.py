"""Operations of torch that no rule serves: they read no value, or more than a value."""

__all__ = ["ATTENTION", "NO_ATTENTION", "RESHAPED", "SHAPES", "VALUES"]

ATTENTION = ("scaled_dot_product", "native_multi_head_attention", "transformer_encoder_layer")
NO_ATTENTION = (
    "dot-product attention has no finite Lipschitz constant on all inputs (Kim et al. 2021, "
    "arXiv:2006.04710)"
)

VALUES = {
    "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::allclose",
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim",
}  # fmt: skip

RESHAPED = {
    "as_strided_", "squeeze_", "unsqueeze_", "t_", "transpose_", "swapaxes_", "swapdims_",
    "detach_",
}  # fmt: skip

SHAPES = {
    "aten::zeros_like", "aten::ones_like", "aten::empty_like", "aten::full_like",
    "aten::new_zeros", "aten::new_ones", "aten::new_empty", "aten::new_full",
    "aten::new_empty_strided", "aten::sym_size", "aten::sym_numel", "aten::sym_stride",
    "aten::is_same_size",
}  # fmt: skip
