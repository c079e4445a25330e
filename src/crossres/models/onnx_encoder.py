"""An ONNX file as an encoder: frozen, run by onnxruntime on the CPU, or as a torch copy that trains."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossres.core.errors import CrossresError, library_errors, needs
from crossres.models.encoder import Encoder
from crossres.models.onnx_input import OnnxInput, onnx_sha256, open_session

#: types of input that images can be converted to
INPUT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}
#: name of a torch copy in ``Encoder.architecture``
COPY = "onnx-copy"
#: opset of the copy's file; onnx2torch lacks operators of later ones, which mean the same there
OPSET = 13
#: how far the copy may be from the file on a probe, relative to the file's largest number
CLOSE = 1e-3


class OnnxBackbone(nn.Module):
    """Runs an ONNX file: normalised images (B, 3, s, s) -> embedding (B, d).

    A file with a fixed batch gets that many images at a time; the last batch is filled up with zeros. Of what the
    file ``expects``, colours and layout are arranged here; size and normalisation are the encoder's.
    """

    def __init__(self, path: str | Path, expects: OnnxInput) -> None:
        super().__init__()
        self.path = Path(path)
        self.expects = expects
        # the file's weights are not parameters: its digest stands for them in `weights_sha256`
        self.digest = nn.Buffer(torch.frombuffer(bytearray(onnx_sha256(self.path)), dtype=torch.uint8))
        self.session = open_session(self.path, torch.get_num_threads())
        inputs, outputs = self.session.get_inputs(), [output.name for output in self.session.get_outputs()]
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = ", ".join(f"{entry.name} {entry.shape}" for entry in inputs)
            raise CrossresError(f"{path}: reads {shapes}; expected one input of four dimensions, a batch of images")
        if expects.output is not None and expects.output not in outputs:
            raise CrossresError(f"{path}: has no output '{expects.output}'; its outputs are {', '.join(outputs)}")
        if expects.output is None and len(outputs) > 1:
            widths = ", ".join(f"{entry.name} {entry.shape[1:]}" for entry in self.session.get_outputs())
            raise CrossresError(f"{path}: has the outputs {widths}; name the embedding's with onnx_input.output")
        if inputs[0].type not in INPUT_TYPES:
            raise CrossresError(f"{path}: reads {inputs[0].type}; expected {', '.join(INPUT_TYPES)}")
        self.dtype = INPUT_TYPES[inputs[0].type]
        self.input_name = inputs[0].name
        self.output_name = expects.output or outputs[0]
        batch, *rest = inputs[0].shape
        self.batch = batch if isinstance(batch, int) and batch > 0 else None
        nchw = expects.layout == "nchw"
        channels, other, sides = (rest[0], rest[2], rest[1:]) if nchw else (rest[2], rest[0], rest[:2])
        # where sizes are free, a 3 in the place of the other layout's channels shows the mistake
        if channels != 3 if isinstance(channels, int) else other == 3:
            problem = f"reads {inputs[0].shape}, which is not {expects.layout} with 3 channels"
            raise CrossresError(f"{path}: {problem}; try the other onnx_input.layout")
        fixed = {size for size in sides if isinstance(size, int) and size > 0}
        self.size = fixed.pop() if len(fixed) == 1 else None
        if self.batch is None and not self._takes_two(expects.size or self.size):
            self.batch = 1

    def _takes_two(self, size: int | None) -> bool:
        """Return whether a batch that is declared free is: some files fix it inside."""
        try:
            return size is None or len(self(torch.zeros(2, 3, size, size))) == 2
        except Exception:  # onnxruntime has a class of its own for each of its errors
            return False

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        # a session cannot be copied, and nothing in it changes
        return self

    def forward(self, images: Tensor) -> Tensor:
        x = arranged(images.detach().float().cpu(), self.expects)
        embeddings = []
        for part in torch.split(x, self.batch or len(x)):
            filled = F.pad(part, (0,) * 7 + ((self.batch or len(part)) - len(part),))
            if self.dtype is np.uint8:
                filled = filled.round().clamp(0, 255)
            values = filled.contiguous().numpy().astype(self.dtype, copy=False)
            (output,) = self.session.run([self.output_name], {self.input_name: values})
            embeddings.append(torch.from_numpy(output[: len(part)]).float().flatten(1))
        return torch.cat(embeddings).to(images.device)


def arranged(images: Tensor, expects: OnnxInput) -> Tensor:
    """Return RGB images (B, 3, h, w) with the colours and the layout that a file expects."""
    x = images.flip(1) if expects.colours == "bgr" else images
    return x.permute(0, 2, 3, 1) if expects.layout == "nhwc" else x


def onnx_encoder(path: str | Path, onnx_input: OnnxInput) -> Encoder:
    """Make a frozen encoder of an ONNX file, which expects ``onnx_input``.

    Raises:
        CrossresError: no onnxruntime, no such file, a file that onnxruntime cannot read or that does not read images,
            or no size where the file leaves it open.
    """
    if min(onnx_input.std) <= 0 or onnx_input.highest <= 0:
        raise CrossresError(f"{path}: std and highest should be above 0")
    backbone = OnnxBackbone(path, onnx_input)
    size = onnx_input.size or backbone.size
    if size is None:
        raise CrossresError(f"{path}: reads images of any size; set onnx_input.size to the side it was trained at")
    if backbone.size not in (None, size):
        raise CrossresError(f"{path}: reads images of side {backbone.size}, not {size}")
    with torch.no_grad(), library_errors(f"{path}: cannot read images of side {size}"):
        width = backbone(torch.zeros(1, 3, size, size)).shape[1]
    if width == 1:
        raise CrossresError(
            f"{path}: its output '{backbone.output_name}' is one number an image, which is no embedding"
        )
    declared = {f"onnx_{name}": value for name, value in asdict(onnx_input).items()}
    encoder = Encoder(
        backbone,
        embedding_dim=width,
        classes=(),
        input_size=size,
        # (highest * x - mean) / std for x in 0..1
        mean=[value / onnx_input.highest for value in onnx_input.mean],
        std=[value / onnx_input.highest for value in onnx_input.std],
        architecture={"name": "onnx", "file": Path(path).name, **declared},
    )
    return encoder.eval().requires_grad_(False)


class _Copy(nn.Module):
    """Normalised images (B, 3, s, s), RGB -> embedding (B, d), with the input that the file declares."""

    def __init__(self, network: nn.Module, expects: OnnxInput, source: Path) -> None:
        super().__init__()
        #: saved beside the weights, because the network is built from it again
        self.source = source
        self.network = network
        self.expects = expects

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.network(arranged(images, self.expects))
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
            for place, name in enumerate(node.input):
                node.input[place] = replaced.get(name, name)
            rest.append(node)
    read = {name for node in rest for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    if computed := [name for node in constant for name in node.output if name in read]:
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
        shapes = f"{tuple(ours.shape)} for two images, not {tuple(theirs.shape)}"
        raise CrossresError(f"{path}: its torch copy returns {shapes}: the file fixes its batch inside")
    if not torch.allclose(ours, theirs, rtol=0, atol=CLOSE * float(theirs.abs().max())):
        worst = float((ours - theirs).abs().max())
        raise CrossresError(f"{path}: the outputs of its torch copy differ from the file's, by up to {worst:.2g}")


def _resize(size: torch.Size, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Bring the maps (B, c, h, w) that a module reads to a size."""
    return F.interpolate(inputs[0], size, mode="bilinear"), *inputs[1:]


def _read_at(size: int, copy: Encoder, network: nn.Module, path: str | Path) -> None:
    """Let the copy, in evaluation, read images of another size than the file's."""
    flattened: dict[nn.Module, torch.Size] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and inputs[0].dim() == 4 and torch.is_tensor(output) and output.dim() == 2:
            flattened[module] = inputs[0].shape[2:]

    hooks = [module.register_forward_hook(note) for module in network.modules() if not any(module.children())]
    with torch.no_grad():
        copy(torch.zeros(2, 3, copy.input_size or 1, copy.input_size or 1))
        for hook in hooks:
            hook.remove()
        for module, size_of_maps in flattened.items():
            module.register_forward_pre_hook(partial(_resize, size_of_maps))
        copy.input_size = size
        with library_errors(f"{path}: its torch copy cannot read images of side {size}"):
            copy(torch.zeros(2, 3, size, size))
