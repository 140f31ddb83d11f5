"""Counts the bytes that training a configuration takes, and for networks without closed forms the work: one step, traced on fake tensors.

Where a graphics card is available one real step is measured instead; elsewhere, and for cards that are not here, nothing is
allocated and nothing is computed: the tensors have shapes, types and lifetimes only. Counted are the weights, their
gradients, the optimizer's moments, the averaged weights, what autograd keeps, and the transients of forward, loss and backward
pass, in the precision that training uses. What a single operation allocates and frees inside itself cannot be seen;
`planning.memory.WORKSPACE` accounts for it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import flop_registry

from autoseg.errors import AutosegError, SettingsError
from autoseg.machine import Machine
from autoseg.networks import Network, build
from autoseg.planning.configuration import Configuration
from autoseg.planning.memory import WORKSPACE, Footprint, counted

MOMENTS = 2  # tensors of the weights' size that the optimizer keeps: AdamW; SGD keeps one

TraceLoss = Callable[[Sequence[Tensor], Tensor], Tensor]


def tracer(
    machine: Machine, *, loss: TraceLoss | None = None, precision: torch.dtype | None = None
) -> Callable[[Configuration, int, int], Footprint]:
    """Return a function of (configuration, input channels, heads) that traces, and remembers, footprints on a machine.

    Parameters
    ----------
    machine : its precision decides that of the trace
    loss : of (outputs, classes `(n, z, y, x)`); by default the usual Dice and cross-entropy
    precision : of the forward pass; None: bfloat16 or float16 where the machine trains in it, else float32
    """
    if precision is None:
        precision = torch.bfloat16 if machine.bf16 else torch.float16 if machine.device.startswith("cuda") else torch.float32

    card = torch.device(machine.device) if machine.device.startswith("cuda") and torch.cuda.is_available() else None

    @functools.cache
    def traced(configuration: Configuration, channels: int, heads: int) -> Traced:
        return trace(configuration, channels=channels, heads=heads, precision=precision, loss=loss)

    @functools.cache
    def peak_bytes(configuration: Configuration, channels: int, heads: int) -> int:
        """Return the bytes measured on the card where that works, else those traced."""
        peak = None
        if card is not None:
            peak = measured_bytes(configuration, channels=channels, heads=heads, precision=precision, device=card, loss=loss)
        return traced(configuration, channels, heads).peak_bytes if peak is None else peak

    def footprint(configuration: Configuration, channels: int, heads: int) -> Footprint:
        shape = _shape_of(configuration)
        found = counted(configuration, channels=channels, heads=heads, training_bytes=peak_bytes(shape, channels, heads))
        if configuration.architecture is None:
            return found
        own, plain = (traced(one, channels, heads) for one in (shape, replace(shape, architecture=None, network="unet")))
        return own.corrected(found, plain)

    return footprint


def _shape_of(configuration: Configuration) -> Configuration:
    """Return the configuration without all that does not change the memory, so that equal networks are traced once."""
    return replace(
        configuration,
        name="2d" if configuration.planar else "3d_fullres",
        spacing=(1.0, 1.0, 1.0),
        median_shape=(1.0, 1.0, 1.0),
        normalization=(),
        batch_dice=False,
        previous_stage=None,
        predicted=None,
        reasons=(),
    )


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What one training step of a network takes, as traced."""

    peak_bytes: int
    parameters: int
    dense_flops: float  # of convolutions and matrix products, forward and backward
    depthwise_flops: float  # of convolutions of single channels, forward and backward
    moved_bytes: int  # read and written by everything else
    operations: int
    scored: int  # voxels times heads of the outputs that the loss sees

    def corrected(self, plain: Footprint, traced_plain: Traced) -> Footprint:
        """Return the footprint of this network, given the closed forms and the trace of the plain one of the same size.

        What the model of time counts, feature-map values and layers, is taken in proportion: what it gets wrong for both cancels.
        """
        return replace(
            plain,
            parameters=self.parameters,
            forward_flops=(self.dense_flops + self.depthwise_flops) / 3,
            depthwise_flops=self.depthwise_flops / 3,
            values=round(plain.values * self.moved_bytes / traced_plain.moved_bytes),
            scores=self.scored,
            layers=round(plain.layers * self.operations / traced_plain.operations),
        )


