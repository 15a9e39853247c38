import json
import math

from sprec.system.storage import defined


def test_what_is_undefined_is_null_at_any_depth() -> None:
    value = {"HR@1": 0.5, "MGU@1": math.nan, "genres": {"Drama": math.nan, "rows": 3}, "name": "x", "none": None}
    text = json.dumps(defined(value), allow_nan=False)
    assert json.loads(text) == {
        "HR@1": 0.5,
        "MGU@1": None,
        "genres": {"Drama": None, "rows": 3},
        "name": "x",
        "none": None,
    }
