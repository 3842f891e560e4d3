"""Errors in the one shape that OpenAI's clients read, whatever went wrong and wherever."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    429: "queue_full",
    503: "unavailable",
}


class ApiError(Exception):
    """An answer with an error status. ``param`` names the field at fault."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code = code or _CODES.get(status)

    def body(self) -> dict[str, dict[str, str | None]]:
        """Return the body of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the answer."""
        headers = {"Retry-After": "2"} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer with an `ApiError`."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_bad_input(request: Request, error: Exception) -> Response:
    """Answer with what the codec or the voice says of its input."""
    return ApiError(400, str(error)).response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer with what the framework raised: no such route, a method that it does not have."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:60]
    messages = {
        404: f"no such address: {path}; see GET /v1/models and docs/serve.md",
        405: f"{path} does not take {request.method}",
    }
    answer = ApiError(error.status_code, messages.get(error.status_code, str(error.detail))).response()
    answer.headers.update(error.headers or {})
    return answer


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer to a bug of ours, without a word about it."""
    return ApiError(500, "the server failed; its log says why", code="internal_error").response()
