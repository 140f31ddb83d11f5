"""A finished model whose training state is gone: it is used as it is, never trained over."""

from __future__ import annotations

from autoseg import prediction
from autoseg.errors import SettingsError
from autoseg.networks import Network, checkpoint
from autoseg.pipeline.reporter import Reporter
from autoseg.planning.configuration import Plan
from autoseg.workspace import Workspace


def opened(
    workspace: Workspace, plan: Plan, configuration: str, fold: int, *, asked_steps: int | None, device: str, reporter: Reporter
) -> Network | None:
    """Return the network of a fold that is finished and whose training state was deleted or not copied along; else None.

    Parameters
    ----------
    asked_steps : length of the training that is asked for; None: any

    Raises
    ------
    SettingsError : more training is asked for, which needs the state
    ModelError : the model is damaged, or belongs elsewhere
    """
    run = workspace.run(configuration, fold)
    if not run.weights.exists() or checkpoint.has_state(run.state):
        return None
    weights, description = checkpoint.load_model(run)
    if not description.get("finished"):
        reporter.say(f"warning: the training state of {configuration} fold {fold} is gone: it begins again, from the first step")
        return None
    steps = int(description.get("steps", 0))
    if asked_steps is not None and asked_steps > steps:
        raise SettingsError(
            "a finished model cannot be trained longer without its training state",
            file=run.state,
            found=f"a model of {steps} steps, and no state",
            expected=f"{asked_steps} steps",
            fix="put the state back; or --overwrite begins again from the first step",
        )
    reporter.say(f"{configuration} fold {fold} is finished; its training state is gone, so it can be used but not trained further")
    if not checkpoint.holds(run, weights, steps=steps):
        checkpoint.save_model(run, weights, description, remarks={"seconds": 0.0})
    return prediction.open_fold(workspace, plan, configuration, fold, device=device)
