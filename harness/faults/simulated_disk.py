"""The simulated disk: fails or crashes when told to, and then forgets what was not synced.

It stands below the code on trial, in the same process. While it is installed, whatever goes
through the functions of `os`, or through `open`, and changes something in one folder is done for
real, noted as a numbered *call*, and shown to a *fault* that may strike it. Reading is not
disturbed. What a crash leaves is an *image*: of a killed process, every call that was done; of a
power loss, surely only what was synced, and of the rest any part, in any order.

In the spirit of SQLite's tests, which fail the first call, then the second, and so on until the
operation completes clean (sqlite.org/testing.html); of ALICE, whose file system promises nothing
but what POSIX does (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014); and of
CrashMonkey (Mohan et al., "Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing",
OSDI 2018). A failed sync is never made good by a later one (Rebello et al., "Can Applications
Recover from fsync Failures?", ATC 2020).

It knows no target, reads no clock, and is handed its chance. It cannot see what goes past `os` and
`open`: mmap, C extensions (SQLite), other processes. This file needs only the standard library, so
that it can be loaded by its path into any process.
"""

from __future__ import annotations

import _thread
import builtins
import errno
import inspect
import io
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, Self


class SimulatedCrash(BaseException):
    """The process is dead from here on. Every further call on the folder raises this again."""


class Kind(StrEnum):
    """What a call does."""

    CREATE = "create"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    SYNC_FOLDER = "sync folder"
    RENAME = "rename"
    LINK = "link"
    UNLINK = "unlink"
    MKDIR = "mkdir"
    RMDIR = "rmdir"


NEEDS_SPACE = frozenset({Kind.CREATE, Kind.WRITE, Kind.LINK, Kind.MKDIR, Kind.SYNC})


@dataclass(frozen=True, slots=True)
class Call:
    """One change that the code asked for; `number` counts from 1, `length` is in bytes."""

    number: int
    kind: Kind
    name: str
    length: int = 0

    def __str__(self) -> str:
        return f"{self.number}: {self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Strike:
    """What befalls a call instead: of a write `kept` bytes happen, of others nothing; then this."""

    error: BaseException | None
    kept: int = 0


Fault = Callable[[Call], Strike | None]


def no_fault(_: Call) -> None:
    """Let every call be."""


def crash_before(number: int) -> Fault:
    """The process dies before that call."""
    return lambda call: Strike(SimulatedCrash(call)) if call.number == number else None


