"""The simulated disk exposes every wrong way to save a file, and no right one."""

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
    Crash,
    Image,
    Kind,
    SimulatedCrash,
    SimulatedDisk,
    crash_before,
    every_crash_point,
    every_failure,
    fail_from,
    fail_once,
    shorten,
    tear,
)

OLD, NEW = b"the old content", b"the new content, which is longer than a word"
NAME = "file.json"
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


def right(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_folder(path.parent)


def right_and_buffered(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file)
    os.rename(temporary, path)  # noqa: PTH104  the other way to say it
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
    right(path, data)


def silent(path: Path, data: bytes) -> None:
    try:
        right(path, data)
    except OSError:
        return


def short(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    sync_folder(path.parent)


def hopeful(path: Path, data: bytes) -> None:
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


def wrongs(save: Saver, folder: Path) -> set[str]:
    """What the disk makes of a saver: which kinds of wrong it shows."""
    folder.mkdir()
    (folder / NAME).write_bytes(OLD)
    start = Image.of(folder)

    def operation() -> None:
        save(folder / NAME, NEW)

    found: set[str] = set()
    for crash in every_crash_point(folder, operation):
        for image in crash.aftermaths(Random(0)):
            content = image.files.get(NAME)
            if content not in (OLD, NEW):
                found.add("neither old nor new after a crash")
            elif crash.call is None and content != NEW:
                found.add("acknowledged, then lost")
    for fault_at in (
        fail_once(errno.ENOSPC),
        fail_from(errno.ENOSPC),
        fail_once(errno.EIO),
        shorten,
    ):
        start.put_into(folder)
        for failure in every_failure(folder, operation, fault_at):
            lost = {image.files.get(NAME) for image in failure.disk.power_losses(Random(0), 64)}
            if failure.disk.process_crash().files.get(NAME) not in (OLD, NEW):
                found.add("neither old nor new after a failure")
            elif failure.raised is None and lost != {NEW}:
                found.add("a failure that nobody was told of")
    return found


@pytest.mark.parametrize("save", [right, right_and_buffered])
def test_a_right_saver_survives_everything(save: Saver, tmp_path: Path) -> None:
    """Temporary file, sync, rename, sync of the folder: no crash and no failure shows a wrong."""
    assert wrongs(save, tmp_path / "disk") == set()


@pytest.mark.parametrize(
    ("save", "wrong"),
    [
        (unsynced, "neither old nor new after a crash"),
        (folder_unsynced, "acknowledged, then lost"),
        (in_place, "neither old nor new after a crash"),
        (removed_first, "neither old nor new after a crash"),
        (silent, "a failure that nobody was told of"),
        (short, "neither old nor new after a failure"),
        (hopeful, "a failure that nobody was told of"),
    ],
)
def test_a_wrong_saver_is_exposed(save: Saver, wrong: str, tmp_path: Path) -> None:
    """Each by what it does wrong."""
    assert wrong in wrongs(save, tmp_path / "disk")


def test_a_rename_may_reach_the_disk_before_the_data(tmp_path: Path) -> None:
    """A power loss after an unsynced save may leave the old file, the new, a part, or nothing."""
    (tmp_path / NAME).write_bytes(b"old")
    with SimulatedDisk(tmp_path) as disk:
        (tmp_path / "t").write_bytes(b"new!")
        (tmp_path / "t").replace(tmp_path / NAME)

    left = {image.files.get(NAME) for image in disk.power_losses(Random(0), 100)}

    assert left == {b"old", b"", b"ne", b"new!"}
    assert disk.process_crash().files == {NAME: b"new!"}


def test_what_was_synced_is_sure_and_the_rest_may_come_in_any_order(tmp_path: Path) -> None:
    """Two unsynced files beside a synced one: each of them alone may survive."""
    with SimulatedDisk(tmp_path) as disk:
        right(tmp_path / "sure", b"x")
        (tmp_path / "one").touch()
        (tmp_path / "two").touch()

    left = {frozenset(image.files) for image in disk.power_losses(Random(0), 100)}

    assert left == {
        frozenset({"sure"} | others) for others in ({"one"}, {"two"}, {"one", "two"}, set())
    }


def test_a_removal_that_was_not_synced_may_be_undone(tmp_path: Path) -> None:
    """The file is gone for the process, and may be back after a power loss."""
    (tmp_path / "f").write_bytes(b"x")
    with SimulatedDisk(tmp_path) as disk:
        (tmp_path / "f").unlink()
        maybe = [image.files for image in disk.power_losses(Random(0), 9)]
        sync_folder(tmp_path)
        surely = [image.files for image in disk.power_losses(Random(0), 9)]

    assert maybe == [{"f": b"x"}, {}]
    assert surely == [{}]


def test_a_hole_that_a_later_write_leaves_is_zeros(tmp_path: Path) -> None:
    """The second write may be on the disk without the first."""
    with SimulatedDisk(tmp_path) as disk:
        fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
        os.fsync(fd)
        sync_folder(tmp_path)
        os.write(fd, b"a")
        os.write(fd, b"b")
        os.close(fd)

    left = {image.files["f"] for image in disk.power_losses(Random(0), 9)}

    assert left == {b"", b"a", b"\0b", b"ab"}


def test_a_failed_sync_is_never_made_good(tmp_path: Path) -> None:
    """The second sync says yes, and what the first one failed to write may still be lost."""
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


def test_a_dead_process_does_nothing_more(tmp_path: Path) -> None:
    """No `finally` cleans up after a crash; other folders are no concern of ours."""

    def save() -> None:
        try:
            (tmp_path / "t").write_bytes(b"x")
        finally:
            (tmp_path / "t").unlink()

    with SimulatedDisk(tmp_path, crash_before(2)) as disk:
        for act in (save, (tmp_path / "t").read_bytes, (tmp_path / "u").touch, save):
            with pytest.raises(SimulatedCrash):
                act()
        with tempfile.TemporaryDirectory() as elsewhere:
            (Path(elsewhere) / "f").write_text("x")

    assert disk.crashed
    assert Image.of(tmp_path).files == {"t": b""}


def test_a_torn_write_is_half_there(tmp_path: Path) -> None:
    """Through a buffered file too."""
    with SimulatedDisk(tmp_path, tear(2)), pytest.raises(SimulatedCrash):
        (tmp_path / "f").write_text("12345678")

    assert (tmp_path / "f").read_text() == "1234"


def test_a_full_disk_stays_full_but_gives_space_back(tmp_path: Path) -> None:
    """Writing and creating fail, removing and renaming do not."""
    (tmp_path / "f").write_text("x")
    with SimulatedDisk(tmp_path, fail_from(errno.ENOSPC)(1)):
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                (tmp_path / "g").write_text("y")
        (tmp_path / "f").rename(tmp_path / "h")
        (tmp_path / "h").unlink()

    assert Image.of(tmp_path).files == {}


def every_way(folder: Path) -> Iterator[Callable[[], object]]:
    """Each way that we know to change a folder, once."""
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

    def low() -> None:
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

    yield low
    yield lambda: shutil.move(folder / "n", folder / "e" / "n")
    yield lambda: shutil.rmtree(folder / "e" / "g")
    yield lambda: os.remove(folder / "a")  # noqa: PTH107
    yield lambda: os.rename(folder / "d", folder / "dd")  # noqa: PTH104


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_every_way_to_change_a_folder_is_seen(tmp_path: Path) -> None:
    """After each, what the disk believes is what the folder holds, and something was noted."""
    with SimulatedDisk(tmp_path) as disk:
        for act in every_way(tmp_path):
            before = len(disk.calls)
            act()
            assert len(disk.calls) > before
            assert disk.process_crash() == Image.of(tmp_path)
    assert {call.kind for call in disk.calls} == {*Kind} - {Kind.SYNC, Kind.SYNC_FOLDER}


def test_nothing_is_left_of_the_disk_when_it_is_taken_away(tmp_path: Path) -> None:
    """The functions are the system's again."""
    before = (os.open, os.write, os.fsync, os.replace, open, io.open)
    with SimulatedDisk(tmp_path):
        within = (os.open, os.write, os.fsync, os.replace, open, io.open)
        assert not set(within) & set(before)
    assert (os.open, os.write, os.fsync, os.replace, open, io.open) == before


def test_the_disk_ends_at_its_folder(tmp_path: Path) -> None:
    """A rename across its edge is refused, as it is between file systems."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.write_text("x")
    with SimulatedDisk(inside), pytest.raises(OSError, match="ends at its folder"):
        outside.rename(inside / "f")


@settings(max_examples=50, deadline=None)
@given(
    files=st.dictionaries(st.text("ab", min_size=1, max_size=2), st.binary(max_size=3), max_size=3),
    folders=st.sets(st.text("cd", min_size=1, max_size=2), max_size=2),
)
def test_an_image_put_into_a_folder_is_there(files: dict[str, bytes], folders: set[str]) -> None:
    """And what was there before is not."""
    inner = {f"{folder}/f": b"x" for folder in folders}
    image = Image({**files, **inner}, frozenset(folders))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image({"left/over": b"x", "a": b"", "d": b"x"}, frozenset({"left", "b"})).put_into(folder)
        image.put_into(folder)
        assert Image.of(folder) == image


@settings(max_examples=100, deadline=None)
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["write", "sync", "replace", "sync folder", "unlink"]),
                  st.sampled_from("abc"), st.sampled_from("abc")),
        max_size=8,
    ),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_losses_are_the_same_for_the_same_chance_and_keep_what_is_sure(
    acts: list[tuple[str, str, str]], seed: int
) -> None:
    """Deterministic, distinct, at most as many as asked; all synced leaves exactly one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with SimulatedDisk(folder) as disk:
            for act, one, other in acts:
                path = folder / one
                match act:
                    case "write":
                        path.write_bytes(one.encode() * 2)
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


def test_every_call_is_a_crash_point_once_and_every_write_is_torn(tmp_path: Path) -> None:
    """create, write, sync, rename, sync folder; and last the one after it came back."""
    crashes: list[Crash] = list(
        every_crash_point(tmp_path, lambda: right(tmp_path / "f.json", b"xy"))
    )

    assert [str(crash.call) for crash in crashes] == [
        "1: create f.tmp",
        "2: write f.tmp",
        "2: write f.tmp",
        "3: sync f.tmp",
        "4: rename f.tmp -> f.json",
        "5: sync folder .",
        "None",
    ]


def test_the_file_stands_alone_in_any_process(tmp_path: Path) -> None:
    """Loaded by its path, without our packages, it strikes a buffered write in a child."""
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
    done = subprocess.run(  # noqa: S603  our own program
        [sys.executable, "-I", "-c", program, str(disk_module.__file__), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["ENOSPC", "[]"]
