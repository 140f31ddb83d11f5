"""`check`, `plan`, `train`, `select`, `predict`, `evaluate`: the only code that knows the whole order, and that opens the workspace."""
