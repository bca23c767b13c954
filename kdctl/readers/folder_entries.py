"""What lies in folders of images: which entries are images, and which would be dropped in silence.

One rule for all data sets of files: what is hidden, or no image by its suffix, is not meant. An image one
folder too deep or too high, a link that points nowhere, and what is no file are named, for leaving them
out would train on other data than lie there.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdctl.errors import KdctlError, nearest_name
from kdctl.files import at_home, open_file
from kdctl.readers.pixels import IMAGE_SUFFIXES, UNREAD_SUFFIXES

_log = logging.getLogger(__name__)

_ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"})
"""What may hold images that nobody has unpacked."""

_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8")
"""Of pictures that are read, whatever they are called."""

_SHOWN = 3
"""How many offenders an error names before it counts the rest."""


def data_folder(
    path: str, root: Path, *, layout: str = f"train{os.sep}<class>{os.sep} and test{os.sep}<class>{os.sep}"
) -> Path:
    """Return the folder that an option `data.path` means: absolute, or below the data root.

    Args:
        path: the option.
        root: folder of data sets.
        layout: what belongs into it, in words.

    Raises:
        KdctlError: there is none; says where it was looked for, and whether it lies where one stands.
    """
    named = Path(at_home(path, "data.path"))
    folder, here = root / named, named.absolute()
    if folder.is_dir():
        return folder
    meant = "" if named.is_absolute() else f" (data.path = '{path}' is looked for below --data {root})"
    hint = f"put {layout} into it, or name another folder{': --data' if meant else ''}."
    if meant and here.is_dir():
        hint = f"it lies where you stand: -o data.path={shlex.quote(str(here))}, or another --data."
    raise KdctlError(f"there is no folder {folder}{meant}.", hint)


def require_split(folder: Path, hint: str) -> None:
    """Refuse a split's folder that is not there; say if another one may be meant, or the one above.

    Raises:
        KdctlError: `hint` says what belongs there.
    """
    if folder.is_dir():
        return
    if folder.name == folder.parent.name:
        hint = f"data.path is the folder that holds {folder.name}: {folder.parent.parent}."
    try:
        with os.scandir(folder.parent) as entries:
            near = nearest_name(folder.name, [entry.name for entry in entries if entry.is_dir()])
    except OSError:
        near = None
    if near:
        hint = f"is it {folder.with_name(near)}? Then call it {folder.name}; else {hint}"
    raise KdctlError(f"there is no folder {folder}.", hint)


@dataclass
class UnusableEntries:
    """What lies where images or classes should, and is none of them."""

    _nested: list[str] = field(default_factory=list[str])
    _outside: list[str] = field(default_factory=list[str])
    _dangling: list[str] = field(default_factory=list[str])
    _no_files: list[str] = field(default_factory=list[str])
    _unread: list[str] = field(default_factory=list[str])
    _misnamed: list[str] = field(default_factory=list[str])
    _packed: list[str] = field(default_factory=list[str])

    def folders_of(self, folder: Path, *, only: str = "") -> list[os.DirEntry[str]]:
        """Return the folders of a folder that holds only folders, by name; note the rest.

        Args:
            folder: to look into.
            only: the one that is read; images in others are noted. Empty: all are.

        Raises:
            KdctlError: it may not be read.
        """
        folders = [entry for entry in visible_entries(folder) if self._is_folder(entry)]
        if not folders:
            self._outside.clear()  # that there is no folder for them is what has to be said
        if not only:
            return folders
        self._nested += [_place(entry) for entry in folders if entry.name != only and _has_images(entry)]
        return [entry for entry in folders if entry.name == only]

    def images_of(self, folder: Path) -> list[os.DirEntry[str]]:
        """Return the images of a folder that holds only images, by name; note the rest.

        Raises:
            KdctlError: it may not be read.
        """
        return [entry for entry in visible_entries(folder) if self._is_image(entry)]

    def refuse(self, folder: Path) -> None:
        """Raise if something below `folder` was noted; of what is left out only tell.

        Raises:
            KdctlError: counts all of it, by kind, and names the first few.
        """
        kinds = (
            (self._nested, "folders with images within folders of images", "move their images up"),
            (self._outside, "images outside of the folders of images", "move them into one of these"),
            (self._dangling, "links that point nowhere", "restore what they point to, or remove them"),
            (self._no_files, "entries that are neither files nor folders", "remove them"),
        )
        found = [(names, what, how) for names, what, how in kinds if names]
        if found:
            listed = "; ".join(f"{what}: {len(names)} ({some_of(names)})" for names, what, _ in found)
            raise KdctlError(f"{folder} has {listed}.", f"{'; '.join(how for _, _, how in found)}.")
        left_out = (
            (self._unread, "pictures in formats that are not read", "save them as JPEG or PNG"),
            (
                self._misnamed,
                "pictures whose names do not end as those of pictures",
                "call them .jpg or .png",
            ),
            (self._packed, "archives", "unpack them, if they hold images"),
        )
        for names, what, how in left_out:
            if names:
                _log.warning(
                    "%s: %s are left out: %d (%s); %s", folder, what, len(names), some_of(names), how
                )

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        try:
            if entry.is_dir():
                return True
            if _points_nowhere(entry):
                self._dangling.append(_place(entry))
            elif not entry.is_file():
                self._no_files.append(_place(entry))
            elif is_image_name(entry.name):
                self._outside.append(_place(entry))
            elif _suffix(entry.name) in _ARCHIVES:
                self._packed.append(_place(entry))
        except OSError:  # a link to itself
            self._dangling.append(_place(entry))
        return False

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        is_image = is_image_name(entry.name)
        try:
            if is_image and entry.is_file():
                return True
            if entry.is_dir():
                if _has_images(entry):
                    self._nested.append(_place(entry))
            elif _points_nowhere(entry):
                self._dangling.append(_place(entry))
            elif is_image:
                self._no_files.append(_place(entry))
            elif _suffix(entry.name) in UNREAD_SUFFIXES:
                self._unread.append(_place(entry))
            elif _suffix(entry.name) in _ARCHIVES:
                self._packed.append(_place(entry))
            elif _begins_as_picture(entry):
                self._misnamed.append(_place(entry))
        except OSError:  # a link to itself
            self._dangling.append(_place(entry))
        return False


def visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder and not hidden, by name.

    Raises:
        KdctlError: it may not be read.
    """
    try:
        with os.scandir(folder) as entries:
            seen = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise KdctlError(
            f"the folder {folder} cannot be read: {error.strerror}.", "allow reading it, or restore it."
        ) from error
    return sorted(seen, key=lambda entry: entry.name)


def is_image_name(name: str) -> bool:
    """Return whether a file is an image by its suffix."""
    return _suffix(name) in IMAGE_SUFFIXES


def some_of(names: Sequence[str]) -> str:
    """Word a list: the first few in full, the rest counted."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - 3x faster


def _points_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - loops are no error


def _begins_as_picture(entry: os.DirEntry[str]) -> bool:
    try:
        with open_file(Path(entry.path)) as file:
            return file.read(8).startswith(_BEGINNINGS)
    except OSError:
        return False


def _place(entry: os.DirEntry[str]) -> str:
    return f"{Path(entry.path).parent.name}/{entry.name}"


def _has_images(folder: os.DirEntry[str]) -> bool:
    """Return whether there is an image below a folder, or a part of it that may not be looked into."""
    hidden: list[OSError] = []
    found = any(
        is_image_name(name) for _, _, names in os.walk(folder.path, onerror=hidden.append) for name in names
    )
    return found or bool(hidden)
