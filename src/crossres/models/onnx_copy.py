"""A trainable torch copy of an ONNX file: a student that starts where its black-box teacher stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from crossres.core.errors import CrossresError
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.onnx_teacher import OnnxBackbone, onnx_encoder

#: name of such a network in an architecture
COPY = "onnx-copy"
#: opset of the copy's file; of later ones onnx2torch lacks operators that mean the same there
OPSET = 13
#: how far the copy may be from the file on a probe, relative to the file's largest number
CLOSE = 1e-3


class _Enlarged(nn.Module):
    """A module that lays maps of one size flat, behind the resizing of others to it.

    Args:
        module: reads maps (B, c, h, w), and may read more.
        size: h and w.
    """

    def __init__(self, module: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.module = module
        self.size = size

    def forward(self, maps: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        said: torch.Tensor = self.module(F.interpolate(maps, self.size, mode="bilinear"), *rest)
        return said


class _Copy(nn.Module):
    """Normalised images (B, 3, s, s), RGB -> embedding (B, d), as the file's input is declared."""

    def __init__(self, network: nn.Module, wanted: OnnxInput, source: Path) -> None:
        super().__init__()
        #: kept beside the weights when the encoder is saved: it says how to build the network again
        self.source = source
        self.network = network
        self.wanted = wanted

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.flip(1) if self.wanted.colours == "bgr" else images
        x = x.permute(0, 2, 3, 1) if self.wanted.layout == "nhwc" else x
        said: torch.Tensor = self.network(x)
        return said.flatten(1)


def onnx_copy(
    path: str | Path, wanted: OnnxInput, classes: Sequence[str] = (), input_size: int | None = None
) -> Encoder:
    """Make a trainable encoder of an ONNX file, by onnx2torch; on a probe it says what the file says.

    What is constant in the file is computed first (weights kept as int8 become float32), and dropout, which does
    nothing where a file is run, is left out: it was trained by others, with a schedule of theirs.

    Args:
        path: of the file.
        wanted: what it expects of its input.
        classes: of a fresh classifier on the embedding; none without them.
        input_size: side in pixels that the copy reads; the file's if left out. Smaller inputs cost less: the maps
            that the file lays flat are resized to the size at which it lays them flat.

    Raises:
        CrossresError: as `onnx_encoder`; onnx2torch is not installed, does not know an operator, its copy says
            something else than the file, or cannot read images of `input_size`.
    """
    teacher = onnx_encoder(path, wanted)
    try:
        import onnx
        from onnx2torch import convert
    except ImportError:
        raise CrossresError(
            "a torch copy of an ONNX file needs onnx and onnx2torch: pip install 'crossres[onnx]'"
        ) from None
    try:
        model = _folded(onnx.load(path), teacher.backbone)
        network = convert(model)
    except Exception as error:
        why = " ".join(str(error).split())[:160]
        raise CrossresError(f"{path}: onnx2torch cannot make a torch copy of it ({why})") from None
    encoder = Encoder(
        _Copy(network, wanted, Path(path)),
        embedding_dim=teacher.embedding_dim,
        classes=classes,
        input_size=teacher.input_size,
        mean=teacher.mean.flatten().tolist(),
        std=teacher.std.flatten().tolist(),
        architecture=teacher.architecture | {"name": COPY},
    )
    _compare(encoder, teacher, path)
    if input_size is not None and input_size != encoder.input_size:
        _read_at(input_size, encoder, network, path)
    return encoder


