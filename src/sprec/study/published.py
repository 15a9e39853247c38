"""The numbers that the paper printed (Tables 1 to 3), to compare with ours."""

import csv
from importlib.resources import files


def published() -> dict[tuple[str, str, str], dict[str, float]]:
    """Table (``table2``, ``table3``), dataset and method to metric name and printed value.

    Table 3 does not repeat its reference BIGRec, which is taken from Table 2.
    """
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    text = (files("sprec.study") / "paper_tables.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        values.setdefault((row["table"], row["dataset"], row["method"]), {})[row["metric"]] = float(row["value"])
    for table, dataset, method in list(values):
        if table == "table2" and method in ("BIGRec", "SPRec"):
            values.setdefault(("table3", dataset, method), values[table, dataset, method])
    return values


def published_sizes() -> dict[str, dict[str, int]]:
    """Dataset to its items, interactions and sequences (Table 1)."""
    text = (files("sprec.study") / "paper_table1.csv").read_text("utf-8")
    return {row.pop("dataset"): {k: int(v) for k, v in row.items()} for row in csv.DictReader(text.splitlines())}
