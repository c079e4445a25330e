"""Transfer: what a frozen encoder's embeddings are worth on images it was not trained for."""

from collections.abc import Callable
from typing import Any

from crossres.config.judging import Transfer
from crossres.config.record import base_name
from crossres.core.devices import Device
from crossres.core.errors import CrossresError, needs
from crossres.data.images import ImageSet, left_out
from crossres.data.splits import stratified_split
from crossres.evaluation.exported import exported_encoder
from crossres.evaluation.prepare import CPU, check, device_of, embeddings_of, loader_of, note, read_split
from crossres.models.encoder import Encoder
from crossres.models.pretrained import from_pretrained

#: Inverse strengths of the probe's regularisation that validation chooses from.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Neighbours that validation chooses from.
NEIGHBOURS = (1, 5, 10, 20, 50)
#: Share of the training images that chooses, class by class.
VAL_FRACTION = 0.2


def transfer(options: Transfer) -> dict[str, Any]:
    """Judge a saved model's embeddings on other labelled images, as ``crossres transfer`` does; notes go to stderr.

    Returns:
        What `transfer_encoder` returns, the name of the model and the precision.

    Raises:
        CrossresError: options out of range, no such model or images, or what `transfer_encoder` raises.
    """
    check(options)
    encoder = exported_encoder(options.model) or from_pretrained(options.model, trust_code=options.trust_code)
    device = device_of(options, encoder)
    train, test = read_split(options, "train", encoder), read_split(options, "test", encoder)
    note(*left_out({"train": train, "test": test}))
    result = transfer_encoder(encoder, train, test, options, device)
    return {"model": base_name(options.model), **result, "precision": device.precision}


def transfer_encoder(
    encoder: Encoder, train: ImageSet, test: ImageSet, options: Transfer, device: Device = CPU
) -> dict[str, Any]:
    """Judge a frozen encoder on another labelled set: a linear probe and nearest neighbours on its embeddings.

    The images are brought to the encoder's low resolution as in its training. The probe is multinomial logistic
    regression on standardised embeddings, the neighbours vote with the inverse of their cosine distance; a fifth of
    the training images chooses the probe's regularisation and the number of neighbours, then all are learnt from.

    Args:
        encoder: ``encoder.info`` says hr_size, lr_size, degradation and fit.
        train: images that the probe learns and the neighbours come from, with classes of their own.
        test: the same classes.
        options: degradation and the memory for decoded images.
        device: where the encoder runs, in which precision.

    Returns:
        ``{dataset, images, classes, hr_size, lr_size, degradation, probe_top1, probe_strength, knn_top1, neighbours,
        chosen_on}``; accuracies in percent on ``test``.

    Raises:
        CrossresError: no scikit-learn, a model that does not say its sizes, classes that differ, or too few images
            to choose on.
    """
    if train.classes != test.classes:
        raise CrossresError(f"{train.name}: the test images have other classes than the training images")
    kept, held_out = stratified_split(train.labels, VAL_FRACTION, 0, groups=train.groups)
    if not len(held_out):
        what = "images" if train.groups is None else "groups"
        raise CrossresError(f"{train.name}: too few {what} to choose on; a class needs at least 2")
    builders = _classifiers(len(kept))
    encoder = encoder.to(device.torch)
    loader, of_test = (loader_of(options, encoder, images, device) for images in (train, test))
    x, x_test = embeddings_of(encoder, loader, device.autocast), embeddings_of(encoder, of_test, device.autocast)
    best, top1 = {}, {}
    for name, (build, choices) in builders.items():
        fitted = ((choice, build(choice).fit(x[kept], train.labels[kept])) for choice in choices)
        scores = {choice: model.score(x[held_out], train.labels[held_out]) for choice, model in fitted}
        best[name] = max(scores, key=lambda choice: scores[choice])
        top1[name] = 100 * float(build(best[name]).fit(x, train.labels).score(x_test, test.labels))
    return {
        "dataset": train.name,
        "images": {"train": len(train), "test": len(test)},
        "classes": len(train.classes),
        "hr_size": loader.hr_size,
        "lr_size": loader.lr_size if isinstance(loader.lr_size, int) else list(loader.lr_size),
        "degradation": {"preset": loader.degradation.preset, "kernel": loader.degradation.kernel},
        "probe_top1": top1["probe"],
        "probe_strength": best["probe"],
        "knn_top1": top1["knn"],
        "neighbours": best["knn"],
        "chosen_on": len(held_out),
    }


def _classifiers(images: int) -> dict[str, tuple[Callable[[Any], Any], tuple[float, ...]]]:
    """Return what builds each classifier for so many training images, and what validation chooses from."""
    with needs("transfer", "bench"):
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    def probe(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))

    def neighbours(count: int) -> Any:
        return KNeighborsClassifier(min(count, images), metric="cosine", weights="distance")

    return {"probe": (probe, STRENGTHS), "knn": (neighbours, NEIGHBOURS)}
