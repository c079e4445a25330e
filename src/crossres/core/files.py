"""Atomic files and the exact state of a run."""

import base64
import errno
import json
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from crossres.core.errors import CrossresError, demand_file, one_line
from crossres.core.types import Bools

#: Of a Python process: keeps the working folder from standing before the libraries; main.py does so in Python 3.10.
SAFE = ("-P",) if sys.version_info >= (3, 11) else ()


def cell(value: Any) -> Any:
    """Return a cell of a CSV file: a text that a spreadsheet would take for a formula has an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], Any], remedy: str = "") -> None:
    """Write a file beside ``path`` and rename it, so that ``path`` is whole or untouched.

    Raises:
        CrossresError: the disk is full or the folder cannot be written; the ``remedy`` is added to the message.
    """
    path = Path(os.path.realpath(path) if os.path.islink(path) else path)  # a link stays one
    demand_file(path)
    beside = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns the disk's error into one of its own
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = f"nothing was changed{'; free some space' if full else ''}{remedy}"
        raise CrossresError(f"cannot write {path}: {cause.strerror or one_line(cause)}; {hint}") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def part_of(path: Path) -> Path:
    """Return where this process writes what it renames to ``path``."""
    return path.with_name(f".{path.name}.{_place()}.{os.getpid()}.part")


def _place() -> str:
    """Return among whose processes a number is one process: of several machines or containers two may have it."""
    try:
        return f"{platform.node()}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return platform.node()


def sweep(path: Path) -> None:
    """Delete what processes of this machine or container that were killed left of a file or folder."""
    if os.name != "posix":  # elsewhere a signal of 0 is none
        return
    own = f".{path.name}.{_place()}."
    for part in (name for name in os.listdir(path.parent) if name.startswith(own) and name.endswith(".part")):
        try:
            os.kill(int(part.removeprefix(own).removesuffix(".part")), 0)
        except ProcessLookupError:
            with suppress(OSError):
                left = path.with_name(part)
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        except (OSError, ValueError, OverflowError):  # another user's, which lives
            continue


@contextmanager
def held(file: Path, wait: float = 0) -> Iterator[bool]:
    """Hold a lock; yield False where another process still has it after ``wait`` seconds. The empty file stays.

    The system lets go of it when its process ends, however.
    """
    from filelock import FileLock, Timeout

    lock, free = FileLock(file, timeout=wait), True
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        free = False
    except (OSError, NotImplementedError):
        pass  # a disk without locks, or one that cannot be written: the first file says so
    try:
        yield free
    finally:
        lock.release(force=True)


@contextmanager
def locked(file: Path, busy: str, wait: float = 0) -> Iterator[None]:
    """Keep other processes out, as `held`.

    Raises:
        CrossresError: ``busy``, where another process is still in after ``wait`` seconds.
    """
    with held(file, wait) as free:
        if not free:
            raise CrossresError(busy)
        yield


def to_json(document: Any, indent: int | None = None) -> str:
    """Return a document as JSON, which knows neither NaN nor infinity: they are null."""
    return json.dumps(json.loads(json.dumps(document), parse_constant=lambda _: None), indent=indent)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; CrossresError where there is none."""
    demand_file(path)
    try:
        return {**json.loads(path.read_bytes())}
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise CrossresError(f"{path}: not a JSON object: {one_line(error)}") from None


def write_json(path: str | Path, document: Any) -> None:
    """Write a JSON document atomically."""
    write_atomically(path, lambda f: f.write((to_json(document, 1) + "\n").encode()))


def holds_embeddings(path: str | Path) -> bool:
    """Return whether a path is that of stored embeddings: by its ending, or of a folder by its files' endings."""
    path = Path(path)
    return path.suffix.lower() in (".npz", ".npy", ".parquet") or any(path.glob("*.parquet"))


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write a run's state atomically."""
    import torch

    write_atomically(path, lambda f: torch.save(state, f))


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a run's state; nothing in it is executed.

    Raises:
        CrossresError: no such file, or one that is truncated or of another kind.
    """
    import torch

    demand_file(path)
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not compare the sums in it
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} in it is damaged")
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds {type(state).__name__}")
    except FileNotFoundError:
        raise CrossresError(f"{path}: nothing to resume there; start the run without --resume") from None
    except Exception as error:  # torch raises nearly anything on damaged bytes
        reason = one_line(str(error).partition("\n")[0])
        raise CrossresError(f"{path} is truncated or not the state of a run ({reason}); use --overwrite") from None
    return state


def encode_bits(right: npt.ArrayLike) -> str:
    """Write bool (N,) as base64 of its bits, eight to a byte, the first the highest."""
    return base64.b64encode(np.packbits(np.asarray(right)).tobytes()).decode()


def encode_codes(codes: npt.ArrayLike) -> str:
    """Write whole numbers (N,) as base64 of 4 bytes each."""
    return base64.b64encode(np.asarray(codes, dtype="<i4").tobytes()).decode()


def decode_codes(text: str) -> npt.NDArray[np.int32]:
    """Read what `encode_codes` wrote."""
    return np.frombuffer(base64.b64decode(text), dtype="<i4")


def decode_bits(text: str, count: int) -> Bools:
    """Read what `encode_bits` wrote of ``count`` images."""
    bits = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)
