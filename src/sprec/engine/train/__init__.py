"""Training stages on prompt groups, their checkpoints, and scoring."""
