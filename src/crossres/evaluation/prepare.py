"""What every judgement of an encoder shares: checked options, images, sizes, a device, outputs; and its end."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from crossres.config.experiment import Experiment
from crossres.config.judging import Judgement
from crossres.config.reading import read_run
from crossres.config.record import base_name
from crossres.core.devices import Device, resolve_device
from crossres.core.errors import CrossresError, composed, visible
from crossres.core.types import Float32s, Outputs
from crossres.data.degradation import Degradation
from crossres.data.images import ImageSet
from crossres.data.loader import Loader
from crossres.data.readers import SOURCES, read
from crossres.data.splits import Split
from crossres.models.encoder import Encoder

Autocast = Callable[[], AbstractContextManager[Any]]
#: Images per forward pass of an evaluation.
BATCH = 250
CPU = Device(torch.device("cpu"), "float32")
#: The lowest value of options that are numbers or lists of them.
LOWEST = {"sizes": 1, "hr_size": 1, "resamples": 0, "images.memory_mb": 0}
#: Options that lie between 0 and 1.
SHARES = ("images.test_fraction", "far", "fpir")


def check(options: Judgement) -> None:
    """Refuse values and combinations that no judgement can mean.

    Raises:
        CrossresError: naming the option as it is written.
    """
    for name in (*LOWEST, *SHARES):
        group, _, last = name.rpartition(".")
        given: Any = getattr(getattr(options, group) if group else options, last, None)
        for value in given if isinstance(given, (list, tuple)) else [] if given is None else [given]:
            if name in LOWEST and value < LOWEST[name]:
                raise CrossresError(f"--{name}: {value} is below {LOWEST[name]}")
            if name in SHARES and not 0 < value < 1:  # NaN neither
                raise CrossresError(f"--{name}: {value:g} is not between 0 and 1")
    for name in ("sizes", "degradation", "natural"):
        if getattr(options, "native", False) and getattr(options, name, None):
            raise CrossresError(f"--{name}: cannot be combined with native images (--native, --layout)")


def device_of(options: Judgement, encoder: Encoder) -> Device:
    """Return where a judgement runs, in the precision of the model's training if none is given."""
    return resolve_device(options.device, options.precision or encoder.info.get("precision", "float32"))


def read_run_on(folder: str | Path, data: str | None = None, remedy: str = "give --data, or ") -> Any:
    """Read the experiment of a run as `read_run` does, on other images where ``data`` names them, without its groups.

    CrossresError where `read_run` raises one, or where its own images are not found: it may have been trained from
    another folder.
    """
    config = read_run(folder)
    source = data or config.data
    if data is None and source not in SOURCES and not Path(source).expanduser().exists():
        raise CrossresError(
            f"{folder}: its images {source} are not found from here; {remedy}go to where it was trained"
        )
    known = base_name(source) == base_name(config.data)
    return replace(config, data=source, images=config.images if known else replace(config.images, group=None))


def read_split(
    options: Judgement | Experiment,
    split: Split,
    encoder: Encoder | None = None,
    *,
    data: str | None = None,
    open_set: bool = False,
    grouped: bool = True,
) -> ImageSet:
    """Read a split of the images, with the classes that the options name.

    Args:
        options: of the judgement or the training.
        split: which.
        encoder: its training says how a source without splits is split, if a judgement's options do not.
        data: another source than that of the options.
        open_set: the test split has classes of its own.
        grouped: in the groups of the options, or of the training.

    Raises:
        CrossresError: what `crossres.read` raises, or a class that is not there.
    """
    given, source = options.images, data or options.data
    names = ("image_column", "label_column", "corrupt", "download", "memory_mb", "group", "range", "verify")
    how: dict[str, Any] = {name: getattr(given, name) for name in names}
    trained = encoder.info if encoder else {}
    how["range"] = given.range or trained.get("range")
    known = base_name(source) in (trained.get("dataset"), trained.get("natural"))
    if known:  # or its test images would be split off in another way
        how["group"] = given.group or trained.get("group")
    if not grouped:
        how["group"] = None
    how |= {"test_fraction": held_out_share(options, encoder), "root": Path(given.root) if given.root else None}
    images = read(source, split=split, open_set=open_set, **how)
    if encoder and known and grouped and split == "test":
        note(*filter(None, [split_otherwise("model", trained, source, images, how)]))
    if given.classes is None:
        return images
    shared = [name for name in given.classes if composed(name) in images.classes]
    if data is None or not shared:
        return images.of_classes(given.classes)
    if lacking := [name for name in given.classes if name not in shared]:  # other images may have fewer classes
        note(f"{images.name}: it has {len(shared)} of the {len(given.classes)} classes, not '{lacking[0]}'")
    return images.of_classes(shared)


