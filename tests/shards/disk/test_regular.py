"""Opening files from elsewhere: nothing under the name of a file may hang or fill the memory."""

import errno
import hashlib
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.disk.regular import open_regular, read_regular, sha256_of
from shards.disk.store import FolderStore


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, device])
@pytest.mark.parametrize(
    "read",
    [
        read_regular,
        open_regular,
        sha256_of,
        lambda path: FolderStore(path.parent).read_bytes(path.name),
        lambda path: FolderStore(path.parent).read_range(path.name, 0, 10),
    ],
)
def test_a_pipe_or_a_device_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    make(tmp_path / "00000.tar")
    with pytest.raises(OSError, match="found a pipe, a device or a socket, expected a file") as error:
        read(tmp_path / "00000.tar")
    assert error.value.filename == str(tmp_path / "00000.tar")


def test_a_socket_and_a_folder_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listening(tmp_path / "socket")
    with pytest.raises(OSError) as error:
        read_regular(tmp_path / "socket")
    assert error.value.errno == errno.ENXIO
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent")


def test_a_sparse_file_of_20_gb_is_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "00000_stats.json"
    path.touch()
    os.truncate(path, 20 * 10**9)
    for at_most, said in ((1 << 20, "1,048,576"), (None, "1,073,741,824")):
        with pytest.raises(OSError, match=re.escape(f"found 20,000,000,000 bytes, expected at most {said}")):
            read_regular(path) if at_most is None else read_regular(path, at_most)


def test_a_file_is_read_as_a_whole_through_a_link_too(tmp_path: Path) -> None:
    for size in (0, 1, 5_000_000):
        data = os.urandom(size)
        (tmp_path / "file").write_bytes(data)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("file")
        assert read_regular(tmp_path / "link", size) == data
        assert sha256_of(tmp_path / "link") == hashlib.sha256(data).hexdigest()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x" * 100)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        for name, at_most in (("pipe", 10), ("file", 10), ("file", 100)):
            try:
                read_regular(tmp_path / name, at_most)
            except OSError:
                continue
    assert len(os.listdir("/proc/self/fd")) == before
