"""Files that may be missing: one message, one download, one fingerprint."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

__all__ = ["download_and_unpack", "fingerprint", "require"]


def require(
    name: str, folder: Path, files: Iterable[str] = (), *, hint: str = "give data.root=…"
) -> None:
    """Check that a data set's folder and files are there.

    Args:
        name: Of the data set.
        folder: Where it should lie.
        files: What the folder should hold.
        hint: What to do about it.

    Raises:
        ValueError: naming the folder, the first missing file and the option to give.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise ValueError(f"{name} was not found in {folder}; {hint}")
    for file in files:
        if not (folder / file).is_file():
            raise ValueError(f"{name} was not found in {folder}: {file} is missing; {hint}")


def download_and_unpack(name: str, addresses: Sequence[str], folder: Path, md5: str) -> None:
    """Fetch an archive from the first address that answers, check it and unpack it.

    Args:
        name: Of the data set.
        addresses: Where the archive is served.
        folder: Where to keep and unpack it.
        md5: Of the archive.

    Raises:
        ValueError: no address gave the archive; the message holds each reason.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    reasons = []
    for address in addresses:
        try:
            download_and_extract_archive(address, str(folder), md5=md5)
            return
        # OSError covers URLError; torchvision reports a wrong checksum as a RuntimeError.
        except (OSError, RuntimeError) as error:
            reasons.append(f"{address}: {error}")
    raise ValueError(
        f"{name} could not be downloaded to {folder.absolute()} ({'; '.join(reasons)});"
        " check the network or put the files there"
    )


def fingerprint(*tensors: Tensor) -> str:
    """Return the SHA-256 of the tensors' bytes, one after another."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
