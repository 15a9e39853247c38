"""A shop, and a run on its log."""

from pathlib import Path

import pytest

from sprec.data.logs import Cleaning, import_log
from sprec.data.readers.table import Columns, Reading
from sprec.data.windows import Protocol, Sizes
from sprec.runs import run
from sprec.runs.recipes import resolve

GENRES = ["Tea", "Coffee", "Ware"]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by popularity on the log of 40 customers and 30 goods, whose ids look like numbers with zeros in front."""
    folder = tmp_path_factory.mktemp("shop")
    goods = "".join(f"{sku:03},Thing {sku},{GENRES[sku % 3]}\n" for sku in range(30))
    (folder / "goods.csv").write_text("sku,name,kind\n" + goods)
    rows = [
        (f"C{c:02}", (c * 7 + step * (1 + c % 4)) % 30, f"2025-01-{1 + step:02}")
        for c in range(40)
        for step in range(12)
    ]
    orders = "".join(f"{c};{sku:03};{day};view\n{c};{(sku + 1) % 30:03};{day};buy\n" for c, sku, day in rows)
    (folder / "orders.csv").write_text("customer;sku;at;what\n" + orders)
    data = import_log(
        "table", folder / "orders.csv", "shop", Protocol(min_history=1, sizes=Sizes(200, 20, 30, 0)), Cleaning(),
        items=folder / "goods.csv", columns=Columns("customer", "sku", "at", title="name", genres="kind"),
        reading=Reading(where={"what": ["buy"]}),
    ).save(folder / "data")  # fmt: skip
    run(resolve("demo", ["method=popularity", "cases=10"]), data, folder / "run")
    return folder
