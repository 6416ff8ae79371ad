"""Locks: one run per stage and source at a time. The operating system releases a lock even after kill -9."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from profilestream.base.errors import BadSettings, Refused
from profilestream.base.files import local_path


@contextmanager
def hold_lock(folder: str, name: str) -> Iterator[None]:
    """Hold the lock `<folder>/<name>.lock` during the block.

    Args:
        folder: on the driver's machine; a URI of a remote file system is an error.
        name: what is locked, such as `capture/online_retail`.

    Raises:
        BadSettings: the folder is not on this machine.
        Refused: another process holds the lock.
    """
    local = local_path(folder)
    if local is None:
        raise BadSettings(
            f"locks cannot be stored at {folder}: it is not on this machine",
            where="settings, paths.locks",
            do="set paths.locks to a folder of the machine that starts the jobs",
        )
    path = os.path.join(local, f"{name}.lock")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refused(
                f"{name} is already running (process {file.read().strip() or 'unknown'})",
                where=path,
                do="wait for it to end, or stop it; only one run of a stage and source is allowed at a time",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