def read_in_groups(
    options: Judgement | Experiment,
    split: Split,
    group: str | None,
    encoder: Encoder | None = None,
    *,
    data: str | None = None,
) -> ImageSet:
    """Read a split as `read_split` does, in groups; without, and with a note, where it does not have such.

    Raises:
        CrossresError: what `read_split` raises but for groups.
    """
    given: Any = options
    try:
        grouped = replace(given, images=replace(given.images, group=group))
        return read_split(grouped, split, encoder, data=data)
    except CrossresError as error:
        if not group or not str(error).startswith("images.group"):
            raise
        note(f"{error}; each of its images counts alone")
        return read_split(options, split, encoder, data=data, grouped=False)


def split_otherwise(
    what: str, info: Mapping[str, Any], source: str, test: ImageSet, how: Mapping[str, Any]
) -> str | None:
    """Return a warning where a model, or a teacher, was trained on images that were split in another way.

    Args:
        what: ``model`` or ``teacher``.
        info: of it; a version that does not say a group split without groups.
        source: of the images, which it was trained on.
        test: images of their test split.
        how: ``group`` and ``test_fraction`` that they were split by.

    Returns:
        None for the same split, and for a source with splits of its own.
    """
    known = {"group": None, "test_fraction": how["test_fraction"], **info}
    other = next((name for name in ("group", "test_fraction") if known[name] != how[name]), None)
    if not (other and test.split_by_seed):
        return None
    return (
        f"{source}: the {what} was trained with images.{other} {known[other]}, not {how[other]}: it may have seen "
        "these test images, and results may be too high; give both the same one"
    )


def held_out_share(options: Judgement | Experiment, encoder: Encoder | None) -> float:
    """Return the share of a source without splits that is held out: that of the training if none is given."""
    return options.images.test_fraction or float(encoder.info.get("test_fraction", 0.2) if encoder else 0.2)


def sizes_of(encoder: Encoder) -> tuple[int, int, int]:
    """Return the HR size of an encoder's training and the smallest and largest LR size, in pixels.

    Raises:
        CrossresError: the model does not say its HR size.
    """
    hr_size = int(encoder.info.get("hr_size") or encoder.input_size or 0)
    if not hr_size:
        raise CrossresError("the model does not say its hr_size; save it with info={'hr_size': ...}")
    trained: Any = encoder.info.get("lr_size") or encoder.input_size or hr_size
    low, high = (trained, trained) if isinstance(trained, int) else trained
    return hr_size, int(low), int(high)


def degradation_of(options: Judgement, encoder: Encoder) -> Degradation:
    """Return the degradation of a judgement: that of the training if none is given."""
    return options.degradation or Degradation(**(encoder.info.get("degradation") or {}))


def loader_of(
    options: Judgement, encoder: Encoder, images: ImageSet, device: Device, *, native: bool = False
) -> Loader:
    """Return a loader of images as an encoder's training read them; native ones at its largest LR size, as they are.

    Raises:
        CrossresError: the model does not say its HR size.
    """
    hr_size, low, high = sizes_of(encoder)
    return Loader(
        images,
        hr_size=high if native else hr_size,
        lr_size=high if native or low == high else (low, high),
        degradation=Degradation() if native else degradation_of(options, encoder),
        device=device.torch,
        fit=encoder.info.get("fit", "crop"),
        memory_mb=options.images.memory_mb,
    )


