"""The labels of ImageNet's validation images as its development kit gives them.

`ILSVRC2012_validation_ground_truth.txt` has one number for each image, in the order of the images' names. The
numbers are the kit's own, from 1; `meta.mat` beside it says which class folder each of them means. They are
no alphabetical ranks, so without that file they tell nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdctl.errors import KdctlError
from kdctl.files import read_file, unreadable
from kdctl.readers.folder_entries import some_of
from kdctl.text import plural

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"

_FOLDERS = ("", "ILSVRC2012_devkit_t12/data", "data")
"""Where it lies beside or within a folder of images, in this order."""

_META = "meta.mat"

_LARGEST_FILE = 2**27
"""Bytes of a ground truth: of more images than there are."""


def find_ground_truth(*roots: Path) -> Path | None:
    """Return the first file of this kind below one of the folders; None: there is none."""
    places = [root / folder / GROUND_TRUTH for root in roots for folder in _FOLDERS]
    return next((place for place in places if place.is_file()), None)


def ground_truth_labels(path: Path, images: Sequence[str], class_names: Sequence[str]) -> dict[str, int]:
    """Return the rank among `class_names` of each image.

    Args:
        path: of the ground truth.
        images: file names of all validation images, in any order.
        class_names: folders of the training set (WordNet numbers), alphabetical.

    Raises:
        KdctlError: there are more or fewer lines than images, a line is no number, `meta.mat` is missing or
            has another form, or a class is none of the training set's.
    """
    try:
        lines = read_file(path, at_most=_LARGEST_FILE).decode("utf-8-sig", "replace").split()
    except OSError as error:
        raise unreadable(path, error) from error
    names = sorted(images)
    if len(lines) != len(names):
        raise KdctlError(
            f"{path} has {plural(len(lines), 'line')} for {plural(len(names), 'image')}.",
            "unpack ILSVRC2012_img_val.tar and the development kit anew.",
        )
    folders = _folders_by_number(path.with_name(_META))
    ranks = {name: rank for rank, name in enumerate(class_names)}
    found = [ranks.get(folders.get(line, ""), -1) for line in lines]
    wrong = [f"line {number}" for number, rank in enumerate(found, 1) if rank < 0]
    if wrong:
        raise KdctlError(
            f"{path} names no class of the training set in {plural(len(wrong), 'line')}: {some_of(wrong)}.",
            "call the class folders of train by their WordNet numbers (n01440764), and keep all of them.",
        )
    return dict(zip(names, found, strict=True))


def _folders_by_number(path: Path) -> dict[str, str]:
    """Return the name of each class folder by the kit's number."""
    if not path.is_file():
        raise KdctlError(
            f"there is no {path}, which says what the numbers in {GROUND_TRUTH} mean.",
            "copy it from the development kit (ILSVRC2012_devkit_t12/data/meta.mat).",
        )
    from scipy.io import loadmat  # noqa: PLC0415 - slow to import, and only this layout needs it

    try:
        synsets: Any = loadmat(path, squeeze_me=True)["synsets"]
        numbers, names, children = (synsets[key] for key in ("ILSVRC2012_ID", "WNID", "num_children"))
        leaves = zip(numbers, names, children, strict=True)
        return {str(int(number)): str(name) for number, name, below in leaves if int(below) == 0}
    except Exception as error:  # SciPy raises whatever it meets in a damaged file
        raise KdctlError(
            f"{path} is not the meta.mat of the development kit ({error}).", "unpack the kit anew."
        ) from error