def traced_bytes(configuration: Configuration, *, channels: int, heads: int, precision: torch.dtype, loss: TraceLoss | None = None) -> int:
    """Return the peak bytes of one training step; as `trace`."""
    return trace(configuration, channels=channels, heads=heads, precision=precision, loss=loss).peak_bytes


def trace(configuration: Configuration, *, channels: int, heads: int, precision: torch.dtype, loss: TraceLoss | None = None) -> Traced:
    """Return what one training step takes.

    A batch is traced as one patch that is as many times as long: the same bytes but for a few sums per patch, and a fraction of
    the operations, since the group norm goes through a batch patch by patch. A network that sees all voxels of a patch at once, or that
    is bound to its shape, is traced with the batch as it is.

    Parameters
    ----------
    precision : of the forward pass under autocast; float32: no autocast
    loss : as for `tracer`

    Raises
    ------
    SettingsError : a network from elsewhere cannot be built, or not be traced; with its own message
    """
    with torch.device("meta"):
        network = build(configuration, channels=channels, heads=heads)
    made_of = configuration.architecture
    whole = made_of is not None and (bool(made_of.entry) or made_of.context in _WHOLE_PATCH)
    first, second, third = configuration.patch_size
    batch, third = (configuration.batch_size, third) if whole else (1, third * configuration.batch_size)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fake_weights(network)
        count = sum(p.numel() for p in network.parameters())
        with _LiveBytes() as live:
            image = torch.empty((batch, channels, first, second, third))
            target = torch.empty((batch, first, second, third), dtype=torch.int64)
            for weight in network.parameters():
                weight.grad = torch.empty_like(weight)  # those of the step before live until the backward pass
            try:
                scored = _step(network, image, target, precision, loss or _dice_and_entropy)
            except Exception as error:
                raise _untraceable(configuration, error) from error
    fixed = 4 * count * (1 + MOMENTS + 1)  # weights, moments, averaged weights
    in_optimizer = fixed + 4 * count * 2  # gradients, and one temporary of the optimizer
    peak = max(fixed + live.peak + int(WORKSPACE * live.largest), in_optimizer)
    return Traced(
        peak_bytes=peak, parameters=count, dense_flops=live.dense_flops, depthwise_flops=live.depthwise_flops,
        moved_bytes=live.moved_bytes, operations=live.operations, scored=scored)  # fmt: skip


_WHOLE_PATCH = ("tokens", "positions", "memory")


def _untraceable(configuration: Configuration, error: Exception) -> Exception:
    """Return the error of a network from elsewhere in our words; any other one as it is."""
    if configuration.architecture is None or not configuration.architecture.entry or isinstance(error, AutosegError):
        return error
    return SettingsError(
        f"the network '{configuration.architecture.entry}' cannot be planned",
        found=f"{type(error).__name__}: {error}, for a patch of {' x '.join(map(str, configuration.patch_size))}",
        fix="correct the network or its arguments, or say with `divides` which number must divide each edge of a patch",
    )


def measured_bytes(
    configuration: Configuration, *, channels: int, heads: int, precision: torch.dtype, device: torch.device, loss: TraceLoss | None = None
) -> int | None:
    """Return the peak bytes of two real training steps on a card, its allocator's overhead included; None if they do not fit."""
    shape = (configuration.batch_size, *configuration.patch_size)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        network = build(configuration, channels=channels, heads=heads).to(device)
        averaged = [weight.detach().clone() for weight in network.parameters()]
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, foreach=True)
        for _ in range(2):
            image = torch.zeros((shape[0], channels, *shape[1:]), device=device)
            target = torch.zeros(shape, dtype=torch.int64, device=device)
            _step(network, image, target, precision, loss or _dice_and_entropy)
            optimizer.step()
        del averaged
        return int(torch.cuda.max_memory_allocated(device) - before)
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        torch.cuda.empty_cache()


