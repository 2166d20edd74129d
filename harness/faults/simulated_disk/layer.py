"""The layer that intercepts the functions of `os` and `open` below code under test."""

from __future__ import annotations

import _thread
import builtins
import errno
import inspect
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Self

from .calls import Call, Fault, InjectedFault, Kind, SimulatedCrash, no_fault
from .durability import APPLIED, ROOT, DurableState, Entry, combinations
from .image import Image

_EDGE = "the simulated disk covers its folder only"
_FRUITLESS_MAX = 8  # consecutive draws for each requested image, after which drawing stops


class SimulatedDisk:
    """Intercepts changes to one folder while it is entered. Enter it before a scheduler."""

    def __init__(self, folder: Path, fault: Fault = no_fault) -> None:
        """Pass every call to `fault`, in order."""
        self.folder = folder
        self.calls: list[Call] = []
        self.faulted_call: Call | None = None
        self.crashed = False
        self._fault = fault
        self._lock = _thread.RLock()
        self._state = DurableState()
        self._nodes: dict[tuple[int, int], int] = {}
        self._names: dict[int, str] = {}
        self._originals: dict[tuple[Any, str], Any] = {}

    # Images after a crash

    def process_crash(self) -> Image:
        """Return the image after a process kill: the result of every completed call."""
        outcomes = {change.number: APPLIED for change in self._state.pending()}
        return self._state.image(outcomes)

    def power_losses(self, random: Random, count: int) -> Iterator[Image]:
        """Yield at most `count` distinct images that a power loss may leave now.

        If there are at most `count`, all of them; else the extremes and then random ones.
        """
        pending = self._state.pending()
        numbers = [change.number for change in pending]
        seen: set[Image] = set()
        fruitless = 0
        for outcomes in combinations(pending, random, count):
            image = self._state.image(dict(zip(numbers, outcomes, strict=True)))
            fruitless += 1
            if image not in seen:
                seen.add(image)
                fruitless = 0
                yield image
            if len(seen) == count or fruitless > _FRUITLESS_MAX * count:
                return

    # Interception

    def __enter__(self) -> Self:
        self._adopt(self.folder)
        for name in _INTERCEPTED:
            self._put(os, name, getattr(self, f"_{name}"))
        for module in (builtins, io):
            self._put(module, "open", self._open_file)
        return self

    def __exit__(self, *_: object) -> None:
        for (module, name), original in self._originals.items():
            setattr(module, name, original)

    def _put(self, module: Any, name: str, replacement: Any) -> None:
        self._originals[module, name] = getattr(module, name)
        setattr(module, name, replacement)

    def _original(self, name: str) -> Any:
        return self._originals[os, name]

    def _adopt(self, folder: Path) -> None:
        """Record the folder's present content as durable."""
        self._nodes[_inode(folder.stat())] = ROOT
        for path in sorted(folder.rglob("*")):
            node = self._new_node(path.stat(), path.name)
            if path.is_dir():
                self._state.folders.add(node)
            else:
                self._state.contents[node] = path.read_bytes()
            parent = self._nodes[_inode(path.parent.stat())]
            self._state.entries[parent, path.name] = node

    def _new_node(self, status: os.stat_result, name: str) -> int:
        # The system reuses the inode number of a removed file; the node of a new file is new.
        node = len(self._names) + 1
        self._nodes[_inode(status)] = node
        self._names[node] = name
        return node

    def _entry(self, path: Any, dir_fd: int | None = None) -> Entry | None:
        """Return the parent's node and the path's last name; None for a path outside the folder."""
        parent, name = os.path.split(os.fsdecode(path).rstrip("/"))
        if name in ("", ".", ".."):
            return None
        with suppress(OSError):
            status = os.stat(parent or ".", dir_fd=dir_fd)
            node = self._nodes.get(_inode(status))
            if node is not None and node in self._state.folders:
                self._check_alive()
                return node, name
        return None

    def _node(self, path: Any, dir_fd: int | None = None) -> int | None:
        """Return the node of a path or an open file; None if it is outside or missing."""
        with suppress(OSError):
            return self._nodes.get(_inode(os.stat(path, dir_fd=dir_fd, follow_symlinks=False)))
        return None

    def _open_node(self, file: Any) -> int | None:
        fd = file if isinstance(file, int) else file.fileno()
        return self._nodes.get(_inode(os.fstat(fd)))

    def _check_alive(self) -> None:
        if self.crashed:
            raise SimulatedCrash(self.faulted_call)

    def _intercept(self, kind: Kind, name: str, length: int = 0) -> InjectedFault | None:
        """Record a call and inject its fault; raises immediately if no part of the call happens."""
        self._check_alive()
        call = Call(len(self.calls) + 1, kind, name, length)
        self.calls.append(call)
        injected = self._fault(call)
        if injected is not None:
            self.faulted_call = call
            self.crashed = isinstance(injected.error, SimulatedCrash)
            if injected.error is not None and not injected.bytes_written:
                raise injected.error
        return injected

    # Replacements of the functions of `os`

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        original = self._original("open")
        entry = self._entry(path, dir_fd)
        if entry is None:
            return int(original(path, flags, mode, dir_fd=dir_fd))
        with self._lock:
            node = self._node(path, dir_fd)
            if node is None and flags & os.O_CREAT:
                self._intercept(Kind.CREATE, entry[1])
                fd = int(original(path, flags, mode, dir_fd=dir_fd))
                node = self._new_node(os.fstat(fd), entry[1])
                self._state.contents[node] = b""
                self._state.name({entry: node})
                return fd
            if node is not None and flags & os.O_TRUNC:
                self._intercept(Kind.TRUNCATE, entry[1])
                self._state.write(node, 0, None)
            return int(original(path, flags, mode, dir_fd=dir_fd))

    def _write(self, fd: int, data: Any) -> int:
        if (node := self._open_node(fd)) is None:
            return int(self._original("write")(fd, data))
        data = bytes(data)
        with self._lock:
            injected = self._intercept(Kind.WRITE, self._names[node], len(data))
            accepted = data if injected is None else data[: injected.bytes_written]
            written = int(self._original("write")(fd, accepted))
            offset = os.lseek(fd, 0, os.SEEK_CUR) - written  # right in append mode too
            self._state.write(node, offset, accepted[:written])
            if injected is not None and injected.error is not None:
                raise injected.error
            return written

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        if self._open_node(fd) is None:
            return int(self._original("pwrite")(fd, data, offset))
        with self._lock:
            position = os.lseek(fd, 0, os.SEEK_CUR)
            os.lseek(fd, offset, os.SEEK_SET)
            try:
                return self._write(fd, data)
            finally:
                os.lseek(fd, position, os.SEEK_SET)

    def _writev(self, fd: int, buffers: Iterable[Any]) -> int:
        return self._write(fd, b"".join(buffers))

    def _sendfile(self, out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
        if self._open_node(out_fd) is None:
            return int(self._original("sendfile")(out_fd, in_fd, offset, count))
        read = os.read(in_fd, count) if offset is None else os.pread(in_fd, count, offset)
        return self._write(out_fd, read) if read else 0

    def _fsync(self, fd: Any) -> None:
        """Record the sync only: the simulated state decides what a power loss leaves."""
        if (node := self._open_node(fd)) is None:
            self._original("fsync")(fd)
            return
        kind = Kind.SYNC_FOLDER if node in self._state.folders else Kind.SYNC
        with self._lock:
            try:
                self._intercept(kind, self._names.get(node, "."))
            except OSError:
                self._state.mark_lost(node)
                raise
            self._state.sync(node)

    _fdatasync = _fsync

    def _truncate(self, path: Any, length: int) -> None:
        if isinstance(path, int):
            self._ftruncate(path, length)
        elif self._entry(path) is None:
            self._original("truncate")(path, length)
        else:
            fd = os.open(path, os.O_WRONLY)
            try:
                self._ftruncate(fd, length)
            finally:
                os.close(fd)

    def _ftruncate(self, fd: int, length: int) -> None:
        if (node := self._open_node(fd)) is None:
            self._original("ftruncate")(fd, length)
            return
        with self._lock:
            self._intercept(Kind.TRUNCATE, self._names[node])
            self._original("ftruncate")(fd, length)
            self._state.write(node, length, None)

    def _replace(
        self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        original = self._original("replace")
        entries = (self._entry(src, src_dir_fd), self._entry(dst, dst_dir_fd))
        if entries == (None, None):
            original(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            return
        source, target = entries
        if source is None or target is None:
            raise OSError(errno.EXDEV, _EDGE, os.fspath(src))
        with self._lock:
            node = self._node(src, src_dir_fd)
            self._intercept(Kind.RENAME, f"{source[1]} -> {target[1]}")
            original(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            if node is not None and self._node(src, src_dir_fd) is None:
                self._state.name({source: None, target: node})

    _rename = _replace

    def _link(self, src: Any, dst: Any, **options: Any) -> None:
        target = self._entry(dst, options.get("dst_dir_fd"))
        if target is None:
            self._original("link")(src, dst, **options)
            return
        with self._lock:
            node = self._node(src, options.get("src_dir_fd"))
            if node is None:
                raise OSError(
                    errno.EXDEV, "the simulated disk covers its folder only", os.fspath(src)
                )
            self._intercept(Kind.LINK, target[1])
            self._original("link")(src, dst, **options)
            self._state.name({target: node})

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove_entry("unlink", Kind.UNLINK, path, dir_fd)

    _remove = _unlink

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._remove_entry("rmdir", Kind.RMDIR, path, dir_fd)

    def _remove_entry(self, name: str, kind: Kind, path: Any, dir_fd: int | None) -> None:
        entry = self._entry(path, dir_fd)
        if entry is None or self._node(path, dir_fd) is None:
            self._original(name)(path, dir_fd=dir_fd)
            return
        with self._lock:
            self._intercept(kind, entry[1])
            self._original(name)(path, dir_fd=dir_fd)
            self._state.name({entry: None})

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        entry = self._entry(path, dir_fd)
        if entry is None or self._node(path, dir_fd) is not None:
            self._original("mkdir")(path, mode, dir_fd=dir_fd)
            return
        with self._lock:
            self._intercept(Kind.MKDIR, entry[1])
            self._original("mkdir")(path, mode, dir_fd=dir_fd)
            node = self._new_node(os.stat(path, dir_fd=dir_fd), entry[1])
            self._state.folders.add(node)
            self._state.name({entry: node})

    # Replacement of `open`

    def _open_file(self, *args: Any, **keywords: Any) -> Any:
        bound = _OPEN.bind(*args, **keywords)
        bound.apply_defaults()
        options = bound.arguments
        if options["opener"] is not None:  # the opener decides which file is opened
            fd = options["opener"](options["file"], _flags(options["mode"]))
            options["opener"] = lambda *_: fd
            is_intercepted = self._open_node(fd) is not None
        elif isinstance(options["file"], int):
            is_intercepted = self._open_node(options["file"]) is not None
        else:
            is_intercepted = self._entry(options["file"]) is not None
        if is_intercepted and set(options["mode"]) & set("wax+"):
            return _open_layered(options)
        return self._originals[io, "open"](**options)


_INTERCEPTED = (
    *("open", "write", "pwrite", "writev", "sendfile", "fsync", "fdatasync"),
    *("truncate", "ftruncate", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir"),
)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _File(io.FileIO):
    """An open file whose changes go through `os`, where the layer intercepts them."""

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self.fileno(), size)
        return size


def _open_layered(options: Mapping[str, Any]) -> Any:
    """Build the file object that `open` returns for a writing mode, on an intercepted raw file."""
    file, mode, buffering = options["file"], options["mode"], options["buffering"]
    raw_mode = mode.replace("b", "").replace("t", "")
    if isinstance(file, int):
        raw = _File(file, raw_mode, closefd=options["closefd"])
    else:
        raw = _File((options["opener"] or _open_default)(file, _flags(mode)), raw_mode)
        raw.name = file
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffer = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
    if "b" in mode:
        return buffer
    text = (options["encoding"], options["errors"], options["newline"])
    return io.TextIOWrapper(buffer, *text, line_buffering=buffering == 1)


def _open_default(file: Any, flags: int) -> int:
    return os.open(file, flags, 0o666)


def _flags(mode: str) -> int:
    """Return the flags that `open` passes to the system for a mode."""
    flags = {
        "r": 0,
        "w": os.O_CREAT | os.O_TRUNC,
        "x": os.O_CREAT | os.O_EXCL,
        "a": os.O_CREAT | os.O_APPEND,
    }[mode.strip("+bt")]
    if "+" in mode:
        return flags | os.O_CLOEXEC | os.O_RDWR
    return flags | os.O_CLOEXEC | (os.O_RDONLY if "r" in mode else os.O_WRONLY)


_OPEN = inspect.signature(io.open)
