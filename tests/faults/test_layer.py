"""Checks that the simulated disk records every change, and which data a crash may lose."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults import simulated_disk as disk_module
from harness.faults.simulated_disk import (
    Image,
    Kind,
    SimulatedCrash,
    SimulatedDisk,
    crash_before,
    fail_from,
    fail_once,
    fail_torn_twice,
    tear,
)
from tests.faults.save_functions import correct, sync_folder

NAME = "file.json"


def test_rename_may_be_durable_before_data(tmp_path: Path) -> None:
    """A power loss after an unsynced save leaves the old file, the new, a part, or no bytes."""
    (tmp_path / NAME).write_bytes(b"old")
    with SimulatedDisk(tmp_path) as disk:
        (tmp_path / "t").write_bytes(b"new!")
        (tmp_path / "t").replace(tmp_path / NAME)

    left = {image.files.get(NAME) for image in disk.power_losses(Random(0), 100)}

    assert left == {b"old", b"", b"ne", b"new!"}
    assert disk.process_crash().files == {NAME: b"new!"}


def test_unsynced_files_survive_in_any_combination(tmp_path: Path) -> None:
    """Of two unsynced files beside a synced one, each alone may survive."""
    with SimulatedDisk(tmp_path) as disk:
        correct(tmp_path / "sure", b"x")
        (tmp_path / "one").touch()
        (tmp_path / "two").touch()

    left = {frozenset(image.files) for image in disk.power_losses(Random(0), 100)}

    assert left == {
        frozenset({"sure"} | others) for others in ({"one"}, {"two"}, {"one", "two"}, set())
    }


def test_unsynced_removal_may_be_undone(tmp_path: Path) -> None:
    """The file is absent for the process, and may return after a power loss."""
    (tmp_path / "f").write_bytes(b"x")
    with SimulatedDisk(tmp_path) as disk:
        (tmp_path / "f").unlink()
        unsynced_files = [image.files for image in disk.power_losses(Random(0), 9)]
        sync_folder(tmp_path)
        synced_files = [image.files for image in disk.power_losses(Random(0), 9)]

    assert unsynced_files == [{"f": b"x"}, {}]
    assert synced_files == [{}]


def test_later_write_alone_leaves_zeros_before_it(tmp_path: Path) -> None:
    """The second write may be durable without the first."""
    with SimulatedDisk(tmp_path) as disk:
        fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
        os.fsync(fd)
        sync_folder(tmp_path)
        os.write(fd, b"a")
        os.write(fd, b"b")
        os.close(fd)

    left = {image.files["f"] for image in disk.power_losses(Random(0), 9)}

    assert left == {b"", b"a", b"\0b", b"ab"}


def test_later_sync_does_not_repair_failed_sync(tmp_path: Path) -> None:
    """The second sync succeeds, and the data of the failed one may still be lost."""
    fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    with SimulatedDisk(tmp_path, fail_once(errno.EIO)(2)) as disk:
        os.write(fd, b"x")
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(fd)
        os.fsync(fd)
        os.write(fd, b"y")
        os.fsync(fd)
    os.close(fd)

    assert {image.files["f"] for image in disk.power_losses(Random(0), 9)} == {b"xy", b"\0y"}


def test_crashed_process_makes_no_more_changes(tmp_path: Path) -> None:
    """A `finally` block has no effect after a crash; other folders are not affected."""

    def save() -> None:
        try:
            (tmp_path / "t").write_bytes(b"x")
        finally:
            (tmp_path / "t").unlink()

    with SimulatedDisk(tmp_path, crash_before(2)) as disk:
        for action in (save, (tmp_path / "t").read_bytes, (tmp_path / "u").touch, save):
            with pytest.raises(SimulatedCrash):
                action()
        with tempfile.TemporaryDirectory() as elsewhere:
            (Path(elsewhere) / "f").write_text("x")

    assert disk.crashed
    assert Image.of(tmp_path).files == {"t": b""}


def test_torn_write_leaves_half(tmp_path: Path) -> None:
    """A buffered file is torn too."""
    with SimulatedDisk(tmp_path, tear(2)), pytest.raises(SimulatedCrash):
        (tmp_path / "f").write_text("12345678")

    assert (tmp_path / "f").read_text() == "1234"


def test_write_fails_torn_and_the_next_change_too(tmp_path: Path) -> None:
    """What would undo the torn write fails as well; later changes succeed."""
    file = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    with SimulatedDisk(tmp_path, fail_torn_twice(errno.EIO)(1)):
        with pytest.raises(OSError, match="error"):
            os.write(file, b"12345678")
        with pytest.raises(OSError, match="error"):
            os.ftruncate(file, 0)
        assert (tmp_path / "f").read_text() == "1234"
        os.ftruncate(file, 0)
    os.close(file)
    assert not (tmp_path / "f").read_text()


def test_full_disk_still_allows_rename_and_removal(tmp_path: Path) -> None:
    """Writes and creations fail, removals and renames do not."""
    (tmp_path / "f").write_text("x")
    with SimulatedDisk(tmp_path, fail_from(errno.ENOSPC)(1)):
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                (tmp_path / "g").write_text("y")
        (tmp_path / "f").rename(tmp_path / "h")
        (tmp_path / "h").unlink()

    assert Image.of(tmp_path).files == {}


def every_change(folder: Path) -> Iterator[Callable[[], object]]:
    """Yield each known way to change a folder, once."""
    yield lambda: (folder / "a").write_text("text")
    yield lambda: (folder / "b").write_bytes(b"bytes")
    yield lambda: print("more", file=(folder / "a").open("a", encoding="utf-8", buffering=1))
    yield lambda: os.mkdir(folder / "d")  # noqa: PTH102
    yield lambda: os.makedirs(folder / "e" / "f")  # noqa: PTH103
    yield lambda: shutil.copyfile(folder / "a", folder / "d" / "c")
    yield lambda: shutil.copytree(folder / "d", folder / "e" / "g")
    yield lambda: os.link(folder / "a", folder / "l")
    yield lambda: os.truncate(folder / "l", 2)
    yield lambda: print("printed", file=(folder / "p").open("x", encoding="utf-8", buffering=1))

    def update() -> None:
        with io.open(folder / "b", "r+b") as file:  # noqa: UP020  the same function
            file.seek(2)
            file.write(b"B")
            file.truncate(4)

    yield update

    def temporary() -> None:
        with tempfile.NamedTemporaryFile("w+", dir=folder, delete=False) as file:
            file.write("x")
            file.seek(0)
            assert file.read() == "x"
        Path(file.name).rename(folder / "n")

    yield temporary

    def low_level() -> None:
        fd = os.open(folder / "w", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.writev(fd, [b"ab", b"cd"])
        os.write(fd, memoryview(b"ef"))
        os.ftruncate(fd, 5)
        os.close(fd)
        fd = os.open("w", os.O_WRONLY, dir_fd=(at := os.open(folder, os.O_RDONLY)))
        os.pwrite(fd, b"X", 1)
        os.close(fd)
        with os.fdopen(os.open(folder / "w", os.O_WRONLY), "wb") as file:
            file.write(b"Y")
        os.replace("w", "v", src_dir_fd=at, dst_dir_fd=at)
        os.close(at)

    yield low_level
    yield lambda: shutil.move(folder / "n", folder / "e" / "n")
    yield lambda: shutil.rmtree(folder / "e" / "g")
    yield lambda: os.remove(folder / "a")  # noqa: PTH107
    yield lambda: os.rename(folder / "d", folder / "dd")  # noqa: PTH104


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_every_change_of_folder_is_recorded(tmp_path: Path) -> None:
    """After each change the simulated state equals the folder, and a call was recorded."""
    with SimulatedDisk(tmp_path) as disk:
        for change in every_change(tmp_path):
            before = len(disk.calls)
            change()
            assert len(disk.calls) > before
            assert disk.process_crash() == Image.of(tmp_path)
    assert {call.kind for call in disk.calls} == {*Kind} - {Kind.SYNC, Kind.SYNC_FOLDER}


def test_simulated_disk_restores_functions_on_exit(tmp_path: Path) -> None:
    """After the block the functions are the original ones."""
    before = (os.open, os.write, os.fsync, os.replace, open, io.open)
    with SimulatedDisk(tmp_path):
        within = (os.open, os.write, os.fsync, os.replace, open, io.open)
        assert not set(within) & set(before)
    assert (os.open, os.write, os.fsync, os.replace, open, io.open) == before


def test_rename_across_folder_edge_is_refused(tmp_path: Path) -> None:
    """A rename into the folder fails with EXDEV, as between file systems."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("x")
    with SimulatedDisk(inside), pytest.raises(OSError, match="covers its folder only"):
        outside.rename(inside / "f")


