"""A trainable torch copy of an ONNX file: a student that starts from its teacher's weights."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from crossres.core.errors import CrossresError, library_errors, needs
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput
from crossres.models.onnx_teacher import OnnxBackbone, arranged, onnx_encoder

#: name of such a network in ``Encoder.architecture``
COPY = "onnx-copy"
#: opset of the copy's file; onnx2torch lacks operators of later ones, which mean the same there
OPSET = 13
#: how far the copy may be from the file on a probe, relative to the file's largest number
CLOSE = 1e-3


class _Resized(nn.Module):
    """A module that reads maps (B, c, h, w) of one size, behind the resizing of other maps to it."""

    def __init__(self, module: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.module = module
        self.size = size

    def forward(self, maps: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.module(F.interpolate(maps, self.size, mode="bilinear"), *rest)
        return output


class _Copy(nn.Module):
    """Normalised images (B, 3, s, s), RGB -> embedding (B, d), with the input that the file declares."""

    def __init__(self, network: nn.Module, expects: OnnxInput, source: Path) -> None:
        super().__init__()
        #: saved beside the weights, because the network is built from it again
        self.source = source
        self.network = network
        self.expects = expects

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(arranged(images, self.expects))
        return output.flatten(1)


def onnx_copy(
    path: str | Path, onnx_input: OnnxInput, classes: Sequence[str] = (), input_size: int | None = None
) -> Encoder:
    """Make a trainable encoder of an ONNX file, which expects ``onnx_input``; on a probe both have the same outputs.

    The network comes from onnx2torch. Constants in the file are computed first (weights kept as int8 become float32).
    Dropout is left out: it does nothing where a file is run, and it was tuned for another training.

    Args:
        classes: of a fresh classifier on the embedding; none without them.
        input_size: side in pixels that the copy reads; the file's if left out. Smaller inputs cost less: the maps
            that the file flattens are resized to the size at which it flattens them.

    Raises:
        CrossresError: as `onnx_encoder`; onnx2torch is not installed, does not know an operator, its copy has other
            outputs than the file, or cannot read images of `input_size`.
    """
    teacher = onnx_encoder(path, onnx_input)
    with needs("a torch copy of an ONNX file", "onnx"):
        import onnx
        from onnx2torch import convert
    with library_errors(f"{path}: onnx2torch cannot make a torch copy of it"):
        network = convert(_simplified(onnx.load(path), teacher.backbone))
    encoder = Encoder(
        _Copy(network, onnx_input, Path(path)),
        embedding_dim=teacher.embedding_dim,
        classes=classes,
        input_size=teacher.input_size,
        mean=teacher.mean.flatten().tolist(),
        std=teacher.std.flatten().tolist(),
        architecture=teacher.architecture | {"name": COPY},
    )
    _check_outputs(encoder, teacher, path)
    if input_size is not None and input_size != encoder.input_size:
        _read_at(input_size, encoder, network, path)
    return encoder


def _simplified(model: Any, backbone: nn.Module) -> Any:
    """Return the model with one output, its constants computed and without dropout."""
    import onnx

    assert isinstance(backbone, OnnxBackbone)
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    constant, rest = [], []
    replaced: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Constant" or (node.input and all(not name or name in known for name in node.input)):
            constant.append(node)
            known.update(node.output)
        elif node.op_type in ("Dropout", "Identity"):
            # where its input is an output of such a node, that one's input
            replaced[node.output[0]] = replaced.get(node.input[0], node.input[0])
        else:
            rest.append(node)
    for node in rest:
        for place, name in enumerate(node.input):
            node.input[place] = replaced.get(name, name)
    read = {name for node in rest for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    computed = [name for node in constant for name in node.output if name in read]
    if computed:
        weights += _computed(constant, computed, model)
    if backbone.batch == 1:
        # where a Reshape's shape begins with the file's batch, a 0 lets it keep any
        shapes = {node.input[1] for node in rest if node.op_type == "Reshape"}
        for tensor in (tensor for tensor in weights if tensor.name in shapes):
            value = onnx.numpy_helper.to_array(tensor).copy()
            if value.size and value[0] == 1:
                value[0] = 0
                tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    inputs = [entry for entry in graph.input if entry.name == backbone.input_name]
    output = onnx.helper.make_empty_tensor_value_info(replaced.get(backbone.output_name, backbone.output_name))
    opset = min(OPSET, next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))
    small = onnx.helper.make_graph(rest, graph.name, inputs, [output], weights)
    return onnx.helper.make_model(small, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _computed(nodes: Sequence[Any], names: Sequence[str], model: Any) -> list[Any]:
    """Return the outputs of these names, which depend on the model's weights alone, as tensors of a model."""
    import onnx
    import onnxruntime

    helper = onnx.helper
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    read = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in read]
    graph = helper.make_graph(nodes, "constants", [], outputs, weights)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # it warns of constants that nothing reads
    session = onnxruntime.InferenceSession(part.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    values = zip(names, session.run(names, {}), strict=True)
    return [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values]


def _check_outputs(copy: Encoder, file: Encoder, path: str | Path) -> None:
    """Refuse a copy whose embeddings of two random images are not those of the file."""
    size = file.input_size or 1
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), library_errors(f"{path}: its torch copy does not run"):
        ours, theirs = copy.eval()(images).embedding, file(images).embedding
    if ours.shape != theirs.shape:
        raise CrossresError(
            f"{path}: its torch copy returns {tuple(ours.shape)} for two images, not {tuple(theirs.shape)}: the file "
            "fixes its batch inside"
        )
    if not torch.allclose(ours, theirs, rtol=0, atol=CLOSE * float(theirs.abs().max())):
        worst = float((ours - theirs).abs().max())
        raise CrossresError(f"{path}: the outputs of its torch copy differ from the file's, by up to {worst:.2g}")


def _read_at(size: int, copy: Encoder, network: nn.Module, path: str | Path) -> None:
    """Let the copy, in evaluation, read images of another size than the file's."""
    flattened: dict[str, tuple[int, int]] = {}

    def note(name: str, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and inputs[0].dim() == 4 and torch.is_tensor(output) and output.dim() == 2:
            flattened[name] = tuple(inputs[0].shape[2:])

    leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    hooks = [module.register_forward_hook(partial(note, name)) for name, module in leaves]
    with torch.no_grad():
        copy(torch.zeros(2, 3, copy.input_size or 1, copy.input_size or 1))
        for hook in hooks:
            hook.remove()
        for name, shape in flattened.items():
            network.set_submodule(name, _Resized(network.get_submodule(name), shape))
        copy.input_size = size
        with library_errors(f"{path}: its torch copy cannot read images of side {size}"):
            copy(torch.zeros(2, 3, size, size))