def tear(number: int) -> Fault:
    """The process dies when half of that call, a write, is done."""
    return lambda call: (
        Strike(SimulatedCrash(call), call.length // 2)
        if call.number == number and call.length > 1
        else None
    )


def shorten(number: int) -> Fault:
    """That call, a write, does only half of what it should, and its result says so."""
    return lambda call: (
        Strike(None, call.length // 2) if call.number == number and call.length > 1 else None
    )


def fail_once(code: int) -> Callable[[int], Fault]:
    """That call fails with this error number; the next ones do not."""
    return lambda number: lambda call: _failure(code, call) if call.number == number else None


def fail_from(code: int) -> Callable[[int], Fault]:
    """That call and all that follow fail with this error number: the disk stays so."""
    return lambda number: lambda call: _failure(code, call) if call.number >= number else None


def _failure(code: int, call: Call) -> Strike | None:
    if code == errno.ENOSPC and call.kind not in NEEDS_SPACE:
        return None
    return Strike(OSError(code, os.strerror(code), call.name))


@dataclass(frozen=True, slots=True)
class Image:
    """What a folder holds: the content of each file, and the folders, by relative path."""

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
        """Make a real folder hold this, and nothing else."""
        folder.mkdir(parents=True, exist_ok=True)
        there = Image.of(folder)
        for name in sorted(there.folders - self.folders):
            shutil.rmtree(folder / name, ignore_errors=True)  # perhaps gone with another
        for name in there.files.keys() - self.files.keys():
            (folder / name).unlink(missing_ok=True)
        for name in sorted(self.folders):
            (folder / name).mkdir(exist_ok=True)
        for name, content in self.files.items():
            if there.files.get(name) != content:
                (folder / name).unlink(missing_ok=True)  # it may have another name, too
                (folder / name).write_bytes(content)

    def __hash__(self) -> int:
        return hash((frozenset(self.files.items()), self.folders))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


# What is on the disk, and what may be

_Entry = tuple[int, str]  # a folder's node, and a name in it
_ROOT = 0


@dataclass(slots=True)
class _Naming:
    """A change of names: what each entry means afterwards, None for nothing. All or nothing."""

    number: int
    entries: Mapping[_Entry, int | None]
    unsynced: set[int]  # the folders that would have to be synced to make it sure
    is_doomed: bool = False

    @property
    def is_sure(self) -> bool:
        return not self.unsynced

    @property
    def fates(self) -> int:
        return 2


@dataclass(slots=True)
class _Content:
    """A change of a file's content: bytes at an offset, or (`data` is None) a new size."""

    number: int
    offset: int
    data: bytes | None
    is_sure: bool = False
    is_doomed: bool = False

    @property
    def fates(self) -> int:
        return 3 if self.data is not None and len(self.data) > 1 else 2

    def apply(self, content: bytearray, fate: int) -> None:
        if len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))
        if self.data is None:
            del content[self.offset :]
        else:
            data = self.data if fate == _KEPT else self.data[: len(self.data) // 2]
            content[self.offset : self.offset + len(data)] = data


_Change = _Naming | _Content
_DROPPED, _KEPT, _TORN = 0, 1, 2


@dataclass(slots=True)
class _Platter:
    """What is surely on the disk, and in order what was changed since and may be."""

    contents: dict[int, bytes] = field(default_factory=dict)  # of files, by node
    folders: set[int] = field(default_factory=lambda: {_ROOT})
    entries: dict[_Entry, int] = field(default_factory=dict)
    namings: list[_Naming] = field(default_factory=list)
    writings: dict[int, list[_Content]] = field(default_factory=dict)  # by node
    changes: int = 0

    def name(self, entries: Mapping[_Entry, int | None]) -> None:
        """These entries change together."""
        self.changes += 1
        folders = {folder for folder, _ in entries}
        self.namings.append(_Naming(self.changes, dict(entries), folders))

    def write(self, node: int, offset: int, data: bytes | None) -> None:
        """A file's content changes."""
        self.changes += 1
        self.writings.setdefault(node, []).append(_Content(self.changes, offset, data))

    def undecided(self) -> list[_Change]:
        """The changes that a power loss may drop, in order."""
        changes: list[_Change] = [*self.namings]
        for writings in self.writings.values():
            changes += writings
        unsure = (change for change in changes if not change.is_sure)
        return sorted(unsure, key=lambda change: change.number)

    def sync(self, node: int) -> None:
        """What was changed in a file or folder is sure, unless a sync has failed to write it."""
        for naming in self.namings:
            if not naming.is_doomed:
                naming.unsynced.discard(node)
        for content in self.writings.get(node, ()):
            content.is_sure |= not content.is_doomed
        self._settle(node)

    def doom(self, node: int) -> None:
        """A sync failed: the system forgets that these were to be written."""
        for naming in self.namings:
            naming.is_doomed |= node in naming.unsynced
        for content in self.writings.get(node, ()):
            content.is_doomed = True

    def _settle(self, node: int) -> None:
        """What is sure, and follows nothing unsure, need not be remembered as a change."""
        while self.namings and self.namings[0].is_sure:
            _rename(self.entries, self.namings.pop(0))
        writings = self.writings.get(node, [])
        while writings and writings[0].is_sure:
            content = bytearray(self.contents[node])
            writings.pop(0).apply(content, _KEPT)
            self.contents[node] = bytes(content)
        named = {*self.entries.values()}.union(*(each.entries.values() for each in self.namings))
        for forgotten in self.writings.keys() - named:
            del self.writings[forgotten]

    def image(self, fates: Mapping[int, int]) -> Image:
        """What the folder holds if each undecided change, by number, meets this fate."""
        entries = dict(self.entries)
        for naming in self.namings:
            if naming.is_sure or fates[naming.number] != _DROPPED:
                _rename(entries, naming)
        contents = dict(self.contents)
        for node, writings in self.writings.items():
            content = bytearray(contents[node])
            for writing in writings:
                fate = _KEPT if writing.is_sure else fates[writing.number]
                if fate != _DROPPED:
                    writing.apply(content, fate)
            contents[node] = bytes(content)
        return self._walk(entries, contents)

    def _walk(self, entries: Mapping[_Entry, int], contents: Mapping[int, bytes]) -> Image:
        files: dict[str, bytes] = {}
        folders: set[str] = set()
        inside: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), node in sorted(entries.items()):
            inside.setdefault(folder, []).append((name, node))
        todo = [(_ROOT, "")]
        while todo:
            folder, path = todo.pop()
            for name, node in inside.get(folder, ()):
                if node in self.folders:
                    folders.add(path + name)
                    todo.append((node, f"{path}{name}/"))
                else:
                    files[path + name] = contents[node]
        return Image(files, frozenset(folders))


