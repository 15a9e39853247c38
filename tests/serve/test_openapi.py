"""Requests of any shape get answers that the service's own description promises."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance

from toy_server import Server, serving

pytestmark = pytest.mark.slow
OPERATIONS = (
    "POST /v1/recommend",
    "GET /v1/items",
    "GET /v1/exposure",
    "GET /v1/runs",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
)


@pytest.fixture(scope="module")
def server(shop: Path) -> Iterator[Server]:
    with serving(shop / "run") as started:
        yield started


CASES = [(name, GenerationMode.POSITIVE) for name in OPERATIONS]
CASES += [(name, GenerationMode.NEGATIVE) for name in OPERATIONS[:3]]  # the others take nothing


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_answers_are_as_described(server: Server, name: str, mode: GenerationMode) -> None:
    """Well-formed requests may still name runs, genres or items that do not exist, and are refused then."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    operations = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    found = {one.label: one for one in operations}
    assert set(found) == {*OPERATIONS, "POST /v1/reload"}  # the last one takes nothing, and seconds

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=found[name].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()