def _folded(model: Any, backbone: nn.Module) -> Any:
    """Return the model with one output, its constants computed and without dropout."""
    import onnx
    import onnxruntime

    assert isinstance(backbone, OnnxBackbone)
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    constant, rest, instead = [], [], {}
    for node in graph.node:
        if node.op_type == "Constant" or (node.input and all(not name or name in known for name in node.input)):
            constant.append(node)
            known.update(node.output)
        elif node.op_type in ("Dropout", "Identity"):
            instead[node.output[0]] = node.input[0]
        else:
            rest.append(node)
    for node in rest:
        for place, name in enumerate(node.input):
            while name in instead:
                name = instead[name]
            node.input[place] = name
    read = {name for node in rest for name in node.input}
    wanted = [name for node in constant for name in node.output if name in read]
    initial = [tensor for tensor in graph.initializer if tensor.name in read]
    if wanted:
        made = onnx.helper.make_graph(
            constant, "constants", [], [onnx.helper.make_empty_tensor_value_info(name) for name in wanted]
        )
        used = {name for node in constant for name in node.input}
        made.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
        part = onnx.helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 3  # constants that nothing reads are no news
        session = onnxruntime.InferenceSession(part.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
        values = session.run(wanted, {})
        initial += [
            onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in zip(wanted, values, strict=True)
        ]
    if backbone.batch == 1:
        shapes = {node.input[1] for node in rest if node.op_type == "Reshape"}
        initial = [_of_any_batch(tensor) if tensor.name in shapes else tensor for tensor in initial]
    final = backbone.output_name
    while final in instead:
        final = instead[final]
    output = onnx.helper.make_empty_tensor_value_info(final)
    small = onnx.helper.make_graph(rest, graph.name, [_input(graph, backbone.input_name)], [output], initial)
    opset = min(OPSET, next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
    return onnx.helper.make_model(small, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _of_any_batch(shape: Any) -> Any:
    """Return a Reshape's shape that keeps the first dimension, where the file wrote its batch of 1 there."""
    import onnx

    value = onnx.numpy_helper.to_array(shape).copy()
    if value.size and value[0] == 1:
        value[0] = 0
    return onnx.numpy_helper.from_array(value, shape.name)


def _input(graph: Any, name: str) -> Any:
    return next(given for given in graph.input if given.name == name)


def _compare(copy: Encoder, file: Encoder, path: str | Path) -> None:
    size = file.input_size or 1
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        try:
            ours, theirs = copy.eval()(images).embedding, file(images).embedding
        except Exception as error:
            why = " ".join(str(error).split())[:160]
            raise CrossresError(f"{path}: its torch copy does not run ({why})") from None
    if ours.shape != theirs.shape:
        raise CrossresError(
            f"{path}: its torch copy says {tuple(ours.shape)} of two images, not {tuple(theirs.shape)}: its batch "
            "is fixed inside"
        )
    if not torch.allclose(ours, theirs, rtol=0, atol=CLOSE * float(theirs.abs().max())):
        worst = float((ours - theirs).abs().max())
        raise CrossresError(f"{path}: its torch copy says something else than the file, by up to {worst:.2g}")


def _read_at(size: int, copy: Encoder, network: nn.Module, path: str | Path) -> None:
    """Let the copy, in evaluation, read images of another size than the file's."""
    maps: dict[str, tuple[int, int]] = {}

    def note(name: str, given: tuple[Any, ...], said: Any) -> None:
        if given and given[0].dim() == 4 and torch.is_tensor(said) and said.dim() == 2:
            maps[name] = tuple(given[0].shape[2:])

    hooks = [
        module.register_forward_hook(lambda _, given, said, name=name: note(name, given, said))
        for name, module in network.named_modules()
        if not any(module.children())
    ]
    with torch.no_grad():
        copy(torch.zeros(2, 3, copy.input_size or 1, copy.input_size or 1))
        for hook in hooks:
            hook.remove()
        for name, shape in maps.items():
            network.set_submodule(name, _Enlarged(network.get_submodule(name), shape))
        copy.input_size = size
        try:
            copy(torch.zeros(2, 3, size, size))
        except Exception as error:
            why = " ".join(str(error).split())[:160]
            raise CrossresError(f"{path}: its torch copy cannot read images of side {size} ({why})") from None