def _rename(entries: dict[_Entry, int], change: _Naming) -> None:
    for entry, node in change.entries.items():
        if node is None:
            entries.pop(entry, None)
        else:
            entries[entry] = node


def _choices(changes: Sequence[_Change], chance: Random, count: int) -> Iterator[Sequence[int]]:
    """Fates of the changes: all combinations if those are at most `count`, else without end."""
    ranges = [range(change.fates) for change in changes]
    if math.prod(map(len, ranges)) <= count:
        yield from itertools.product(*ranges)
        return
    many = range(len(changes))
    naming = [isinstance(change, _Naming) for change in changes]
    yield [_KEPT if name else _DROPPED for name in naming]  # a rename overtakes what was written
    yield [_DROPPED if name else _KEPT for name in naming]
    for at in (*many, len(changes)):
        yield [_KEPT if other < at else _DROPPED for other in many]
        yield [_DROPPED if other < at else _KEPT for other in many]
    for at in many:
        yield [_DROPPED if other == at else _KEPT for other in many]
        yield [_KEPT if other == at else _DROPPED for other in many]
        yield [ranges[at][-1] if other == at else _KEPT for other in many]
    while True:
        yield [chance.choice(each) for each in ranges]


_FRUITLESS_MAX = 8  # draws in a row for each image asked for, before we stop drawing


