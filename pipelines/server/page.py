"""The pages' own files, with the policy that both pages have."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from codec.errors import quoted
from pipelines.server.errors import ApiError
from pipelines.server.service import Service

STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing from elsewhere, no inline code: what a page shows can never become code of the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}


def page_routes(service: Service) -> list[BaseRoute]:
    """Return the routes."""

    async def index(request: Request) -> Response:
        return static_file("index.html")

    async def file(request: Request) -> Response:
        return static_file(request.path_params["name"])

    return [Route("/", index), Route("/static/{name:path}", file)]


def static_file(name: str) -> FileResponse:
    """Return one of the server's own files, by its name below ``static/``. Raises: ApiError."""
    path = (STATIC / name).resolve()
    if "\0" in name or STATIC not in path.parents or path.suffix not in _TYPES or not path.is_file():
        raise ApiError(404, f"no file {quoted(name)}")
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=HEADERS)
