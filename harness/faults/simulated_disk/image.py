"""The image of a folder: its files and folders as a value, read from disk or written to it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Image:
    """The content of a folder: the bytes of each file, and the folders, by relative path."""

    files: Mapping[str, bytes]
    folders: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: Path) -> Image:
        """Read a real folder."""
        paths = sorted(folder.rglob("*"))
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in paths if _is_file(path)
        }
        folders = {str(path.relative_to(folder)) for path in paths if path.is_dir()}
        return cls(files, frozenset(folders))

    def put_into(self, folder: Path) -> None:
        """Make a real folder hold exactly this image."""
        folder.mkdir(parents=True, exist_ok=True)
        present = Image.of(folder)
        for name in sorted(present.folders - self.folders):
            shutil.rmtree(folder / name, ignore_errors=True)  # a parent may have removed it already
        for name in present.files.keys() - self.files.keys():
            (folder / name).unlink(missing_ok=True)
        for name in sorted(self.folders):
            (folder / name).mkdir(exist_ok=True)
        for name, content in self.files.items():
            if present.files.get(name) != content:
                (folder / name).unlink(missing_ok=True)  # it may be a hard link
                (folder / name).write_bytes(content)

    def __hash__(self) -> int:
        return hash((frozenset(self.files.items()), self.folders))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