class SimulatedDisk:
    """Stands below one folder while it is entered. Install it below a scheduler, not above."""

    def __init__(self, folder: Path, fault: Fault = no_fault) -> None:
        """`fault` is asked about every call, in order."""
        self.folder = folder
        self.calls: list[Call] = []
        self.struck: Call | None = None
        self.crashed = False
        self._fault = fault
        self._lock = _thread.RLock()
        self._platter = _Platter()
        self._nodes: dict[tuple[int, int], int] = {}
        self._names: dict[int, str] = {}
        self._originals: dict[tuple[Any, str], Any] = {}

    # What a crash leaves

    def process_crash(self) -> Image:
        """What a killed process leaves: every call that was done."""
        kept = {change.number: _KEPT for change in self._platter.undecided()}
        return self._platter.image(kept)

    def power_losses(self, chance: Random, count: int) -> Iterator[Image]:
        """What a power loss may leave now: at most `count` images, each different.

        All of them where there are few; else the extremes first and then `chance` draws.
        """
        undecided = self._platter.undecided()
        numbers = [change.number for change in undecided]
        seen: set[Image] = set()
        fruitless = 0
        for fates in _choices(undecided, chance, count):
            image = self._platter.image(dict(zip(numbers, fates, strict=True)))
            fruitless += 1
            if image not in seen:
                seen.add(image)
                fruitless = 0
                yield image
            if len(seen) == count or fruitless > _FRUITLESS_MAX * count:
                return

    # Standing below

    def __enter__(self) -> Self:
        self._adopt(self.folder)
        for name in _HANDS:
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
        """Take what is in the folder as surely on the disk."""
        self._nodes[_inode(folder.stat())] = _ROOT
        for path in sorted(folder.rglob("*")):
            node = self._new_node(path.stat(), path.name)
            if path.is_dir():
                self._platter.folders.add(node)
            else:
                self._platter.contents[node] = path.read_bytes()
            parent = self._nodes[_inode(path.parent.stat())]
            self._platter.entries[parent, path.name] = node

    def _new_node(self, status: os.stat_result, name: str) -> int:
        # A system gives a removed file's number to a new file, which is another one to us.
        node = len(self._names) + 1
        self._nodes[_inode(status)] = node
        self._names[node] = name
        return node

    def _entry(self, path: Any, dir_fd: int | None = None) -> _Entry | None:
        """Where in our folder the path's last name stands; None for a path that is elsewhere."""
        parent, name = os.path.split(os.fsdecode(path).rstrip("/"))
        if name in ("", ".", ".."):
            return None
        with suppress(OSError):
            status = os.stat(parent or ".", dir_fd=dir_fd)
            node = self._nodes.get(_inode(status))
            if node is not None and node in self._platter.folders:
                self._check_alive()
                return node, name
        return None

    def _node(self, at: Any, dir_fd: int | None = None) -> int | None:
        """Our node behind a path or an open file; None for what is elsewhere, or not there."""
        with suppress(OSError):
            return self._nodes.get(_inode(os.stat(at, dir_fd=dir_fd, follow_symlinks=False)))
        return None

    def _open_node(self, file: Any) -> int | None:
        fd = file if isinstance(file, int) else file.fileno()
        return self._nodes.get(_inode(os.fstat(fd)))

    def _check_alive(self) -> None:
        if self.crashed:
            raise SimulatedCrash(self.struck)

    def _strike(self, kind: Kind, name: str, length: int = 0) -> Strike | None:
        """Note a call, and ask what befalls it; raises at once where nothing of it happens."""
        self._check_alive()
        call = Call(len(self.calls) + 1, kind, name, length)
        self.calls.append(call)
        strike = self._fault(call)
        if strike is not None:
            self.struck = call
            self.crashed = isinstance(strike.error, SimulatedCrash)
            if strike.error is not None and not strike.kept:
                raise strike.error
        return strike

    # The functions of `os`, in our hands

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        original = self._original("open")
        entry = self._entry(path, dir_fd)
        if entry is None:
            return int(original(path, flags, mode, dir_fd=dir_fd))
        with self._lock:
            node = self._node(path, dir_fd)
            if node is None and flags & os.O_CREAT:
                self._strike(Kind.CREATE, entry[1])
                fd = int(original(path, flags, mode, dir_fd=dir_fd))
                node = self._new_node(os.fstat(fd), entry[1])
                self._platter.contents[node] = b""
                self._platter.name({entry: node})
                return fd
            if node is not None and flags & os.O_TRUNC:
                self._strike(Kind.TRUNCATE, entry[1])
                self._platter.write(node, 0, None)
            return int(original(path, flags, mode, dir_fd=dir_fd))

    def _write(self, fd: int, data: Any) -> int:
        if (node := self._open_node(fd)) is None:
            return int(self._original("write")(fd, data))
        data = bytes(data)
        with self._lock:
            strike = self._strike(Kind.WRITE, self._names[node], len(data))
            kept = data if strike is None else data[: strike.kept]
            written = int(self._original("write")(fd, kept))
            offset = os.lseek(fd, 0, os.SEEK_CUR) - written  # where it was, also when appending
            self._platter.write(node, offset, kept[:written])
            if strike is not None and strike.error is not None:
                raise strike.error
            return written

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        if self._open_node(fd) is None:
            return int(self._original("pwrite")(fd, data, offset))
        with self._lock:
            here = os.lseek(fd, 0, os.SEEK_CUR)
            os.lseek(fd, offset, os.SEEK_SET)
            try:
                return self._write(fd, data)
            finally:
                os.lseek(fd, here, os.SEEK_SET)

    def _writev(self, fd: int, buffers: Iterable[Any]) -> int:
        return self._write(fd, b"".join(buffers))

    def _sendfile(self, out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
        if self._open_node(out_fd) is None:
            return int(self._original("sendfile")(out_fd, in_fd, offset, count))
        read = os.read(in_fd, count) if offset is None else os.pread(in_fd, count, offset)
        return self._write(out_fd, read) if read else 0

    def _fsync(self, fd: Any) -> None:
        """Sync nothing for real: what a power loss would leave is our own affair."""
        if (node := self._open_node(fd)) is None:
            self._original("fsync")(fd)
            return
        kind = Kind.SYNC_FOLDER if node in self._platter.folders else Kind.SYNC
        with self._lock:
            try:
                self._strike(kind, self._names.get(node, "."))
            except OSError:
                self._platter.doom(node)
                raise
            self._platter.sync(node)

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
            self._strike(Kind.TRUNCATE, self._names[node])
            self._original("ftruncate")(fd, length)
            self._platter.write(node, length, None)

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
            raise OSError(errno.EXDEV, "the simulated disk ends at its folder", os.fspath(src))
        with self._lock:
            node = self._node(src, src_dir_fd)
            self._strike(Kind.RENAME, f"{source[1]} -> {target[1]}")
            original(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            if node is not None and self._node(src, src_dir_fd) is None:
                self._platter.name({source: None, target: node})

    _rename = _replace

    def _link(self, src: Any, dst: Any, **options: Any) -> None:
        target = self._entry(dst, options.get("dst_dir_fd"))
        if target is None:
            self._original("link")(src, dst, **options)
            return
        with self._lock:
            node = self._node(src, options.get("src_dir_fd"))
            if node is None:
                raise OSError(errno.EXDEV, "the simulated disk ends at its folder", os.fspath(src))
            self._strike(Kind.LINK, target[1])
            self._original("link")(src, dst, **options)
            self._platter.name({target: node})

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._take_away("unlink", Kind.UNLINK, path, dir_fd)

    _remove = _unlink

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._take_away("rmdir", Kind.RMDIR, path, dir_fd)

    def _take_away(self, name: str, kind: Kind, path: Any, dir_fd: int | None) -> None:
        entry = self._entry(path, dir_fd)
        if entry is None or self._node(path, dir_fd) is None:
            self._original(name)(path, dir_fd=dir_fd)
            return
        with self._lock:
            self._strike(kind, entry[1])
            self._original(name)(path, dir_fd=dir_fd)
            self._platter.name({entry: None})

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        entry = self._entry(path, dir_fd)
        if entry is None or self._node(path, dir_fd) is not None:
            self._original("mkdir")(path, mode, dir_fd=dir_fd)
            return
        with self._lock:
            self._strike(Kind.MKDIR, entry[1])
            self._original("mkdir")(path, mode, dir_fd=dir_fd)
            node = self._new_node(os.stat(path, dir_fd=dir_fd), entry[1])
            self._platter.folders.add(node)
            self._platter.name({entry: node})

    # `open`

    def _open_file(self, *args: Any, **options: Any) -> Any:
        asked = _OPEN.bind(*args, **options)
        asked.apply_defaults()
        how = asked.arguments
        if how["opener"] is not None:  # only it knows which file will be opened
            fd = how["opener"](how["file"], _flags(how["mode"]))
            how["opener"] = lambda *_: fd
            ours = self._open_node(fd) is not None
        elif isinstance(how["file"], int):
            ours = self._open_node(how["file"]) is not None
        else:
            ours = self._entry(how["file"]) is not None
        if ours and set(how["mode"]) & set("wax+"):
            return _open_layered(how)
        return self._originals[io, "open"](**how)


_HANDS = (
    *("open", "write", "pwrite", "writev", "sendfile", "fsync", "fdatasync"),
    *("truncate", "ftruncate", "replace", "rename", "link", "unlink", "remove", "mkdir", "rmdir"),
)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _File(io.FileIO):
    """An open file whose changes go through `os`, where the disk sees them."""

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self.fileno(), size)
        return size


def _open_layered(how: Mapping[str, Any]) -> Any:
    """Do what `open` does for a mode that can write, on a raw file of ours."""
    file, mode, buffering = how["file"], how["mode"], how["buffering"]
    raw_mode = mode.replace("b", "").replace("t", "")
    if isinstance(file, int):
        raw = _File(file, raw_mode, closefd=how["closefd"])
    else:
        raw = _File((how["opener"] or _opened)(file, _flags(mode)), raw_mode)
        raw.name = file
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffer = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
    if "b" in mode:
        return buffer
    text = (how["encoding"], how["errors"], how["newline"])
    return io.TextIOWrapper(buffer, *text, line_buffering=buffering == 1)


def _opened(file: Any, flags: int) -> int:
    return os.open(file, flags, 0o666)


def _flags(mode: str) -> int:
    """What `open` asks of the system for a mode."""
    made = {
        "r": 0,
        "w": os.O_CREAT | os.O_TRUNC,
        "x": os.O_CREAT | os.O_EXCL,
        "a": os.O_CREAT | os.O_APPEND,
    }[mode.strip("+bt")]
    if "+" in mode:
        return made | os.O_CLOEXEC | os.O_RDWR
    return made | os.O_CLOEXEC | (os.O_RDONLY if "r" in mode else os.O_WRONLY)


_OPEN = inspect.signature(io.open)

# Every point of an operation


@dataclass(frozen=True, slots=True)
class Crash:
    """An operation that was cut short before `call`, or in it; or that came back (None)."""

    disk: SimulatedDisk
    call: Call | None

    def aftermaths(self, chance: Random, count: int = 64) -> Iterator[Image]:
        """What a killed process leaves, and then what a power loss may: `count` at most."""
        killed = self.disk.process_crash()
        yield killed
        losses = self.disk.power_losses(chance, count)
        yield from itertools.islice((image for image in losses if image != killed), count - 1)


def every_crash_point(folder: Path, operation: Callable[[], object]) -> Iterator[Crash]:
    """Run the operation from the same start again and again, crashing one call later each time.

    A write is also torn in the middle. The last crash is the one after it came back: whatever it
    acknowledged must survive that one too. The operation must begin anew each time: open the store,
    and forget whatever it remembered. What it raises goes to the caller.
    """
    start = Image.of(folder)
    for number in itertools.count(1):
        disk = _run(folder, start, operation, crash_before(number))
        if not disk.crashed:
            yield Crash(disk, None)
            return
        yield Crash(disk, disk.struck)
        if disk.struck is not None and disk.struck.length > 1:
            torn = _run(folder, start, operation, tear(number))
            yield Crash(torn, torn.struck)


def _run(
    folder: Path, start: Image, operation: Callable[[], object], fault: Fault
) -> SimulatedDisk:
    start.put_into(folder)
    with SimulatedDisk(folder, fault) as disk, suppress(SimulatedCrash):
        operation()
    return disk


@dataclass(frozen=True, slots=True)
class Failure:
    """An operation of which one call was struck, and what it raised to its caller, if it did."""

    disk: SimulatedDisk
    call: Call
    raised: Exception | None


def every_failure(
    folder: Path, operation: Callable[[], object], fault_at: Callable[[int], Fault]
) -> Iterator[Failure]:
    """Run the operation from the same start again and again, striking one call later each time.

    `fault_at(number)` makes the fault: `fail_once(ENOSPC)`, `shorten`. It ends when the
    operation makes no call of that number; calls that the fault spares are passed over.
    """
    start = Image.of(folder)
    for number in itertools.count(1):
        start.put_into(folder)
        raised = None
        with SimulatedDisk(folder, fault_at(number)) as disk:
            try:
                operation()
            except Exception as error:  # noqa: BLE001  what it raises is what we ask
                raised = error
        if len(disk.calls) < number:
            return
        if disk.struck is not None and disk.struck.number == number:
            yield Failure(disk, disk.struck, raised)
