"""Files that are whole or untouched, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from crossres.core.errors import CrossresError
from crossres.core.files import (
    decode_bits,
    encode_bits,
    held,
    load_state,
    locked,
    part_of,
    read_json,
    save_state,
    write_atomically,
    write_json,
)


@pytest.fixture
def small_files() -> Iterator[None]:
    """The kernel refuses to let any file grow above 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_line(error: pytest.ExceptionInfo[CrossresError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.json"
    write_json(path, {"a": [1]})
    write_json(path, {"a": [2]})
    assert json.loads(path.read_text()) == {"a": [2]}
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
def test_a_failure_half_way_leaves_the_old_file_alone(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file) -> None:
        file.write(b"new, but only ha")
        raise failure

    with pytest.raises(CrossresError if isinstance(failure, OSError) else type(failure)):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_device(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    # what is written beside the file goes to a device that is really full
    part_of(path).symlink_to("/dev/full")
    with pytest.raises(CrossresError) as error:
        write_json(path, {"a": 1})
    assert one_line(error) == f"cannot write {path}: No space left on device; nothing was changed; free some space"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.usefixtures("small_files")
def test_a_state_that_finds_no_room_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"epoch": 1, "weights": torch.ones(10)})
    with pytest.raises(CrossresError) as error:
        save_state(path, {"epoch": 2, "weights": torch.ones(100_000)})
    assert str(path) in one_line(error)
    assert "free some space" in one_line(error)
    state = load_state(path)
    assert state["epoch"] == 1
    assert torch.equal(state["weights"], torch.ones(10))
    assert os.listdir(tmp_path) == ["state.pt"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(CrossresError) as error:
        write_json(tmp_path / "runs" / "a" / "result.json", {})
    assert "Not a directory" in one_line(error)
    assert "space" not in one_line(error)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"epoch": 3, "weights": {"a": torch.randn(3)}, "average": None, "rows": [{"epoch": 1, "loss": 0.5}]}
    save_state(tmp_path / "state.pt", state)
    back = load_state(tmp_path / "state.pt")
    assert torch.equal(back["weights"].pop("a"), state["weights"].pop("a"))
    assert back == state


def test_a_missing_state(tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match="nothing to resume there; start the run without --resume"):
        load_state(tmp_path / "state.pt")


class Trap:
    """Unpickling one would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99, -1])
def test_a_truncated_state(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"weights": torch.ones(5000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CrossresError) as error:
        load_state(path)
    assert "truncated" in one_line(error)
    assert "--overwrite" in one_line(error)


@pytest.mark.parametrize("content", [b"no state", [1, 2, 3], Trap()])
def test_a_file_of_another_kind_is_refused_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CrossresError) as error:
        load_state(path)
    assert "not the state of a run" in one_line(error)
    assert not (tmp_path / "sprung").exists()


def test_bits_come_back() -> None:
    right = np.random.default_rng(0).random(37) < 0.5
    assert np.array_equal(decode_bits(encode_bits(right), 37), right)


def test_a_damaged_state(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"weights": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    content[content.find(torch.ones(2).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CrossresError, match=r"in it is damaged\); use --overwrite$"):
        load_state(path)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    own, gone = part_of(tmp_path / "result.json").name, int(ended.stdout)
    parts = [own.replace(f".{os.getpid()}.", f".{number}.") for number in (gone, os.getppid())]
    # of another machine, and of a container that shares the name of this one
    parts += [f".result.json.{place}.{gone}.part" for place in ("elsewhere", f"{platform.node()}.1")]
    for part in parts:
        (tmp_path / part).write_text("half")
    (tmp_path / f"{parts[0]}.model").mkdir()  # of another name
    write_json(tmp_path / "result.json", {})
    assert sorted(os.listdir(tmp_path)) == sorted([*parts[1:], f"{parts[0]}.model", "result.json"])


def test_a_lock_is_of_one_process_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lock"
    with held(file) as mine:
        assert mine
        with held(file) as free:
            assert not free
        with pytest.raises(CrossresError, match=r"^it is busy$"), locked(file, "it is busy"):
            pass
    with locked(file, "it is busy"):
        assert file.exists()


def test_links_are_written_through_and_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "far.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "far.json") == {"a": 1}
    os.mkfifo(tmp_path / "pipe.json")
    for act in (lambda path: write_json(path, {}), read_json):
        with pytest.raises(CrossresError, match=r"pipe\.json is not a file"):
            act(tmp_path / "pipe.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(CrossresError, match=r"list\.json: not a JSON object: "):
        read_json(tmp_path / "list.json")


def test_json_holds_no_number_that_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {"a": [float("nan"), 1.5], "b": {"c": -float("inf")}})
    assert (tmp_path / "result.json").read_text() == '{\n "a": [\n  null,\n  1.5\n ],\n "b": {\n  "c": null\n }\n}\n'
