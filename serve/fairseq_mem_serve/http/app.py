"""HTTP around the service: paths, headers, errors as JSON, one line of log for a request."""

import logging
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .openapi import description
from .service import ClientLeft, Service
from .settings import Refused

# Of a body that is too large so much is read and thrown away: who is still sending when the
# connection is closed does not get to read why.
MOST_IGNORED = 1 << 26
CLIENT_LEFT = 499  # as nginx logs it; nobody gets to see it
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

logger = logging.getLogger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(service: Service, access_log: bool = True) -> ASGIApp:
    """The ASGI application."""
    settings = service.settings

    async def translate(request: Request) -> Response:
        async def read() -> bytes:
            body = bytearray()
            length = 0
            async for chunk in request.stream():
                length += len(chunk)
                if length <= settings.max_body_bytes:
                    body += chunk
                elif length > settings.max_body_bytes + MOST_IGNORED:
                    break
            if length > settings.max_body_bytes:
                raise Refused(
                    413,
                    f"the body has more than {settings.max_body_bytes:,} bytes; send less at a "
                    "time",
                    {"Connection": "close"},
                )
            return bytes(body)

        async def left() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        try:
            answer, request.scope["line"] = await service.answer(
                read,
                request.headers.get("content-type", ""),
                key.strip() if scheme.lower() == "bearer" else None,
                left,
            )
        except (ClientLeft, ClientDisconnect):
            service.metrics.left.inc()
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse(answer)

    async def languages(_: Request) -> Response:
        return JSONResponse(service.models.languages())

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        status = service.status
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    async def metrics(_: Request) -> Response:
        return Response(service.metrics.exposition(), headers={"Content-Type": EXPOSITION})

    described = description(settings, service.models.pairs)

    async def openapi(_: Request) -> Response:
        return JSONResponse(described)

    routes = [
        Route("/translate", translate, methods=["POST"]),
        Route("/languages", languages),
        Route("/health", ready),
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/metrics", metrics),
        Route("/openapi.json", openapi),
        *(Route(path, _page(name, kind)) for path, (name, kind) in PAGE.items()),
    ]
    paths = frozenset(route.path for route in routes)
    app = Starlette(
        routes=routes,
        exception_handlers={Refused: _refused, HTTPException: _http, Exception: _unexpected},
    )
    app.router.redirect_slashes = False
    return _Around(app, service, paths, access_log)


def _page(name: str, kind: str) -> Endpoint:
    content = (files(__package__) / "page" / name).read_bytes()

    async def page(_: Request) -> Response:
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-cache"})

    return page


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


async def _refused(_: Request, error: Any) -> Response:
    return _error(error.status, error.message, error.headers)


async def _http(request: Request, error: Any) -> Response:
    """What Starlette itself refuses."""
    known = {
        404: "there is nothing here; openapi.json lists what there is",
        405: "another method is needed here; openapi.json says which",
    }
    return _error(error.status_code, known.get(error.status_code, error.detail), error.headers)


async def _unexpected(_: Request, __: Exception) -> Response:
    return _error(500, "a mistake of the server's; its log says more")


class _Around:
    """Adds headers to each answer, counts it, and writes a line about it, without its text."""

    def __init__(
        self, app: ASGIApp, service: Service, paths: frozenset[str], access_log: bool
    ) -> None:
        self._app, self._service, self._paths, self._log = app, service, paths, access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun = time.perf_counter()
        status = CLIENT_LEFT

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self._app(scope, receive, marked)
        except Exception as error:
            # Starlette has sent the answer. The message might hold what somebody wrote.
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"
            logger.error("unexpected %s at %s", type(error).__name__, where)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "elsewhere"
            seconds = time.perf_counter() - begun
            self._service.metrics.requests.labels(path, str(status)).inc()
            if path == "/translate":
                self._service.metrics.seconds.observe(seconds)
            if self._log and path == "/translate":
                line = scope.get("line", "")
                logger.info("%s %d %.0f ms %s", path, status, 1000 * seconds, line)
