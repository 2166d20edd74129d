"""The nemesis: what disturbs a target from outside, and how each disturbance is undone.

A fault has a name, tells whether it can be had here, is injected and is healed; `roaming` writes
its interval into the history. It hits processes by their number and files by their path, and knows
nothing of whose they are. Faults that need the inside of a process live with the target's adapter.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psutil

from harness.core.errors import HarnessError
from harness.core.history import Journal

STOP_PATIENCE_S = 30.0  # whoever is to stand still may have to be given a processor first
SMALL_DISK_BYTES = 64 << 20  # a disk with more room than this is somebody's, and is not filled


class Fault(Protocol):
    """One way to disturb."""

    name: str

    def available(self) -> bool:
        """Whether this system and this user can do it."""
        ...

    def inject(self) -> None:
        """Break it. Raises OSError where that cannot be done."""
        ...

    def heal(self) -> None:
        """Undo it; what cannot be undone is left to whoever starts things again."""
        ...


@contextmanager
def roaming(fault: Fault, journal: Journal) -> Iterator[None]:
    """Let a fault roam while the block lasts, and note from when to when."""
    journal.fault(fault.name)
    fault.inject()
    try:
        yield
    finally:
        fault.heal()
        journal.heal(fault.name)


# Processes ----------------------------------------------------------------------------------------


class Kill:
    """A process dies by kill -9, wherever it is. Whoever started it also reaps it."""

    def __init__(self, pid: int) -> None:
        self.name = f"kill process {pid}"
        self._pid = pid

    def available(self) -> bool:
        """Everywhere."""
        return True

    def inject(self) -> None:
        """Send the signal; one that is dead already stays so."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def heal(self) -> None:
        """Nothing brings it back."""


class Pause:
    """A process stands still by SIGSTOP, whatever it holds, and goes on by SIGCONT."""

    def __init__(self, pid: int) -> None:
        self.name = f"pause process {pid}"
        self._pid = pid

    def available(self) -> bool:
        """Wherever there are signals for it."""
        return hasattr(signal, "SIGSTOP")

    def inject(self) -> None:
        """Send the signal, and wait until it took effect."""
        os.kill(self._pid, signal.SIGSTOP)
        await_stopped(self._pid)

    def heal(self) -> None:
        """Let it go on, unless it died meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)


def await_stopped(pid: int) -> None:
    """Wait until a process stands still, whoever told it to. Raises HarnessError if it does not."""
    process = psutil.Process(pid)
    ends_at = time.monotonic() + STOP_PATIENCE_S
    while process.status() != psutil.STATUS_STOPPED:
        if time.monotonic() > ends_at:
            raise HarnessError(f"process {pid} does not stop, it is {process.status()}")
        time.sleep(0.0005)


class ShortFiles:
    """A process can make no file longer than this: writing beyond it fails with EFBIG."""

    def __init__(self, pid: int, length_bytes: int) -> None:
        self.name = f"process {pid} writes no file beyond {length_bytes} bytes"
        self._pid = pid
        self._length_bytes = length_bytes
        self._before = (0, 0)

    def available(self) -> bool:
        """Where one process can limit another (Linux)."""
        return sys.platform == "linux"

    def inject(self) -> None:
        """Set the limit. Python ignores the signal that comes with it; others may not."""
        if sys.platform == "linux":
            import resource  # noqa: PLC0415  there is none elsewhere

            self._before = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)
            limits = (self._length_bytes, self._before[1])
            resource.prlimit(self._pid, resource.RLIMIT_FSIZE, limits)

    def heal(self) -> None:
        """Set it back, unless the process died meanwhile."""
        if sys.platform == "linux":
            import resource  # noqa: PLC0415  there is none elsewhere

            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._before)


# Disks and files ----------------------------------------------------------------------------------


class FullDisk:
    """The disk under a folder has no byte left. Only for small disks, made for it."""

    def __init__(self, folder: Path) -> None:
        self.name = f"the disk of {folder.name} is full"
        self._folder = folder
        self._filler = folder / "filler"

    def available(self) -> bool:
        """Where filling it harms nobody else."""
        return shutil.disk_usage(self._folder).free <= SMALL_DISK_BYTES

    def inject(self) -> None:
        """Write until nothing fits any more."""
        if not self.available():
            raise OSError(f"{self._folder}: its disk is too large to be filled")
        with self._filler.open("ab", buffering=0) as filler:
            for block in (b"\0" * (1 << 20), b"\0" * (1 << 12), b"\0"):
                with contextlib.suppress(OSError):
                    while filler.write(block):
                        pass

    def heal(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[bool]:
    """Mount a disk in memory on the folder; False, and nothing done, where that is not allowed."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    is_mounted = False
    if sys.platform == "linux" and os.geteuid() == 0 and mount and umount:
        options = ["-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(folder)]
        command = [mount, *options]
        is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603
    try:
        yield is_mounted
    finally:
        if is_mounted and umount:
            subprocess.run([umount, "--lazy", str(folder)], capture_output=True, check=True)  # noqa: S603


class CorruptFile:
    """Some bytes of a file are others than they were."""

    def __init__(self, path: Path, at: int, data: bytes) -> None:
        self.name = f"{len(data)} bytes of {path.name} at {at} are corrupt"
        self._path = path
        self._at = at
        self._data = data
        self._before = b""

    def available(self) -> bool:
        """Where the file reaches that far."""
        return self._path.stat().st_size >= self._at + len(self._data)

    def inject(self) -> None:
        """Write over what was there."""
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._at)
            self._before = file.read(len(self._data))
            file.seek(self._at)
            file.write(self._data)

    def heal(self) -> None:
        """Write back what was there."""
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._at)
            file.write(self._before)


