"""A digest of content: what tensors and plain values hold, whatever file they lie in."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["content_digest"]


def content_digest(content: Any) -> str:
    """Return the SHA-256 of nested mappings, lists and tuples of tensors and plain values.

    Two contents have one digest where they have the same keys in the same order, the same plain
    values, and tensors of the same dtype, shape and bits. So a flipped bit of a file changes the
    digest wherever it changes what is read.
    """
    digest = hashlib.sha256()

    def add(content: Any) -> None:
        if isinstance(content, Tensor):
            digest.update(f"tensor {content.dtype} {tuple(content.shape)}".encode())
            # Numpy knows no bfloat16; bytes are the same for all.
            flat = content.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(flat.numpy().data)
        elif isinstance(content, Mapping):
            digest.update(f"mapping {len(content)}".encode())
            for key, value in content.items():
                add(key)
                add(value)
        elif isinstance(content, (list, tuple)):
            digest.update(f"sequence {len(content)}".encode())
            for value in content:
                add(value)
        else:
            digest.update(f"{type(content).__name__} {content!r}\0".encode())

    add(content)
    return digest.hexdigest()
