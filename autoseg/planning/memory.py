"""What a network costs, from its configuration alone: feature maps, parameters, floating-point operations, bytes. No torch.

The closed forms for feature maps and parameters are exact; those for bytes are a model of the network's forward and backward
pass, held to the traced network (`autoseg.networks.memory_estimate`) by a test.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from autoseg import architectures
from autoseg.architectures import Convolution, Place
from autoseg.geometry import Shape, triple
from autoseg.planning.configuration import Configuration


def stage_shapes(configuration: Configuration) -> tuple[Shape, ...]:
    """Return the voxels along each axis at every stage, the full resolution first."""

    def halved(shape: Shape, stride: Shape) -> Shape:
        return triple(edge // step for edge, step in zip(shape, stride, strict=True))

    return tuple(accumulate(configuration.strides, halved, initial=configuration.patch_size))[1:]


def feature_maps(configuration: Configuration, *, labels: int) -> int:
    """Return the feature-map values the reference counts for one patch: the currency of its memory estimate.

    Parameters
    ----------
    labels : entries of the reference's `labels` (background, regions and ignore value each count)

    Source: nnU-Net 2.8.1, compute_conv_feature_map_size of its networks; closed form.
    """
    voxels = [math.prod(shape) for shape in stage_shapes(configuration)]
    features = configuration.features_per_stage
    encoder = sum(c.outputs * c.voxels for c in _encoder(configuration, channels=1) if c.voxels > 1)
    # the reference lists the decoder from the deepest step upwards, and takes the first entries of its list
    decoder = sum(
        width * volume * (convolutions + 1)
        for width, volume, convolutions in zip(features[:-1], voxels[:-1], configuration.decoder_blocks_per_stage, strict=True)
    )
    return encoder + decoder + labels * voxels[0]


@functools.lru_cache(maxsize=64)
def convolutions(configuration: Configuration, *, channels: int, heads: int) -> tuple[Convolution, ...]:
    """Return every convolution, in the order of the forward pass.

    Parameters
    ----------
    channels : input channels, those from a previous stage included
    heads : output channels of each deep-supervision head

    Source: the architectures of Isensee et al. 2021 and of the residual-encoder presets of 2024.
    """
    return tuple(_convolutions(configuration, channels, heads))


def _encoder(configuration: Configuration, *, channels: int) -> Iterator[Convolution]:
    voxels = [math.prod(shape) for shape in stage_shapes(configuration)]
    features = configuration.features_per_stage
    kernels = [math.prod(kernel) for kernel in configuration.kernel_sizes]
    network, width = architectures.record(configuration.network), channels
    if network.stem:
        yield Convolution(inputs=channels, outputs=features[0], kernel=kernels[0], voxels=voxels[0])
        width = features[0]
    for stage, count in enumerate(configuration.blocks_per_stage):
        for index in range(count):
            strided = index == 0 and math.prod(configuration.strides[stage]) > 1
            place = Place(inputs=width, outputs=features[stage], kernel=kernels[stage], voxels=voxels[stage], strided=strided)
            yield from network.block(place)
            width = features[stage]


def _convolutions(configuration: Configuration, channels: int, heads: int) -> Iterator[Convolution]:
    voxels = [math.prod(shape) for shape in stage_shapes(configuration)]
    features = configuration.features_per_stage
    kernels = [math.prod(kernel) for kernel in configuration.kernel_sizes]
    yield from (layer for layer in _encoder(configuration, channels=channels) if layer.kernel)
    if configuration.stages == 1:
        yield Convolution(inputs=features[0], outputs=heads, kernel=1, voxels=voxels[0], normed=False)
    for stage in reversed(range(configuration.stages - 1)):
        high, low = features[stage], features[stage + 1]
        step = math.prod(configuration.strides[stage + 1])
        yield Convolution(inputs=low, outputs=high, kernel=step, voxels=voxels[stage + 1], normed=False)
        for index in range(configuration.decoder_blocks_per_stage[stage]):
            inputs = 2 * high if index == 0 else high
            yield Convolution(inputs=inputs, outputs=high, kernel=kernels[stage], voxels=voxels[stage])
        yield Convolution(inputs=high, outputs=heads, kernel=1, voxels=voxels[stage], normed=False)


def parameters(configuration: Configuration, *, channels: int, heads: int) -> int:
    """Return the number of weights, the deep-supervision heads included."""
    return sum(
        c.inputs * c.outputs * c.kernel + (c.outputs if c.bias else 0) + (2 * c.outputs if c.normed else 0)
        for c in convolutions(configuration, channels=channels, heads=heads)
    )


def forward_flops(configuration: Configuration, *, channels: int, heads: int) -> float:
    """Return the floating-point operations (a multiply-add counts two) of the convolutions, one batch, forward."""
    each = sum(2.0 * c.inputs * c.outputs * c.kernel * c.voxels for c in convolutions(configuration, channels=channels, heads=heads))
    return each * configuration.batch_size


WORKSPACE = 0.5  # copies of the largest feature map that a convolution makes for itself; benchmarks/planning_memory.py


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What training a configuration takes."""

    parameters: int
    forward_flops: float  # one batch, forward
    depthwise_flops: float = 0.0  # of these, those of convolutions of single channels
    values: int  # of all feature maps that are normalised, one batch
    scores: int  # voxels times heads of the outputs that the loss sees, one batch
    layers: int  # convolutions
    inputs: int  # voxels times channels of the network's input, one batch
    training_bytes: int  # peak of one training step


