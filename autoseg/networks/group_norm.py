"""Group normalisation that is as fast channels-last as it is contiguous.

On a processor, convolutions run fastest channels-last, but torch 2.13's backward pass of GroupNorm is then 10 to 30 times slower
than for contiguous tensors (21 ms against 0.6 ms for (2, 16, 40, 56, 40) in bfloat16 on two cores), which would cost more than
the convolutions gain. Here the same derivative is written with reductions and products that torch does fast; everywhere but
channels-last on a processor torch's own is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

EPSILON = 1e-5  # added to the variance. Source: nnU-Net 2.8.1
_ROW = 256  # numbers per row in the products of the backward pass: long enough for vector units, whatever the channel count


class GroupNorm(nn.Module):
    """nn.GroupNorm with scale and shift per channel; `groups == channels` is instance normalisation.

    Source: Wu and He 2018, arXiv:1803.08494.
    """

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`(n, channels, ...)` to the same shape and memory format."""
        if x.requires_grad and _slow_in_torch(x):
            return _ChannelsLast.apply(x, self.weight, self.bias, self.groups)  # type: ignore[no-any-return, no-untyped-call]
        if x.is_cuda and x.dtype != torch.float32:
            # Autocast on cards would turn this one layer to float32, and keep more than twice the bytes for the backward pass.
            with torch.autocast("cuda", enabled=False):
                return nn.functional.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), EPSILON)
        return nn.functional.group_norm(x, self.groups, self.weight, self.bias, EPSILON)

    def extra_repr(self) -> str:
        """For printing the network."""
        return f"{self.groups}, {self.weight.numel()}"


def _slow_in_torch(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dim() not in (4, 5):
        return False
    return not x.is_contiguous() and x.is_contiguous(memory_format=_channels_last(x))


def _channels_last(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


class _ChannelsLast(torch.autograd.Function):
    """Torch's forward pass, and the backward pass on rows of whole voxels.

    With g the groups, v the voxels of a group times its channels, and x' = (x - mean) / std the normalised input:

        dx = weight / std * dy - (A + x' * B') / (std * v)        A = sum over the group of weight * dy
                                                                  B' = sum over the group of weight * dy * x'

    which is a * dy + b * x + c with a, b, c constant per case and channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        n, channels = x.shape[:2]
        voxels = x.numel() // (n * channels)
        y, mean, inverse_std = torch.native_group_norm(x, weight, bias, n, channels, voxels, groups, EPSILON)
        ctx.save_for_backward(x, weight, mean, inverse_std)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, mean, inverse_std = ctx.saved_tensors
        n, channels = x.shape[:2]
        groups = mean.shape[1]
        voxels = x.numel() // (n * channels)
        repeat = 1  # voxels per row
        while repeat * channels < _ROW and voxels % (2 * repeat) == 0:
            repeat *= 2

        rows_x = _rows(x, repeat)  # (n, rows, repeat * channels)
        rows_dy = _rows(dy.contiguous(memory_format=_channels_last(x)), repeat)
        sum_dy = rows_dy.sum(1, dtype=torch.float32).view(n, repeat, channels).sum(1).view(n, groups, -1)
        sum_dy_x = (rows_dy * rows_x).sum(1, dtype=torch.float32).view(n, repeat, channels).sum(1).view(n, groups, -1)

        mean = mean.float().view(n, groups, 1)
        scale = inverse_std.float().view(n, groups, 1)
        by_group = weight.float().view(1, groups, -1)
        d_weight = ((sum_dy_x - mean * sum_dy) * scale).sum(0).view(channels)
        d_bias = sum_dy.sum(0).view(channels)

        first = (by_group * sum_dy).sum(2, keepdim=True)  # A
        second = (by_group * sum_dy_x).sum(2, keepdim=True) - mean * first  # B' * std
        of_dy = scale * by_group  # (n, groups, channels of a group)
        of_x = (-second * scale**3 / (voxels * by_group.shape[2])).expand_as(of_dy)
        constant = (-first * scale / (voxels * by_group.shape[2])).expand_as(of_dy) - of_x * mean

        def row(factor: Tensor) -> Tensor:
            return factor.reshape(n, 1, channels).to(x.dtype).repeat(1, 1, repeat)

        dx = torch.addcmul(row(constant), rows_x, row(of_x)).addcmul_(rows_dy, row(of_dy))
        dx = dx.view(n, *x.shape[2:], channels).movedim(-1, 1)
        return dx, d_weight.to(weight.dtype), d_bias.to(weight.dtype), None


def _rows(x: Tensor, repeat: int) -> Tensor:
    """A view of a channels-last tensor `(n, channels, ...)` as `(n, voxels / repeat, repeat * channels)`."""
    n, channels = x.shape[:2]
    return x.movedim(1, -1).reshape(n, -1, repeat * channels)
