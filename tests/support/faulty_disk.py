"""Disks that fail: one its n-th call in a chosen way, one a call of every checkpoint, one all of them."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

from shards.disk.file_calls import OsDisk

ERRNOS = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EINTR, errno.EAGAIN]
ACTIONS = [
    "kill before",
    "kill after",
    "lost answer",  # the call is done, its answer says EIO
    "half, said so",
    "half, not said",
    *(errno.errorcode[number] for number in ERRNOS),
]


class Killed(BaseException):
    """The process is gone: from here on this disk does nothing for it."""


class FaultyDisk:
    def __init__(self, at: int, action: str) -> None:
        self.at, self.action = at, action
        self.calls: list[str] = []
        self.fired = False
        self._dead = False
        self._real = OsDisk()

    def _run(self, name: str, call: Callable[[], int | None], half: Callable[[], int] | None = None) -> int | None:
        if self._dead:
            raise Killed
        self.calls.append(name)
        if len(self.calls) - 1 != self.at:
            return call()
        self.fired = True
        if self.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            return call()
        if self.action == "kill before":
            self._dead = True
            raise Killed
        if self.action == "kill after":
            call()
            self._dead = True
            raise Killed
        if self.action == "lost answer":
            call()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self.action.startswith("half"):
            if half is None:
                return call()
            taken = half()
            return taken if self.action == "half, said so" else 2 * taken
        raise OSError(getattr(errno, self.action), os.strerror(getattr(errno, self.action)))

    def create(self, path: Path) -> int:
        fd = self._run("create", lambda: self._real.create(path))
        assert fd is not None
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        even = len(data) // 2 * 2  # so that "half, not said" reports a whole even write
        taken = self._run(
            "write", lambda: self._real.write(fd, data), lambda: self._real.write(fd, data[: even // 2]) if even else 0
        )
        assert taken is not None
        return taken

    def fsync(self, fd: int) -> None:
        self._run("fsync", lambda: self._real.fsync(fd))

    def close(self, fd: int) -> None:
        # a descriptor is closed even if close(2) reports an error, and when the process dies
        self._real.close(fd)
        self._run("close", lambda: None)

    def link(self, source: Path, target: Path) -> None:
        self._run("link", lambda: self._real.link(source, target))

    def replace(self, source: Path, target: Path) -> None:
        self._run("replace", lambda: self._real.replace(source, target))

    def unlink(self, path: Path) -> None:
        self._run("unlink", lambda: self._real.unlink(path))

    def fsync_dir(self, path: Path) -> None:
        self._run("fsync_dir", lambda: self._real.fsync_dir(path))

    def mkdir(self, path: Path) -> None:
        self._run("mkdir", lambda: self._real.mkdir(path))

    def rmdir(self, path: Path) -> None:
        self._run("rmdir", lambda: self._real.rmdir(path))


class RefusingDisk(OsDisk):
    """Refuses one call of each checkpoint, another one each time, until each has been: full and over quota in turn."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self._left = 0  # calls until the next refusal

    def _count(self, name: str) -> None:
        self._left -= 1
        if self._left == 0:
            number = (errno.ENOSPC, errno.EDQUOT)[len(self.refused) % 2]
            self.refused.append(name)
            raise OSError(number, os.strerror(number))

    def mkdir(self, path: Path) -> None:
        if not path.name.startswith("step-"):
            self._left = 1 - len(self.refused)  # the folder of all, made once
        else:
            self._left = len(self.refused)
        self._count("mkdir")
        super().mkdir(path)

    def create(self, path: Path) -> int:
        self._count("create")
        return super().create(path)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._count("write")
        return super().write(fd, data)

    def fsync(self, fd: int) -> None:
        self._count("fsync")
        super().fsync(fd)

    def close(self, fd: int) -> None:
        super().close(fd)
        self._count("close")

    def replace(self, source: Path, target: Path) -> None:
        self._count("replace")
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._count("unlink")
        super().unlink(path)

    def fsync_dir(self, path: Path) -> None:
        self._count("fsync_dir")
        super().fsync_dir(path)

    def rmdir(self, path: Path) -> None:
        self._count("rmdir")
        super().rmdir(path)


class FullDisk(OsDisk):
    """Has no room for a checkpoint."""

    def mkdir(self, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


DISKS = {"real": OsDisk, "refusing": RefusingDisk, "full": FullDisk}
