"""Tests of the output of background processes: whole for its reader, bounded on the disk (W12)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reference_impl.agents import output_file
from reference_impl.agents.output_file import SPARE_BYTES, TAIL_BYTES, OutputFile

BLOCK_BYTES = 512  # of st_blocks
SLACK_BYTES = 1 << 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proc.out"


@pytest.fixture
def output(path: Path) -> Iterator[OutputFile]:
    output = OutputFile(str(path))
    yield output
    output.close()


def printed(path: Path, data: bytes) -> None:
    """Append, as the process does."""
    with path.open("ab") as file:
        file.write(data)


def read(output: OutputFile) -> bytes:
    data = bytearray()
    while new := output.read_new():
        data += new
    return bytes(data)


@pytest.mark.parametrize(
    "size", [0, 1, TAIL_BYTES - 1, TAIL_BYTES, TAIL_BYTES + 1, 3 * SPARE_BYTES]
)
def test_output_is_read_once_and_keeps_its_tail(path: Path, output: OutputFile, size: int) -> None:
    data = os.urandom(size)
    printed(path, data)

    assert read(output) == data
    assert output.read_new() == b""
    assert output.tail() == data[-TAIL_BYTES:]
    assert output.size() == size


def test_disk_is_given_back_while_the_process_prints(path: Path, output: OutputFile) -> None:
    """W12: twenty times the spare room is printed, in parts, and read."""
    for _ in range(20):
        printed(path, os.urandom(SPARE_BYTES))
        assert len(read(output)) == SPARE_BYTES

    on_disk = path.stat().st_blocks * BLOCK_BYTES
    assert on_disk <= SPARE_BYTES + TAIL_BYTES + SLACK_BYTES
    assert output.size() == 20 * SPARE_BYTES


def test_next_host_skips_what_was_given_back(path: Path, output: OutputFile) -> None:
    printed(path, b"x" * 4 * SPARE_BYTES + b"end")
    read(output)

    again = OutputFile(str(path), 10)

    assert again.position > 10
    assert read(again).strip(b"\0").startswith(b"x")
    assert again.tail().endswith(b"end")
    again.close()


def test_disk_without_holes_keeps_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_file, "_fallocate", None)
    output = OutputFile(str(path))
    data = os.urandom(3 * SPARE_BYTES)
    printed(path, data)

    assert read(output) == data
    assert output.tail() == data[-TAIL_BYTES:]
    output.close()
