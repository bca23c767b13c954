"""Which file system a database lies on: WAL needs shared memory, which a network does not offer."""

from __future__ import annotations

from pathlib import Path

MOUNTS = Path("/proc/mounts")
"""Linux lists its mounted file systems here; other systems have no such file."""

NETWORK_FILESYSTEMS = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
        "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs",
        "fuse.beegfs", "fuse.ceph", "fuse.cephfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs",
        "fuse.rclone", "fuse.s3fs", "fuse.sshfs",
    }
)  # fmt: skip


def filesystem_of(path: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that `path` is on, as Linux calls it; empty if unknown."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    path = path.resolve()
    kind_by_place = {Path(_unescaped(place)): kind for _, place, kind, *_ in map(str.split, lines)}
    place = next((place for place in (path, *path.parents) if place in kind_by_place), None)
    return kind_by_place[place] if place else ""


def is_network(filesystem: str) -> bool:
    """Return whether several hosts may see a file system of this type."""
    return filesystem in NETWORK_FILESYSTEMS


def _unescaped(place: str) -> str:
    """Undo how /proc/mounts writes blanks, tabs, line breaks and backslashes."""
    for written, meant in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        place = place.replace(written, meant)
    return place
