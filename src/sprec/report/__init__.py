"""What others read of runs: the report, the model card."""
