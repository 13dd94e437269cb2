"""/v1/admin/keys: make, list, change, rotate and revoke keys.

Gateways take a change over within `gateway.keys_refresh_seconds`; the one that was asked does so before it
answers.
"""

import asyncio
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Path, Query, status

from citadel_llm.gateway.admin.access import KEY_ID_PATTERN, Admin, AdminAccess, admin_router
from citadel_llm.gateway.admin.schemas import Key, KeyChange, KeyPage, NewKey, Rotation, SecretKey
from citadel_llm.gateway.schemas import Error

router = admin_router("/keys", missing=True)

KeyId = Annotated[str, Path(description="The key's id.", pattern=KEY_ID_PATTERN, examples=["5d1c9a0b7e42"])]
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": Error, "description": "A live key has this name, or the key is revoked or expired."}
}


@router.post("", summary="Make a key", status_code=status.HTTP_201_CREATED, responses=_CONFLICT)
async def create_key(wanted: NewKey, admin: AdminAccess) -> SecretKey:
    """Make a key. The answer holds the key itself, this once: Citadel keeps a hash of it alone."""
    fields = wanted.model_dump(exclude_unset=True)
    made = await asyncio.to_thread(_store(admin).create, **fields, by=admin.actor)
    await admin.state["keys"].read_soon()
    return SecretKey.made(made)


@router.get("", summary="List the keys")
async def list_keys(
    admin: AdminAccess,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
    after: Annotated[
        str | None,
        Query(description="Go on after this id: the last page's `last_id`.", pattern=KEY_ID_PATTERN),
    ] = None,
    revoked: Annotated[bool, Query(description="Whether the revoked ones too.")] = True,
) -> KeyPage:
    """The keys, the oldest first."""
    records = await asyncio.to_thread(_store(admin).list, revoked=revoked, limit=limit + 1, after=after)
    page = [Key.of(record) for record in records[:limit]]
    return KeyPage(
        data=page,
        has_more=len(records) > limit,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
    )


@router.get("/{key_id}", summary="Show a key")
async def get_key(key_id: KeyId, admin: AdminAccess) -> Key:
    """What is known of one key, also of a revoked one."""
    return Key.of(await asyncio.to_thread(_store(admin).get, key_id))


@router.patch("/{key_id}", summary="Change a key", responses=_CONFLICT)
async def change_key(key_id: KeyId, wanted: KeyChange, admin: AdminAccess) -> Key:
    """Change what is said of a key; what is not sent stays. A key's scope is for ever."""
    fields = wanted.model_dump(exclude_unset=True)
    record = await asyncio.to_thread(_store(admin).change, key_id, **fields, by=admin.actor)
    await admin.state["keys"].read_soon()
    return Key.of(record)


@router.post("/{key_id}/rotate", summary="Rotate a key", responses=_CONFLICT)
async def rotate_key(key_id: KeyId, admin: AdminAccess, wanted: Rotation | None = None) -> SecretKey:
    """Give a key a new secret, shown this once; its id, limits and accounts stay."""
    grace = timedelta(seconds=wanted.grace_seconds if wanted else 0)
    made = await asyncio.to_thread(_store(admin).rotate, key_id, grace, by=admin.actor)
    await admin.state["keys"].read_soon()
    return SecretKey.made(made)


@router.post("/{key_id}/revoke", summary="Revoke a key")
async def revoke_key(key_id: KeyId, admin: AdminAccess) -> Key:
    """Revoke a key for good. Again, it changes nothing."""
    record = await asyncio.to_thread(_store(admin).revoke, key_id, by=admin.actor)
    await admin.state["keys"].read_soon()
    return Key.of(record)


def _store(admin: Admin) -> Any:
    return admin.state["keys"].store
