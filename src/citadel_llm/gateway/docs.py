"""/docs: the API's description for people, and a place to try a model from.

FastAPI's own page loads Swagger UI from a content delivery network, which the users of a closed network
cannot reach. This one is three small files of ours that read /openapi.json, and needs nothing else.
"""

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

# Only what this server itself serves may run on the page, into which people type their key.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_FILES = files("citadel_llm.gateway") / "docs_page"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def page() -> Response:
    """The page."""
    return _file("docs.html", "text/html")


@router.get("/docs/docs.js")
async def script() -> Response:
    """Its script."""
    return _file("docs.js", "text/javascript")


@router.get("/docs/docs.css")
async def style() -> Response:
    """Its style."""
    return _file("docs.css", "text/css")


def _file(name: str, media_type: str) -> Response:
    return Response((_FILES / name).read_bytes(), headers=_HEADERS, media_type=media_type)
