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
        """Return `(n, channels, ...)` in the same shape and memory format."""
        if x.requires_grad and _slow_in_torch(x):
            return _ChannelsLast.apply(x, self.weight, self.bias, self.groups)
        if x.is_cuda and x.dtype != torch.float32:
            # Autocast on cards would turn this one layer to float32, and keep more than twice the bytes for the backward pass.
            with torch.autocast("cuda", enabled=False):
                return nn.functional.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), EPSILON)
        return nn.functional.group_norm(x, self.groups, self.weight, self.bias, EPSILON)

    def extra_repr(self) -> str:
        """Return the arguments, for printing the network."""
        return f"{self.groups}, {self.weight.numel()}"


def channels_last(x: Tensor) -> torch.memory_format:
    """Return the channels-last format of a batch in two or three dimensions."""
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


def _slow_in_torch(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dim() not in (4, 5):
        return False
    return not x.is_contiguous() and x.is_contiguous(memory_format=channels_last(x))


class _ChannelsLast(torch.autograd.Function):
    """Torch's forward pass, and a backward pass of sums per channel and products on rows of whole voxels.

    With v the numbers of a group in one case, and x' = (x - mean) / std the normalised input:

        dx = weight / std * dy - (A + x' * B) / (std * v)        A = sum over the group of weight * dy
                                                                 B = sum over the group of weight * dy * x'

    which is a * dy + b * x + c with a, b, c constant per case and channel. The sums over voxels are those that torch's batch
    normalisation makes of each case, in float32 and fast channels-last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        """Return normalised `x`, and what the gradients need."""
        n, channels = x.shape[:2]
        voxels = x.numel() // (n * channels)
        y, mean, inverse_std = torch.native_group_norm(x, weight, bias, n, channels, voxels, groups, EPSILON)
        ctx.save_for_backward(x, weight, mean, inverse_std)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of `x`, weight and bias."""
        x, weight, mean, inverse_std = ctx.saved_tensors
        dy = dy.contiguous(memory_format=channels_last(x))
        n, channels = x.shape[:2]
        groups = mean.shape[1]
        values = x.numel() // (n * groups)
        mean, scale = mean.float().view(n, groups, 1), inverse_std.float().view(n, groups, 1)
        by_group = weight.float().view(1, groups, -1)
        sum_dy_x, sum_dy = (sums.view(n, groups, -1) for sums in _sums(dy, x, mean, scale))  # of dy * x' and of dy

        first = (by_group * sum_dy).sum(2, keepdim=True)  # A
        second = (by_group * sum_dy_x).sum(2, keepdim=True)  # B
        of_dy = scale * by_group  # (n, groups, channels of a group)
        of_x = (-(scale**2) * second / values).expand_as(of_dy)
        constant = -scale * first / values - of_x * mean

        repeat = 1  # voxels per row
        while repeat * channels < _ROW and values * groups % (2 * repeat * channels) == 0:
            repeat *= 2

        def row(factor: Tensor) -> Tensor:
            """Return one factor per channel, laid out as the rows are."""
            return factor.reshape(n, 1, channels).to(x.dtype).repeat(1, 1, repeat)

        dx = torch.addcmul(row(constant), _rows(x, repeat), row(of_x)).addcmul_(_rows(dy, repeat), row(of_dy))
        dx = dx.view(n, *x.shape[2:], channels).movedim(-1, 1)
        d_weight, d_bias = sum_dy_x.sum(0).view(channels), sum_dy.sum(0).view(channels)
        return dx, d_weight.to(weight.dtype), d_bias.to(weight.dtype), None


def _sums(dy: Tensor, x: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over the voxels of `dy * (x - mean) * scale` and of `dy`, each `(n, channels)`, float32."""
    channels = x.shape[1]
    ones = torch.ones(channels, dtype=torch.float32)
    found = []
    for index in range(len(x)):
        case = slice(index, index + 1)
        centre, variance = (values.expand(-1, channels // len(values)).reshape(channels) for values in (mean[index], scale[index] ** -2))
        _, of_dy_x, of_dy = torch.ops.aten.native_batch_norm_backward(
            dy[case], x[case], ones, centre, variance, None, None, False, 0.0, [False, True, True]
        )
        found.append((of_dy_x, of_dy))
    return torch.stack([pair[0] for pair in found]), torch.stack([pair[1] for pair in found])


def _rows(x: Tensor, repeat: int) -> Tensor:
    """Return a view of a channels-last tensor `(n, channels, ...)` as `(n, voxels / repeat, repeat * channels)`."""
    n, channels = x.shape[:2]
    return x.movedim(1, -1).reshape(n, -1, repeat * channels)