class TornFile:
    """A file ends after so many bytes."""

    def __init__(self, path: Path, length_bytes: int) -> None:
        self.name = f"{path.name} ends after {length_bytes} bytes"
        self._path = path
        self._length_bytes = length_bytes
        self._rest = b""

    def available(self) -> bool:
        """Where the file is longer than that."""
        return self._path.stat().st_size > self._length_bytes

    def inject(self) -> None:
        """Cut it."""
        self._rest = self._path.read_bytes()[self._length_bytes :]
        os.truncate(self._path, self._length_bytes)

    def heal(self) -> None:
        """Put the rest back, where nobody has written since."""
        if self._path.stat().st_size == self._length_bytes:
            with self._path.open("ab") as file:
                file.write(self._rest)


class AddedBytes:
    """A file goes on after its end: with half a line, say, or with lines that it had before.

    Whoever reads it has to cope, so there is nothing to heal.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        self.name = f"{path.name} goes on for {len(data)} bytes"
        self._path = path
        self._data = data

    def available(self) -> bool:
        """Where there is such a file."""
        return self._path.is_file()

    def inject(self) -> None:
        """Write after its end."""
        with self._path.open("ab") as file:
            file.write(self._data)

    def heal(self) -> None:
        """Leave it to whoever reads the file."""


class MissingFile:
    """A file is gone. Who has it open still has it."""

    def __init__(self, path: Path) -> None:
        self.name = f"{path.name} is gone"
        self._path = path
        self._aside = path.with_name(f"{path.name}.aside")

    def available(self) -> bool:
        """Where there is one."""
        return self._path.exists()

    def inject(self) -> None:
        """Move it out of sight."""
        self._path.rename(self._aside)

    def heal(self) -> None:
        """Bring it back, unless somebody made another."""
        if self._path.exists():
            self._aside.unlink()
        else:
            self._aside.rename(self._path)


class ReadOnlyFile:
    """A file cannot be opened for writing, by nobody: not even root, whom its mode does not stop.

    Who has it open already may go on writing.
    """

    def __init__(self, path: Path) -> None:
        self.name = f"{path.name} is read-only"
        self._path = path
        self._mode = 0

    def available(self) -> bool:
        """Try it."""
        try:
            self.inject()
        except OSError:
            return False
        try:
            os.close(os.open(self._path, os.O_WRONLY))
        except OSError:
            return True
        finally:
            self.heal()
        return False

    def inject(self) -> None:
        """Take the permission away; where we are root make the file immutable."""
        self._mode = self._path.stat().st_mode
        if _is_root():
            _set_immutable(self._path, is_set=True)
        else:
            self._path.chmod(0o444)

    def heal(self) -> None:
        """Give it back."""
        if _is_root():
            _set_immutable(self._path, is_set=False)
        else:
            self._path.chmod(self._mode)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # linux/fs.h


def _set_immutable(path: Path, *, is_set: bool) -> None:
    """Set or clear the file's immutable flag. Raises OSError where it has none."""
    if sys.platform != "linux":
        raise OSError(f"{path}: files cannot be made immutable here")
    import fcntl  # noqa: PLC0415  there is none elsewhere

    flags = ctypes.c_ulong()
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        flags.value = flags.value | _IMMUTABLE if is_set else flags.value & ~_IMMUTABLE
        fcntl.ioctl(fd, _SET_FLAGS, flags)
    finally:
        os.close(fd)
