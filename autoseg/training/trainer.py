"""A network in training: one optimisation step, the averaged weights, and everything that resuming needs."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoseg import networks
from autoseg.networks.inputs import choose_precision
from autoseg.planning.configuration import Configuration, Plan, input_channels
from autoseg.training.batches import Batch
from autoseg.training.loss import make_loss
from autoseg.training.process_group import SINGLE_PROCESS, ProcessGroup
from autoseg.training.sampling import generator_for
from autoseg.training.settings import OptimizerSettings, TrainingSettings

PROBE_STEPS = 10  # forward and backward passes that decide whether compiling pays
NO_GRADIENT = 1e-6  # norm; rounding leaves about 1e-8 where nothing was annotated, the first steps of a training have more than 0.01


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one optimisation step did."""

    loss: float
    gradient_norm: float
    taken: bool  # False: loss or gradient was not finite, the weights stayed as they were

    @property
    def learns_nothing(self) -> bool:
        """Whether nothing in the batch was annotated: then the gradient is zero but for rounding."""
        return self.gradient_norm < NO_GRADIENT


class Trainer:
    """The network of one run with its optimizer. `averaged` is what validation, checkpoints and prediction use."""

    def __init__(
        self,
        *,
        plan: Plan,
        configuration: Configuration,
        settings: TrainingSettings,
        device: torch.device,
        seed: int,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.device = device
        self.precision = choose_precision(settings.precision, device)
        self.network: nn.Module = networks.build(
            configuration,
            channels=input_channels(plan, configuration),
            heads=plan.labels.output_channels,
            generator=generator_for(seed, 0),
        ).to(device)
        self.averaged: nn.Module = self.network if settings.ema == 0 else copy.deepcopy(self.network).requires_grad_(False)
        self._decay = settings.ema
        self._clip = settings.optimizer.clip_norm or math.inf
        self._optimizer = make_optimizer(self.network, settings.optimizer)
        self._scaler = self._new_scaler()
        self._loss = make_loss(
            plan.labels,
            batch_dice=configuration.batch_dice,
            settings=settings.loss,
            spacing=configuration.spacing,
            processes=processes,
        )
        self._forward: Callable[[Tensor], Any] = processes.wrap(self.network, device)
        self.steps = 0  # taken

    def step(self, batch: Batch, *, learning_rate: float) -> Step:
        """Do one optimisation step; it leaves the weights alone where loss or gradient is not finite."""
        self.network.train()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._loss_of(batch, self._forward)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self._clip))
        value = float(loss.detach())
        taken = math.isfinite(norm) and math.isfinite(value)
        if taken:
            self._scaler.step(self._optimizer)
            self.steps += 1
            self._average()
        self._scaler.update()
        return Step(loss=value, gradient_norm=norm, taken=taken)

    def compile(self, batch: Batch, *, wanted: str, say: Callable[[str], None]) -> None:
        """Compile the network: "on" always, "auto" where ten steps on a CUDA device show that it works and pays, "off" never.

        The probe computes gradients and throws them away: the weights stay as they are.
        """
        if wanted == "off" or (wanted == "auto" and self.device.type != "cuda"):
            return
        plain = self._forward
        compiled = torch.compile(plain)
        try:
            plain_seconds = self._timed(plain, batch) if wanted == "auto" else math.inf
            seconds = self._timed(compiled, batch)
        except Exception as error:  # noqa: BLE001 - compilers fail in many ways, and none of them is fatal here
            say(f"not compiled: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
            return
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        if seconds < 0.97 * plain_seconds:
            self._forward = compiled
            say(f"compiled: {seconds:.3g} s per step" + (f" instead of {plain_seconds:.3g} s" if math.isfinite(plain_seconds) else ""))

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def probe(self, batch: Batch, *, steps: int, learning_rate: float) -> list[Step]:
        """Do some steps on one batch, and one more for the loss they lead to. Everything is reset afterwards.

        A network that cannot even learn two patches by heart will not learn the data set. It ends early where every further step would
        be the same: without a gradient, or without finite numbers though they are not scaled. May be abandoned at any place.
        """
        weights = copy.deepcopy(self.network.state_dict())
        averaged = copy.deepcopy(self.averaged.state_dict())
        fresh = copy.deepcopy(self._optimizer.state_dict())
        try:
            done: list[Step] = []
            while len(done) <= steps:
                done.append(self.step(batch, learning_rate=learning_rate))
                if done[-1].learns_nothing or not (done[-1].taken or self._scaler.is_enabled()):
                    break
        finally:
            self.network.load_state_dict(weights)
            self.averaged.load_state_dict(averaged)
            self._optimizer.load_state_dict(fresh)
            self._optimizer.state.clear()
            self._optimizer.zero_grad(set_to_none=True)
            self._scaler = self._new_scaler()
            self.steps = 0
        return done

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context with the precision of the forward pass."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32)

    def weights(self) -> dict[str, Tensor]:
        """Return what a model file holds."""
        return dict(self.averaged.state_dict())

    def state(self) -> dict[str, Any]:
        """Return everything that `load` needs."""
        return {
            "steps": self.steps,
            "network": dict(self.network.state_dict()),
            "averaged": dict(self.averaged.state_dict()) if self.averaged is not self.network else {},
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.steps = state["steps"]
        self.network.load_state_dict(state["network"])
        if self.averaged is not self.network:
            self.averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        for parameter, values in self._optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:  # in the weights' own memory format, as before
                    values[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)
        self._scaler.load_state_dict(state["scaler"])

    def _loss_of(self, batch: Batch, forward: Callable[[Tensor], Any]) -> Tensor:
        with self.autocast():
            outputs = forward(batch.image)
        return self._loss(outputs if isinstance(outputs, list) else [outputs], batch.target, batch.annotated)

    def _timed(self, forward: Callable[[Tensor], Any], batch: Batch, *, steps: int = PROBE_STEPS) -> float:
        """Return the seconds per forward and backward pass, the first two left out: they compile."""
        self.network.train()
        begin = 0.0
        for step in range(steps + 2):
            if step == 2:
                self._finish()
                begin = time.perf_counter()
            self._loss_of(batch, forward).backward()
        self._finish()
        return (time.perf_counter() - begin) / steps

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.no_grad()
    def _average(self) -> None:
        if self.averaged is self.network:
            return
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))  # the first weights are soon forgotten
        mean: list[Tensor] = list(self.averaged.parameters())
        new: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(mean, new, 1 - decay)
        for buffer, other in zip(self.averaged.buffers(), self.network.buffers(), strict=True):
            buffer.copy_(other)


def make_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return SGD with momentum on all parameters alike, or AdamW without weight decay of norms and biases."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if settings.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, settings.beta2), fused=True)
