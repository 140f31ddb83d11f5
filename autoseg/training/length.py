"""How long a run is, in epochs or in seconds, and how much of that is over."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoseg.training.settings import TrainingSettings

FIRST_RESERVE = 0.08  # share of a time budget kept for the final validation until its duration has been measured
LARGEST_SHARE = 0.5  # of a time budget that preparation counts for, and of the rest that is kept for the final validation
SPENDING = ("elapsed", "prepared", "validated", "drawn", "reserve")  # what a saved state keeps


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """The length of one fold's training: what was asked for, what is spent of it, and what is kept for the final validation.

    Made by the command, completed with the settings (`of`), and replaced by its successor as time is spent. With neither epochs nor
    a time budget the epochs of the settings count; with both, the epochs.
    """

    epochs: int | None = None
    time_budget: float | None = None  # s, preparation and final validation included
    started: float | None = None  # `time.monotonic()` from which a time budget runs: when work on this fold began. None: at the first step
    steps_per_epoch: int = 0  # 0: not known yet
    elapsed: float = 0.0  # s of training in all calls together, validation in between included; of a time budget also preparation
    prepared: float = 0.0  # of those, s of preparation
    validated: float = 0.0  # of those, s of validation
    drawn: float = 1.5  # of those, s spent on the picture of the curves; the first time takes about so long
    reserve: float = 0.0  # s that the final validation will take, as measured; 0: not measured yet

    @property
    def seconds(self) -> float | None:
        """The time budget, if that is what ends the run."""
        return self.time_budget if self.epochs is None else None

    @property
    def steps(self) -> int | None:
        """The number of optimisation steps, if that is what ends the run."""
        return None if self.epochs is None else self.epochs * self.steps_per_epoch

    @property
    def for_steps(self) -> float | None:
        """Seconds of a time budget that are not kept for the final validation.

        At least a quarter of it goes into steps, even where preparation and validation take so long that it is exceeded.
        """
        if self.seconds is None:
            return None
        reserve = self.reserve or FIRST_RESERVE * self.seconds
        return self.seconds - min(reserve, LARGEST_SHARE * (self.seconds - self.prepared))

    def from_now(self, now: float) -> RunLength:
        """Return the length of another fold, on which work begins at `time.monotonic() == now`."""
        return replace(self, started=now)

    def since_started(self, now: float) -> float:
        """Return the seconds since work on this fold began; 0 where that is not known."""
        return 0.0 if self.started is None else now - self.started

    def of(self, settings: TrainingSettings) -> RunLength:
        """Return the length with what the settings add to it."""
        default = settings.epochs if self.time_budget is None else None
        return replace(self, epochs=self.epochs or default, steps_per_epoch=settings.steps_per_epoch)

    def with_preparation(self, now: float) -> RunLength:
        """Return the length at the first step of a call: what went before counts, but leaves the training a fair share.

        Parameters
        ----------
        now : as `time.monotonic()` gives it
        """
        if self.started is None or self.seconds is None:
            return self
        seconds = min(self.since_started(now), max(0.0, LARGEST_SHARE * self.seconds - self.prepared))
        return replace(self, prepared=self.prepared + seconds, elapsed=self.elapsed + seconds)

    def progress(self, *, step: int, elapsed: float) -> float:
        """Return the share of the run that is over, 0 to 1.

        Parameters
        ----------
        step : optimisation steps done
        elapsed : seconds since training began, those of earlier interrupted calls included
        """
        if self.for_steps is not None:
            return min(1.0, elapsed / max(self.for_steps, 1e-9))
        assert self.steps is not None
        return min(1.0, step / max(self.steps, 1))

    def time_left(self, *, step: int, elapsed: float, seconds_per_step: float) -> float:
        """Return the seconds until the last step."""
        if self.for_steps is not None:
            return max(0.0, self.for_steps - elapsed)
        assert self.steps is not None
        return max(0, self.steps - step) * seconds_per_step
