"""The web application of the live page: read-only, and it asks nothing of the network."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from homeostat.core.errors import RecordError
from homeostat.core.signals import pass_on
from homeostat.report.live import live_page
from homeostat.report.live.followed_run import POLL_SECONDS
from homeostat.report.live.watched_runs import WatchedRuns
from homeostat.report.page import BUNDLE, asset, templates

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
ASSETS = (BUNDLE, "page.js", "errors.js", "runs.js")
COOKIE = "homeostat-token"
SILENT_POLLS = 30
"""After this many polls without news, a comment is sent, so that a closed connection is noticed."""


def application(watched: WatchedRuns, token: str = "", ending: Callable[[], bool] = lambda: False) -> Any:
    """The ASGI application.

    Args:
        watched: the runs.
        token: what every request must bring, in the address or in a cookie; "" allows requests to this machine's
            loopback names only.
        ending: whether the server ends; open streams end then.

    Raises:
        ImportError: starlette is not installed.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route

    def guarded(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            given = request.query_params.get("token", "")
            if token and not any(_same(token, g) for g in (given, request.cookies.get(COOKIE, ""))):
                return PlainTextResponse("the address needs the token that `homeostat watch` has printed", 403, HEADERS)
            response = await handler(request)
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            if token and given:
                response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return response

        return answer

    async def runs(request: Request) -> Response:
        return HTMLResponse(await run_in_threadpool(live_page.list_page, watched))

    async def run(request: Request) -> Response:
        try:
            return HTMLResponse(await run_in_threadpool(live_page.live_page, watched, _ids(request)))
        except RecordError as error:
            pass_on(error)
            page = templates().get_template("waiting.html.j2")
            return HTMLResponse(page.render(why=str(error), css=asset("page.css")), 404)

    async def chart(request: Request) -> Response:
        asked = request.query_params
        arguments = _ids(request), asked.get("name", ""), asked.get("pick", "worst")
        try:
            return JSONResponse(await run_in_threadpool(live_page.live_chart, watched, *arguments))
        except RecordError as error:
            pass_on(error)
            return JSONResponse({"error": str(error)}, 404)

    async def events(request: Request) -> Response:
        stream = _run_events(_ids(request)) if _ids(request) else _list_events()
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _run_events(ids: list[str]) -> AsyncIterator[str]:
        sent, said, quiet = live_page.Sent(), "", 0
        while not ending():
            try:
                news = await run_in_threadpool(live_page.news, watched, ids, sent)
            except RecordError as error:
                pass_on(error)
                news, why = None, str(error)
                if why != said:
                    yield _event("refused", said := why)
            quiet = 0 if news else quiet + 1
            if news:
                yield _event("update", news)
            elif quiet % SILENT_POLLS == 0:
                yield ": nothing new\n\n"
            await asyncio.sleep(POLL_SECONDS)

    async def _list_events() -> AsyncIterator[str]:
        shown = None
        while not ending():
            rows = await run_in_threadpool(live_page.list_rows, watched)
            yield _event("rows", shown := str(rows)) if rows != shown else ": nothing new\n\n"
            await asyncio.sleep(4 * POLL_SECONDS)

    async def assets(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            return PlainTextResponse("there is no such file", 404)
        return Response(asset(name), media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    handlers = {"/": runs, "/run": run, "/chart": chart, "/events": events, "/assets/{name}": assets}
    hosts = ["*"] if token else list(LOOPBACK)
    return Starlette(
        routes=[Route(path, guarded(handler), methods=["GET"]) for path, handler in handlers.items()],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


def _ids(request: Any) -> list[str]:
    return [run for run in request.query_params.getlist("run") if run]


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
