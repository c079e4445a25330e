"""What the small networks share: blocks in a row, and their first weights."""

from collections.abc import Callable

from torch import nn


def stack(
    block: Callable[[int, int, int], nn.Module], in_width: int, width: int, count: int, stride: int
) -> nn.Module:
    """Return ``count`` blocks in a row, made by ``block(in_width, width, stride)``; only the first one strides."""
    return nn.Sequential(block(in_width, width, stride), *(block(width, width, 1) for _ in range(count - 1)))


def initialise(network: nn.Module) -> None:
    """Draw the weights of all convolutions (He et al. 2015, arXiv 1502.01852, fan out); their biases become 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
