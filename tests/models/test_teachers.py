"""Teachers: frozen, in the data's order of classes; stored embeddings, found by path or file name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from crossres.core.errors import CrossresError
from crossres.data.readers import read
from crossres.models import teachers
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import from_pretrained, save_pretrained
from crossres.models.teachers import frozen_teacher, stored_encoder, stored_outputs
from crossres.models.weights import weights_sha256

CLASSES = ("ant", "bee", "cat")
PATHS = [f"{person}/{person}_{number}.png" for person in ("ann", "bob", "cleo") for number in (1, 2)]
VALUES = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.fixture
def saved(tmp_path):
    encoder = build_encoder("resnet8", classes=CLASSES, input_size=8)
    save_pretrained(encoder, tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_teacher_is_frozen(saved):
    teacher = frozen_teacher(from_pretrained(saved), CLASSES, "the teacher")
    assert not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert teacher.classes == CLASSES


def test_rows_follow_the_data(saved):
    images = torch.rand(4, 3, 8, 8)
    expected = frozen_teacher(from_pretrained(saved), CLASSES, "the teacher")(images).logits
    teacher = frozen_teacher(from_pretrained(saved), ["cat", "ant", "bee"], "the teacher")
    assert teacher.classes == ("cat", "ant", "bee")
    torch.testing.assert_close(teacher(images).logits, expected[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("ant", "bee"), "knows 3 classes, the data has 2: its 'cat' is not in the data"),
        (("ant", "bee", "dog"), "the data has 3: the data's 'dog' is unknown to it"),
        (("ant", "bee", "cat", "cat"), "names a class twice"),
    ],
)
def test_other_classes_are_refused(saved, classes, message):
    with pytest.raises(CrossresError, match=message):
        frozen_teacher(from_pretrained(saved), classes, "the teacher")


def test_a_teacher_that_may_know_more_keeps_the_rows_of_the_data(saved):
    images = torch.rand(4, 3, 8, 8)
    expected = frozen_teacher(from_pretrained(saved), CLASSES, "the teacher")(images).logits
    teacher = frozen_teacher(from_pretrained(saved), ["cat", "ant"], "the teacher", may_know_more=True)
    assert teacher.classes == ("cat", "ant")
    torch.testing.assert_close(teacher(images).logits, expected[:, [2, 0]])
    for classes in (("ant", "dog"), ("ant", "ant")):
        with pytest.raises(CrossresError, match=r"'dog' is unknown to it|names a class twice"):
            frozen_teacher(from_pretrained(saved), classes, "the teacher", may_know_more=True)


def test_a_teacher_without_classifier_fits_any_classes(tmp_path):
    save_pretrained(build_encoder("resnet8", classes=(), input_size=8), tmp_path / "t")
    assert (
        frozen_teacher(from_pretrained(tmp_path / "t"), CLASSES, "the teacher")(torch.rand(1, 3, 8, 8)).logits is None
    )


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for path in PATHS:
        (tmp_path / "people" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "people" / path)
    return tmp_path / "people"


def written(folder: Path, kind: str, paths: list[str] = PATHS, values: np.ndarray = VALUES) -> Path:
    path = folder / f"teacher.{kind}"
    if kind == "npz":
        np.savez(path, path=np.array(paths), embedding=values)
    elif kind == "npy":
        np.save(path, values)
        path.with_suffix(".txt").write_text("\n".join(paths) + "\n")
    else:
        pq.write_table(pa.table({"path": paths, "embedding": values.tolist()}), path)
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "parquet"])
def test_each_image_gets_its_own(kind: str, people: Path, tmp_path: Path) -> None:
    order = [3, 0, 5, 1, 4, 2]
    path = written(tmp_path, kind, [PATHS[i] for i in order], VALUES[order])
    teacher = stored_encoder(path)
    assert (teacher.embedding_dim, teacher.classes) == (4, ())
    images = read(people, split="all")
    cache = stored_outputs(teacher, images, torch.device("cpu"))
    index = torch.tensor([4, 1, 0])
    for view in (0, 1):
        said = cache(index, torch.full((3,), view))
        assert np.array_equal(said.embedding.numpy(), VALUES[[PATHS.index(images.path(i)) for i in (4, 1, 0)]])
        assert said.logits is None


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say")
def test_large_ones_are_mapped_and_not_read(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSRES_CACHE", str(tmp_path / "cache"))
    plain = stored_encoder(written(tmp_path, "parquet"))
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(teachers, "MAPPED", 0)
    for _ in range(2):
        teacher = frozen_teacher(stored_encoder(tmp_path / "teacher.parquet"), (), "the teacher")
        (file,) = (tmp_path / "cache").glob("*.npy")
        assert str(file) in mapped_files()
        assert weights_sha256(teacher) == weights_sha256(plain)
        cache = stored_outputs(teacher, read(people, split="all"), "cpu")
        assert np.array_equal(cache.embeddings(6).numpy(), VALUES)
        address = cache.shards[0]["embedding"].data_ptr()
        (line,) = [line for line in mapped_files().splitlines() if str(file) in line]
        low, high = (int(number, 16) for number in line.split()[0].split("-"))
        assert low <= address < high
        del teacher, cache
    changed = pa.table({"path": PATHS, "embedding": [*(VALUES[1:] + 1).tolist(), None]})
    pq.write_table(changed, tmp_path / "teacher.parquet")
    assert len(stored_encoder(tmp_path / "teacher.parquet").backbone.paths.names) == 5
    ragged = pa.table({"path": PATHS[:2], "embedding": [[1.0], [1.0, 2.0]]})
    pq.write_table(ragged, tmp_path / "teacher.parquet")
    with pytest.raises(CrossresError, match=r"cannot be read as stored embeddings \(rows of 1 and of 2 numbers"):
        stored_encoder(tmp_path / "teacher.parquet")


def test_a_list_of_paths_that_is_missing_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "npy")
    path.with_suffix(".txt").unlink()
    with pytest.raises(CrossresError, match=r"teacher.txt: No such file or directory$"):
        stored_encoder(path)


def test_file_names_do_where_they_differ(people: Path, tmp_path: Path) -> None:
    teacher = stored_encoder(written(tmp_path, "npz", [path.split("/")[1] for path in PATHS]))
    said = stored_outputs(teacher, read(people, split="all"), torch.device("cpu"))
    assert np.array_equal(said.embeddings(6).numpy(), VALUES)


def test_another_persons_file_of_the_same_name_does_not_answer(people: Path, tmp_path: Path) -> None:
    elsewhere = [f"x/{path.split('/')[1]}" for path in PATHS]
    teacher = stored_encoder(written(tmp_path, "npz", elsewhere))
    with pytest.raises(CrossresError, match=r"\(6 of 6 images of people lack one\); it has '"):
        stored_outputs(teacher, read(people, split="all"), torch.device("cpu"))


def test_other_values_are_another_teacher(tmp_path: Path) -> None:
    digests = [
        weights_sha256(stored_encoder(written(tmp_path, "npz", values=values)))
        for values in (VALUES, VALUES + 1, VALUES)
    ]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (VALUES.astype(str), r"embeddings of type <U\d+, expected numbers"),
        (VALUES.astype("datetime64[s]"), r"embeddings of type datetime64\[s\], expected numbers"),
        (VALUES.view("V8"), r"embeddings of type \|?V8, expected numbers"),
        (VALUES.astype(complex), "embeddings of type complex128, expected numbers"),
        (np.full((6, 4), 1e300), r"the embedding of ann/ann_1.png holds NaN or infinity \(6 such"),
    ],
)
def test_what_are_no_numbers_is_refused(values: np.ndarray, line: str, tmp_path: Path) -> None:
    with pytest.raises(CrossresError, match=rf"^[^\n]*{line}[^\n]*$"):
        stored_encoder(written(tmp_path, "npz", values=values))


def test_a_damaged_page_of_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.parquet"
    pq.write_table(
        pa.table({"path": PATHS, "embedding": VALUES.tolist()}),
        path,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    content = bytearray(path.read_bytes())
    content[content.find(VALUES[2, 1].astype(np.float64).tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CrossresError, match=r"teacher.parquet: .*CRC checksum verification failed"):
        stored_encoder(path)


def test_what_is_wrong_is_said_in_one_line(people: Path, tmp_path: Path) -> None:
    broken = VALUES.copy()
    broken[2, 1] = np.nan
    no_columns = tmp_path / "columns.parquet"
    pq.write_table(pa.table({"file": PATHS}), no_columns)
    no_arrays = tmp_path / "arrays.npz"
    np.savez(no_arrays, path=np.array(PATHS))
    noise = tmp_path / "noise.parquet"
    noise.write_bytes(b"noise")
    cases = [
        (tmp_path / "none.npz", "none.npz: No such file"),
        (noise, "noise.parquet: cannot be read as stored embeddings"),
        (no_columns, "has no column 'path'; it has file"),
        (no_arrays, "has no array 'embedding'; it has path"),
        (written(tmp_path, "npz", values=broken), "embedding of bob/bob_1.png holds NaN or infinity .1 such"),
        (written(tmp_path, "npy", PATHS[:-1]), r"5 paths and embeddings of \(6, 4\)"),
        (written(tmp_path, "parquet", [*PATHS[:-1], PATHS[0]]), "ann/ann_1.png has two embeddings"),
    ]
    for path, line in cases:
        with pytest.raises(CrossresError, match=rf"^[^\n]*{line}[^\n]*$"):
            stored_encoder(path)
    few = stored_encoder(written(tmp_path, "npz", PATHS[:3], VALUES[:3]))
    with pytest.raises(
        CrossresError, match=r"no embedding of bob/bob_2.png \(3 of 6 images of people lack one\); it has '"
    ):
        stored_outputs(few, read(people, split="all"), torch.device("cpu"))
    with pytest.raises(
        CrossresError, match=r"there are embeddings of the stored images only; leave teacher_cache on$"
    ):
        few(torch.zeros(1, 3, 8, 8))
