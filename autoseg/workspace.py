"""Where each result is stored: one frozen value, passed as an argument; never an environment variable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folder that `autoseg plan` makes and every later command reads. Holds paths, opens nothing."""

    root: Path

    @property
    def dataset(self) -> Path:
        """Cases, channels, labels, recipe used."""
        return self.root / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """Shapes, spacings, intensities: enough to plan without any image."""
        return self.root / "fingerprint.json"

    @property
    def plan(self) -> Path:
        """The plan with its reasons."""
        return self.root / "plan.json"

    @property
    def splits(self) -> Path:
        """The folds of the cross-validation."""
        return self.root / "splits.json"

    @property
    def check(self) -> Path:
        """All faults and remarks of the last check."""
        return self.root / "check.json"

    @property
    def report(self) -> Path:
        """The page that `autoseg report` writes."""
        return self.root / "report.html"

    @property
    def selection(self) -> Path:
        """The best configuration or ensemble, from out-of-fold results."""
        return self.root / "selection.json"

    @property
    def postprocessing(self) -> Path:
        """The post-processing rules, from out-of-fold results."""
        return self.root / "postprocessing.json"

    @property
    def card(self) -> Path:
        """The answers for the model card, which a person writes."""
        return self.root / "card.toml"

    @property
    def calibration(self) -> Path:
        """How sure the networks of each configuration are, and how right, from out-of-fold results."""
        return self.root / "calibration.json"

    @property
    def suspects(self) -> Path:
        """Cases whose reference may be wrong: suspects.json and pictures."""
        return self.root / "suspects"

    def preprocessed(self, name: str) -> Path:
        """The cache of preprocessed cases of one configuration: safe to delete."""
        return self.root / "preprocessed" / name

    def configuration(self, name: str) -> Path:
        """All folds of one configuration."""
        return self.root / "runs" / name

    def run(self, configuration: str, fold: int) -> Run:
        """One fold of one configuration."""
        return Run(root=self.configuration(configuration) / f"fold_{fold}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The folder of one trained fold."""

    root: Path

    @property
    def weights(self) -> Path:
        """The network's weights."""
        return self.root / "model.safetensors"

    @property
    def description(self) -> Path:
        """What `predict` needs besides the weights."""
        return self.root / "model.json"

    @property
    def state(self) -> Path:
        """What resuming needs."""
        return self.root / "state"

    @property
    def history_csv(self) -> Path:
        """One row per epoch."""
        return self.root / "history.csv"

    @property
    def history_jsonl(self) -> Path:
        """One object per epoch."""
        return self.root / "history.jsonl"

    @property
    def progress(self) -> Path:
        """The curves."""
        return self.root / "progress.png"

    @property
    def tensorboard(self) -> Path:
        """A folder of TensorBoard's event files, where they are wanted."""
        return self.root / "tensorboard"

    @property
    def validation(self) -> Path:
        """Out-of-fold predictions."""
        return self.root / "validation"

    @property
    def predicted_with(self) -> Path:
        """What made the out-of-fold predictions; a resumed validation keeps them only if this is unchanged."""
        return self.validation / "predicted_with.json"

    @property
    def summary(self) -> Path:
        """Scores of the out-of-fold predictions."""
        return self.validation / "summary.json"

    def confidence(self, case: str) -> Path:
        """How sure the network was in one validation case, as counts."""
        return self.validation / f"{case}.confidence.json"
