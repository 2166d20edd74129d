"""Ways to save a file: correct ones, and ones that each omit or misorder one step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

Saver = Callable[[Path, bytes], None]


def sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def correct(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_folder(path.parent)


def correct_with_buffer(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file)
    os.rename(temporary, path)  # noqa: PTH104  the older function
    sync_folder(path.parent)


def unsynced(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
    sync_folder(path.parent)


def folder_unsynced(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(data.decode())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def in_place(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file)
    sync_folder(path.parent)


def removed_first(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    correct(path, data)


def error_ignored(path: Path, data: bytes) -> None:
    try:
        correct(path, data)
    except OSError:
        return


def short_write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_folder(path.parent)


def retried_sync(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data)
        try:
            os.fsync(fd)
        except OSError:
            os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_folder(path.parent)
