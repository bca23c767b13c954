"""What a file is that was given as weights and holds none: a page, a pointer, an archive, a bomb."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from string import hexdigits

from kdctl.errors import KdctlError
from kdctl.files import SAFETENSORS, WEIGHT_SUFFIXES, is_file, is_gone

_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS, not the file it stands for",
        "fetch it: git lfs pull, in the repository that it is from",
    ),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first: gunzip"),
    (b"BZh", "compressed by bzip2", "unpack it first: bunzip2"),
    (b"\xfd7zXZ\0", "compressed by xz", "unpack it first: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", "unpack it first: unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "an archive of 7-Zip", "unpack it first: 7z x"),
    (b"Rar!", "an archive of RAR", "unpack it first: unrar x"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them", "save the weights with torch or safetensors"),
    (b"\x93NUMPY", "an array of NumPy", "save the weights by name, with torch or safetensors"),
    (b"\x89PNG", "an image", "name a file of weights"),
    (b"\xff\xd8\xff", "an image", "name a file of weights"),
    (b"%PDF", "a PDF document", "name a file of weights"),
    (b"GGUF", "a GGUF file of a language model", "name weights of an image classifier"),
)

_PICKLE = b"\x80"
"""How a file begins that torch wrote before it wrote archives."""

_EXPORTED = {".onnx": "a model in ONNX, for other programs to run"}
"""What tells itself by no first bytes."""

_PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")

_SPARE_BYTES = 1 << 20
_MOST_GROWTH = 4
"""How many times its own size a file may unpack to: torch stores tensors as they are."""


class DamagedCheckpointError(KdctlError):
    """The file is not what was written, or never was a checkpoint."""


def names_a_file(word: str | Path) -> bool:
    """Return whether a word names a file, or what should be one, and not a run; that is called by its key.

    A folder of the key's name makes no difference: so run folders are called.
    """
    path, name = Path(word), str(word)
    if is_file(path) or set(name.lower()) <= set(hexdigits):
        return is_file(path)
    return os.sep in name or path.suffix.lower() in WEIGHT_SUFFIXES or not is_gone(path)


def require_weights(path: Path, data: bytes) -> None:
    """Refuse what can be told from its first bytes, or from its table of contents, without unpacking it.

    Raises:
        DamagedCheckpointError: it is no file of weights; says what it is and what to do.
    """
    if not data:
        raise DamagedCheckpointError(f"{path} is empty.", "get the file again: its download ended early.")
    for beginning, kind, hint in _BEGINNINGS:
        if data.startswith(beginning):
            raise DamagedCheckpointError(f"{path} is {kind}.", f"{hint}.")
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_PAGE):
        raise DamagedCheckpointError(
            f"{path} is a web page, not the file that was to be downloaded.",
            "open the address in a browser: it may ask for a login; then download the file itself.",
        )
    if data[257:262] == b"ustar" and b".storage" not in data[:512]:
        raise DamagedCheckpointError(f"{path} is an archive of tar.", "unpack it first: tar -xf.")
    if data.startswith(b"PK"):
        _require_archive_of_torch(path, data)
    elif not data.startswith(_PICKLE) and data[257:262] != b"ustar" and not is_safetensors(path, data):
        is_text = data.isascii() and "".join(data[:1024].decode().split()).isprintable()
        what = "a file of text" if is_text else "no file of torch or safetensors"
        raise DamagedCheckpointError(
            f"{path} is {_EXPORTED.get(path.suffix.lower(), what)}.",
            "use another copy, or a file of a model's state dict: torch.save(model.state_dict(), ...).",
        )


def is_safetensors(path: Path, data: bytes) -> bool:
    """Return whether a file is one of safetensors, by its name or by how it begins."""
    begins = data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data)
    return path.suffix.lower() == SAFETENSORS or begins


def _require_archive_of_torch(path: Path, data: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeError):
        return  # torch says what is wrong with it
    unpacked = sum(part.file_size for part in parts)
    if unpacked > _MOST_GROWTH * len(data) + _SPARE_BYTES:
        raise DamagedCheckpointError(
            f"{path} has {len(data):,} bytes and unpacks to {unpacked:,}: it is made to fill the memory.",
            "get the weights from a source that you trust.",
        )
    names = {part.filename.rpartition("/")[2] for part in parts}
    if "constants.pkl" in names:
        raise DamagedCheckpointError(
            f"{path} is a TorchScript program: loading it would run its code.",
            "ask its author for the state dict: torch.save(model.state_dict(), ...).",
        )
    if "archive_format" in names:
        raise DamagedCheckpointError(
            f"{path} is a program that torch exported (.pt2), for others to run.",
            "name the checkpoint that it was made from, or a file of the model's state dict.",
        )
    if "data.pkl" not in names:
        what = "arrays of NumPy (.npz)" if any(name.endswith(".npy") for name in names) else "a zip archive"
        raise DamagedCheckpointError(
            f"{path} is {what}, not a file of torch.", "unpack it, or save the weights by name with torch."
        )


def instead_of(path: Path) -> str:
    """Say what to name instead of a path that cannot be read as a file of weights."""
    if str(path).startswith(("http:", "https:")):
        return "download the file, and name that."
    if path.is_dir():
        return f"name a file of weights in it; if it is the folder of a run, the run by its key: {path.name}"
    return "check the path; name a file of weights."