def _step(network: nn.Module, image: Tensor, target: Tensor, precision: torch.dtype, loss: TraceLoss) -> int:
    """Take forward and backward pass; return the values of the outputs that the loss sees."""
    network.train()
    with torch.autocast(image.device.type, dtype=precision, enabled=precision != torch.float32):
        outputs = network(image)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    scored = sum(output.numel() for output in seen_by_loss(outputs))
    value = loss(outputs, target)
    for weight in network.parameters():
        weight.grad = None
    del outputs, image, target
    value.backward()
    return scored


def seen_by_loss(outputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the outputs that carry weight: all but the lowest resolution, and all where they are of one resolution."""
    nested = len(outputs) > 1 and outputs[1].shape == outputs[0].shape
    return outputs if nested else outputs[:-1] or outputs


def _dice_and_entropy(outputs: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return a loss with the tensors that `training.loss` makes; a test compares their bytes."""
    total = outputs[0].new_zeros((), dtype=torch.float32)
    for output in seen_by_loss(outputs):
        logits = output.float()
        classes = target[:, : logits.shape[2], : logits.shape[3], : logits.shape[4]]
        scores = functional.log_softmax(logits, dim=1)
        of_target = scores.gather(1, classes[:, None])[:, 0]
        predicted = scores.exp().flatten(2).sum(dim=2)
        hits = of_target.exp()
        overlap = hits.new_zeros(predicted.shape).scatter_add(1, classes.flatten(1), hits.flatten(1))
        total = total - of_target.mean() - (overlap / predicted).mean()
    return total


def _fake_weights(network: Network) -> None:
    channels_last = network.memory_format
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            fake = torch.empty(weight.shape, dtype=weight.dtype)
            if weight.dim() in (4, 5):
                fake = fake.to(memory_format=channels_last)
            module.register_parameter(name, nn.Parameter(fake))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype))


_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)

_IN_PLACE = {  # where autograd sums gradients, and differentiates gather: it works in place, but not on fake tensors
    torch.ops.aten.add.Tensor: torch.ops.aten.add_.Tensor,
    torch.ops.aten.scatter_add.default: torch.ops.aten.scatter_add_.default,
}


def _channels_last(result: Tensor) -> Tensor:
    if result.dim() < 4:
        return result
    return torch.empty_like(result, memory_format=torch.channels_last if result.dim() == 4 else torch.channels_last_3d)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, by watching what every operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self.largest = 0  # of the convolutions' results
        self.dense_flops = self.depthwise_flops = 0.0
        self.moved_bytes = self.operations = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch._C._current_graph_task_id() >= 0 and func in _IN_PLACE and args[0].dim() > 3:
            func = _IN_PLACE[func]
        result = func(*args, **(kwargs or {}))
        self._count_work(func, args, kwargs or {}, result)
        if func in _CONVOLUTIONS:  # fake convolutions forget that real ones keep channels last
            result = tree_map_only(Tensor, _channels_last, result)
        for leaf in tree_iter(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
                if func in _CONVOLUTIONS:
                    self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return result

    def _count_work(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        aliases = [returned.alias_info for returned in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in aliases):
            return  # a view
        self.operations += 1
        if func in _CONVOLUTIONS and (groups := args[9 if func is _CONVOLUTIONS[1] else 8]) > 1:
            backward = func is _CONVOLUTIONS[1]
            weight, out = (args[2], args[0]) if backward else (args[1], result)
            self.depthwise_flops += (2 if backward else 1) * 2.0 * out.numel() * weight[0].numel() * (groups > 1)
        elif (count := flop_registry.get(func.overloadpacket)) is not None:
            self.dense_flops += count(*args, **kwargs, out_val=result)
        else:
            tensors = [leaf for leaf in tree_iter((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.moved_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
