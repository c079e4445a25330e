"""Convolutions over small maps whose weights learn fast on a CPU.

A network for 8x8 images spends its last stages on maps of 4x4, 2x2 or 1x1. There the CPU library's weight gradient
is 2 to 20 times slower than the same sum as one matrix product, and takes most of the whole training step.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Positions of the output map up to which the matrix product was measured to be the faster one.
SMALL = {torch.bfloat16: 16, torch.float32: 4}


@contextmanager
def fast_weight_gradients(module: nn.Module) -> Iterator[None]:
    """Within the context, convolutions on the CPU take the matrix product wherever they train on small maps.

    The gradients are the same up to rounding. Parameters, names and the forward pass stay as they are, and so do
    dilated, grouped and otherwise padded convolutions. A second derivative through the weights is not available.
    """
    changed = [conv for conv in module.modules() if type(conv) is nn.Conv2d and _is_plain(conv)]
    for convolution in changed:
        convolution.__class__ = _Conv2d
    try:
        yield
    finally:
        for convolution in changed:
            convolution.__class__ = nn.Conv2d


def _is_plain(conv: nn.Conv2d) -> bool:
    settings = (conv.weight.device.type, conv.groups, conv.dilation, conv.padding_mode)
    return settings == ("cpu", 1, (1, 1), "zeros") and not isinstance(conv.padding, str)


class _Conv2d(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        cast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if cast else input.dtype
        learns = weight.requires_grad and torch.is_grad_enabled()
        positions = math.prod(
            (input.shape[2 + axis] + 2 * int(self.padding[axis]) - self.kernel_size[axis]) // self.stride[axis] + 1
            for axis in range(input.ndim - 2)
        )
        if not learns or input.ndim < 4 or positions > SMALL.get(dtype, 0):
            plain: Tensor = super()._conv_forward(input, weight, bias)
            return plain
        if cast:
            input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        product: Tensor = _Convolution.apply(input, weight, bias, self.stride, self.padding)
        return product


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(input, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = torch.ops.aten.convolution_backward(
                *(grad, input, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1), (True, False, False)
            )[0]
        (height, width), (down, across) = weight.shape[2:], ctx.padding
        images = input.permute(0, 2, 3, 1)
        if down or across:
            images = F.pad(images, (0, 0, across, across, down, down))
        # what the kernel covers at each position of the output: (B, out_h, out_w, C, h, w)
        patches = images.unfold(1, height, ctx.stride[0]).unfold(2, width, ctx.stride[1])
        patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, height * width * input.shape[1])
        rows = grad.permute(0, 2, 3, 1).reshape(-1, weight.shape[0])
        of_weight = (rows.t() @ patches).view(len(weight), height, width, -1).permute(0, 3, 1, 2)
        of_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        return of_input, of_weight, of_bias, None, None
