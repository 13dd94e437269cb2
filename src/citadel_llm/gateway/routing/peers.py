"""`GET /internal/engines`: what this node's engines are, for the gateways of the other nodes."""

import msgspec
from fastapi import APIRouter, Request, Response

from citadel_llm.gateway.auth import authenticate
from citadel_llm.gateway.call import call_of
from citadel_llm.gateway.errors import NotAllowedError
from citadel_llm.gateway.routing.wire_format import PATH
from citadel_llm.gateway.state import state_of

router = APIRouter(include_in_schema=False)


@router.get(PATH)
async def internal_engines(request: Request) -> Response:
    """This node's own engines, for a key of the scope `peer` alone.

    Raises:
        NotAllowedError: The key is for something else.
    """
    state = state_of(request.scope)
    key = await authenticate(request.headers, state["keys"])
    call_of(request.scope).key_id = key.id
    if key.scope != "peer":
        raise NotAllowedError("This is for other gateways: it takes a key of the scope 'peer'.")
    body = msgspec.json.encode(state["engines"].told_to_peers())
    return Response(body, media_type="application/json")