@settings(max_examples=50, deadline=None)
@given(
    files=st.dictionaries(st.text("ab", min_size=1, max_size=2), st.binary(max_size=3), max_size=3),
    folders=st.sets(st.text("cd", min_size=1, max_size=2), max_size=2),
)
def test_image_put_into_folder_replaces_content(files: dict[str, bytes], folders: set[str]) -> None:
    """The folder holds the image, and none of its previous content."""
    inner = {f"{folder}/f": b"x" for folder in folders}
    image = Image({**files, **inner}, frozenset(folders))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image({"left/over": b"x", "a": b"", "d": b"x"}, frozenset({"left", "b"})).put_into(folder)
        image.put_into(folder)
        assert Image.of(folder) == image


@settings(max_examples=100, deadline=None)
@given(
    actions=st.lists(
        st.tuples(st.sampled_from(["write", "sync", "replace", "sync folder", "unlink"]),
                  st.sampled_from("abc"), st.sampled_from("abc")),
        max_size=8,
    ),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_power_losses_are_deterministic_and_keep_synced_data(
    actions: list[tuple[str, str, str]], seed: int
) -> None:
    """The images are distinct and at most `count`; if all is synced there is exactly one."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        with SimulatedDisk(folder) as disk:
            for action, name, other in actions:
                path = folder / name
                match action:
                    case "write":
                        path.write_bytes(name.encode() * 2)
                    case "sync" if path.exists():
                        fd = os.open(path, os.O_RDONLY)
                        os.fsync(fd)
                        os.close(fd)
                    case "replace" if path.exists():
                        path.replace(folder / other)
                    case "unlink":
                        path.unlink(missing_ok=True)
                    case "sync folder":
                        sync_folder(folder)
            few = list(disk.power_losses(Random(seed), 5))
            assert few == list(disk.power_losses(Random(seed), 5))
            assert len(set(few)) == len(few) <= 5
            killed = disk.process_crash()
            assert killed == Image.of(folder)
            for path in folder.iterdir():
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
            sync_folder(folder)
            assert list(disk.power_losses(Random(seed), 5)) == [killed]


def test_package_loads_by_path_without_harness(tmp_path: Path) -> None:
    """A child loads the package by its path and injects a fault into a buffered write."""
    program = """
import errno, importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("disk", sys.argv[1])
sys.modules["disk"] = disk = importlib.util.module_from_spec(spec)
spec.loader.exec_module(disk)
folder = pathlib.Path(sys.argv[2])
with disk.SimulatedDisk(folder, disk.fail_once(errno.ENOSPC)(2)):
    try:
        (folder / "f").write_text("x")
    except OSError as error:
        print(errno.errorcode[error.errno])
print(sorted(name for name in sys.modules if name.startswith("harness")))
"""
    completed = subprocess.run(  # noqa: S603  the command is fixed
        [sys.executable, "-I", "-c", program, str(disk_module.__file__), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert completed.stdout.split() == ["ENOSPC", "[]"]
