"""Documents about runs: the report, the model card."""
