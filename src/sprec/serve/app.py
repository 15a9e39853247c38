"""The service over HTTP. Histories are not logged, and titles are sent as JSON, never as HTML."""

import asyncio
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import fastapi_offline
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException

from sprec.serve.batcher import DeadlineError, QueueFullError
from sprec.serve.guard import App, Guard, Receive, Scope, Send
from sprec.serve.schemas import Answer, Asked, ExposureOfRun, FoundItems, Health, Problem, RunList, sentence
from sprec.serve.service import Meter, Service
from sprec.system.errors import UserError

_STATIC = Path(__file__).parent / "static"
_SWAGGER = Path(fastapi_offline.__file__).parent / "static"
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in (
        (401, "The token is missing or wrong."), (403, "The request comes from another origin."),
        (408, "The request did not arrive in time."), (413, "The request is too large."),
        (422, "What is wrong with the request, in one sentence."), (500, "A fault of the service."),
        (503, "Too many requests are waiting: ask again after Retry-After seconds."),
        (504, "The answer was not ready in time."),
    )
}  # fmt: skip


def _in_digits(text: Any) -> Any:
    if isinstance(text, str) and not (text.isascii() and text.isdigit()):
        raise PydanticCustomError("digits", "is not a whole number")
    return text


_Whole = Annotated[int, BeforeValidator(_in_digits)]
"""A number in a query, which pydantic would read from ``0.0`` as well."""


def make_app(service: Service, token: str = "") -> App:
    """The service as an ASGI application.

    Args:
        service: what answers.
        token: that requests for data must bear; empty where only this machine can ask.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)

    app = FastAPI(
        title="sprec", version=version("sprec"), lifespan=life, docs_url=None, redoc_url=None,
        description="Recommends items to histories of items. A name of an item is the shop's id, or else its title.",
    )  # fmt: skip
    _explain(app)
    _add_routes(app, service)
    _add_operations(app, service)
    _add_pages(app)
    return Timer(Guard(app, token, service.limits.body, service.limits.seconds), service.meter)


class Timer:
    """Measures every request, refused ones too.

    Args:
        app: what answers.
        meter: where times go.
    """

    def __init__(self, app: App, meter: Meter) -> None:
        self._app, self._meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and measure how long that takes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # the pattern: otherwise every path would be a label
            self._meter.seconds.labels(path, str(status)).observe(time.perf_counter() - started)


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/recommend", responses=_problems(401, 403, 408, 413, 422, 500, 503, 504))
    async def recommend(asked: Asked) -> Answer:
        """Recommend items to each history."""
        return await service.recommend(asked)

    @app.get("/v1/items", responses=_problems(401, 403, 422))
    def items(
        q: Annotated[str | None, Query(min_length=1, max_length=200, description="A part of the title.")] = None,
        item: Annotated[list[_Whole] | None, Query(max_length=1000, description="Or rows of the catalog.")] = None,
        limit: Annotated[_Whole, Query(ge=1, le=100, description="Items found by title at most.")] = 20,
        run: Annotated[str | None, Query(description="The run whose catalog is searched.")] = None,
    ) -> FoundItems:
        """Find items by a part of their title: those that begin with it first, then by popularity."""
        return FoundItems(items=service.items(run, q, item or [], limit))

    @app.get("/v1/exposure", responses=_problems(401, 403, 422))
    def exposure(
        run: Annotated[str | None, Query(description="The run; the first one by default.")] = None,
    ) -> ExposureOfRun:
        """Whom a run exposes, by the test lists that it has on record."""
        return service.exposure(run)

    @app.get("/v1/runs", responses=_problems(401, 403))
    def list_runs() -> RunList:
        """What is served."""
        return service.list_runs()


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.post("/v1/reload", responses=_problems(401, 403, 422, 500))
    def reload() -> RunList:
        """Load the runs again from where they were at the start; requests go on meanwhile."""
        service.reload()
        return service.list_runs()

    @app.get("/healthz")
    def healthz() -> Health:
        """Whether the process answers."""
        return Health(status="ok")

    @app.get("/readyz", responses={503: {"model": Health, "description": "The service is stopping."}})
    def readyz(response: Response) -> Health:
        """Whether requests should be sent here."""
        ready = service.batcher.is_open
        response.status_code = 200 if ready else 503
        return Health(status="ready" if ready else "stopping")

    text: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}

    @app.get("/metrics", response_class=Response, responses=text | _problems(401, 403))
    def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(service.meter.text(), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    """The page and the documentation of the requests, from installed files."""

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(_STATIC / "docs.html")

    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    app.mount("/swagger", StaticFiles(directory=_SWAGGER), name="swagger")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _PROBLEMS[status] for status in statuses}


def _explain(app: FastAPI) -> None:
    """Explain every error in one sentence."""

    def told(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"detail": detail}, status, headers)

    @app.exception_handler(UserError)
    async def mistake(_: Request, error: UserError) -> JSONResponse:
        return told(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return told(422, sentence(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # how FastAPI calls bytes that are no text
            return told(422, "the request is not JSON in UTF-8")
        return told(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(QueueFullError)
    async def full(_: Request, error: QueueFullError) -> JSONResponse:
        return told(503, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(DeadlineError)
    async def late(_: Request, error: DeadlineError) -> JSONResponse:
        return told(504, str(error))

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> JSONResponse:
        return told(500, "the service failed; its log says why")
