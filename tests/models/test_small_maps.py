import copy

import pytest
import torch
from torch import nn

from crossres.models.encoder import build_encoder
from crossres.models.small_maps import fast_weight_gradients


def _gradients(module, images, dtype, fast):
    module = copy.deepcopy(module)
    images = images.clone().requires_grad_()
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        if fast:
            with fast_weight_gradients(module):
                out = module(images)
        else:
            out = module(images)
        (out.float() * torch.randn(out.shape)).sum().backward()
    return [out.detach(), images.grad, *[p.grad for p in module.parameters()]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias", "side"),
    [
        *[(3, 1, 1, False, 2), (3, 2, 1, True, 4), (1, 1, 0, False, 1), (1, 2, 0, True, 4), (2, 2, 0, False, 4)],
        *[((1, 3), (2, 1), (0, 1), True, 2), (3, 1, 1, False, 4), (3, 1, 1, True, 8)],
    ],
)
def test_gradients_are_those_of_the_library(kernel, stride, padding, bias, side, channels_last, dtype):
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 10, kernel, stride, padding, bias=bias)
    images = torch.randn(5, 6, side, side)
    if channels_last:
        images, convolution = (x.to(memory_format=torch.channels_last) for x in (images, convolution))
    expected = _gradients(convolution, images, dtype, fast=False)
    measured = _gradients(convolution, images, dtype, fast=True)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for a, b in zip(expected, measured, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(a.abs().max()))


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"dilation": 2}, {"padding": "same"}, {"padding_mode": "circular"}]
)
def test_other_convolutions_are_left_alone(options):
    convolution = nn.Conv2d(4, 4, 3, **{"padding": 1, **options})
    with fast_weight_gradients(convolution):
        assert type(convolution) is nn.Conv2d


def test_a_network_is_itself_again_afterwards_also_after_an_error():
    student = build_encoder("resnet8x4", classes=["a", "b"], input_size=8)
    before, names = [type(m) for m in student.modules()], list(student.state_dict())

    def fail():
        with fast_weight_gradients(student):
            assert [type(m) for m in student.modules()] != before
            assert list(student.state_dict()) == names
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert [type(m) for m in student.modules()] == before


def test_without_gradient_the_library_answers():
    convolution = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    images = torch.randn(2, 4, 2, 2, requires_grad=True)
    with fast_weight_gradients(convolution):
        assert type(convolution(images).grad_fn).__name__ == "ConvolutionBackward0"
        convolution.requires_grad_(True)
        assert type(convolution(images).grad_fn).__name__ == "_ConvolutionBackward"


def test_a_second_derivative_is_refused():
    convolution = nn.Conv2d(4, 4, 3, padding=1)
    images = torch.randn(2, 4, 2, 2, requires_grad=True)
    with fast_weight_gradients(convolution):
        (first,) = torch.autograd.grad(convolution(images).pow(2).sum(), images, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()
