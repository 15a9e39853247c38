"""One module per file format: each turns files into a dataset, or into the two tables of a log."""
