"""A digest of content: what tensors and plain values hold, whatever file they lie in."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["DIGEST", "content_digest", "sealed", "unsealed"]

DIGEST = "digest"
"""Under which key a file keeps the digest of what else it holds."""


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


def sealed(content: Mapping[str, Any]) -> str:
    """Write a mapping as JSON that holds a digest of itself; what JSON does not know is a string.

    `unsealed` reads it.
    """
    plain = json.loads(json.dumps(content, default=str))
    return json.dumps({**plain, DIGEST: content_digest(plain)}, indent=2) + "\n"


def unsealed(text: bytes) -> dict[str, Any]:
    """Read a mapping that `sealed` wrote; earlier versions wrote no digest.

    Raises:
        ValueError: it is no mapping, or not what was written.
    """
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    digest = content.pop(DIGEST, None)
    if digest is not None and digest != content_digest(content):
        raise ValueError("its content has another digest than when it was written")
    return content