def batch_outputs(
    encoder: Encoder,
    loader: Loader,
    autocast: Autocast = nullcontext,
    batch_size: int = BATCH,
    *,
    mirrored: bool = False,
    positions: Sequence[int] | None = None,
) -> Iterator[Outputs]:
    """Yield the outputs of each batch at low resolution, in eval mode; the encoder's mode comes back at the end.

    With ``mirrored`` an embedding is the mean over the image and its mirror image; with ``positions`` only those
    images are read.
    """
    training = encoder.training
    encoder.eval()
    try:
        for batch in loader.ordered(positions, batch_size=batch_size):
            with torch.inference_mode():
                with autocast():
                    outputs: Outputs = encoder(batch.lr)
                    if mirrored:  # the small image itself, as a camera gives no second one with other noise
                        both = outputs.embedding.float() + encoder(batch.lr.flip(3)).embedding.float()
                        outputs = replace(outputs, embedding=both / 2)
                if encoder.classifier is not None:  # in bfloat16 logits tie
                    embedding = outputs.embedding.to(encoder.classifier.weight.dtype)
                    outputs = replace(outputs, logits=encoder.classifier(embedding))
            yield outputs
    finally:
        encoder.train(training)


def logits_of(encoder: Encoder, loader: Loader, autocast: Autocast = nullcontext, batch_size: int = BATCH) -> Tensor:
    """Return the logits of every image at its low resolution, float32 (N, classes), in the loader's order."""
    positions = own_positions(loader, batch_size)
    outputs = batch_outputs(encoder, loader, autocast, batch_size, positions=positions)
    parts = [batch.logits.float() for batch in outputs if batch.logits is not None]
    return _of_all(parts, len(encoder.classes), loader, positions)


def own_positions(loader: Loader, batch_size: int) -> list[int] | None:
    """Return the images that this process of the loader's judges: every n-th batch, whole, as one process would.

    None, all of them, where it is the only one.
    """
    if loader.world_size == 1:
        return None
    count, step = len(loader.images), loader.world_size * batch_size
    starts = range(loader.rank * batch_size, count, step)
    return [at for start in starts for at in range(start, min(start + batch_size, count))]


def _of_all(parts: list[Tensor], width: int, loader: Loader, positions: list[int] | None) -> Tensor:
    """Return the rows (N, width) of all images, given those of this process's ``positions`` in order."""
    if positions is None:
        return torch.cat(parts)
    rows = torch.zeros(len(loader.images), width, device=loader.label.device)
    if parts:
        rows[positions] = torch.cat(parts).to(rows)
    distributed.all_reduce(rows)  # of each row all but one process add 0
    return rows


def embeddings_of(
    encoder: Encoder,
    loader: Loader,
    autocast: Autocast = nullcontext,
    batch_size: int = BATCH,
    progress: Callable[[int, int], None] = lambda *_: None,
    *,
    mirrored: bool = False,
) -> Float32s:
    """Return the embedding of every image at its low resolution, float32 (N, d), in the loader's order.

    ``progress`` is called with the number of images done and of all; ``mirrored`` as of `batch_outputs`.
    """
    parts: list[Tensor] = []
    positions = own_positions(loader, batch_size)
    count = len(loader.images if positions is None else positions)
    for outputs in batch_outputs(encoder, loader, autocast, batch_size, mirrored=mirrored, positions=positions):
        parts.append(outputs.embedding.float().cpu())
        progress(min(len(parts) * batch_size, count), count)
    embeddings: Float32s = _of_all(parts, encoder.embedding_dim, loader, positions).cpu().numpy()
    return embeddings


def note(*lines: str) -> None:
    """Tell the user something that is not a result."""
    for line in lines:
        print(visible(line), file=sys.stderr)


class Unwritten(CrossresError):
    """A file of a judgement cannot be written; the numbers are not lost.

    Attributes:
        document: the result.
    """

    def __init__(self, message: str, document: dict[str, Any]) -> None:
        super().__init__(message)
        self.document = document


@contextmanager
def kept(document: dict[str, Any]) -> Iterator[None]:
    """Raise `Unwritten` with the result where a file cannot be written."""
    try:
        yield
    except CrossresError as error:
        raise Unwritten(str(error), document) from error