def counted(configuration: Configuration, *, channels: int, heads: int, training_bytes: int) -> Footprint:
    """Return the footprint of a configuration, given the peak that was modelled, traced or measured."""
    layers = convolutions(configuration, channels=channels, heads=heads)
    voxels = [math.prod(shape) for shape in scored_shapes(configuration)]
    return Footprint(
        parameters=parameters(configuration, channels=channels, heads=heads),
        forward_flops=forward_flops(configuration, channels=channels, heads=heads),
        values=sum(layer.outputs * layer.voxels for layer in layers if layer.normed) * configuration.batch_size,
        scores=heads * sum(voxels) * configuration.batch_size,
        layers=len(layers),
        inputs=channels * math.prod(configuration.patch_size) * configuration.batch_size,
        training_bytes=training_bytes,
    )


def scored_shapes(configuration: Configuration) -> tuple[Shape, ...]:
    """Return the shapes of the outputs that the loss sees: one per decoder step, but for the lowest, which carries no weight."""
    return stage_shapes(configuration)[: max(configuration.stages - 2, 1)]


def modelled_footprint(configuration: Configuration, channels: int, heads: int, *, value_bytes: int = 2) -> Footprint:
    """Return the footprint by arithmetic alone, within a few percent of that of the traced network.

    Of every convolution its output is kept for the backward pass (the norm needs it), and so is the activation's; a decoder step
    keeps the tensor that joins it with the skip. The loss is computed in float32. The peak comes as the loss is differentiated.

    Parameters
    ----------
    channels, heads : of the network's input and of its outputs
    value_bytes : of one feature-map value: 2 in bfloat16 and float16, 4 in float32
    """
    count = parameters(configuration, channels=channels, heads=heads)
    cast = value_bytes if value_bytes < 4 else 0  # what exists twice, in float32 and in the lower precision
    weights = count * (20 + cast)  # weights, gradients, two moments, averaged weights
    voxels = [math.prod(shape) for shape in stage_shapes(configuration)]
    features = configuration.features_per_stage
    kept = float(channels * voxels[0] * (4 + cast))
    kept += value_bytes * sum(2 * c.outputs * c.voxels for c in convolutions(configuration, channels=channels, heads=heads) if c.normed)
    kept += value_bytes * sum(2 * width * volume for width, volume in zip(features[:-1], voxels[:-1], strict=True))
    loss = sum(math.prod(shape) * (heads * (8 + cast) + 24) for shape in scored_shapes(configuration))
    transient = voxels[0] * 4 * heads
    largest = voxels[0] * value_bytes * max(heads, 2 * features[0])
    each = kept + loss + transient + WORKSPACE * largest
    peak = int(weights + each * configuration.batch_size)
    return counted(configuration, channels=channels, heads=heads, training_bytes=peak)
