"""What can go wrong with the store."""


class StoreError(Exception):
    """The root of the store's errors; its text is written for the operator.

    ```
    StoreError
    ├── StoreUnavailableError  the database cannot be reached, read or written
    └── RefusedError           the database is well, what was asked is not
        ├── InvalidFieldError  a value for a key is not acceptable
        ├── NameTakenError     a live key has this name already
        ├── NoSuchKeyError     there is no key with this id
        └── KeyEndedError      the key is revoked or expired, so this cannot be done with it
    ```
    """


class StoreUnavailableError(StoreError):
    """The database cannot be reached, read or written."""


class RefusedError(StoreError):
    """The database is well, what was asked is not."""


class InvalidFieldError(RefusedError):
    """A value for a key is not acceptable.

    Args:
        field: The field of `KeyRecord`, or the option.
        requirement: What it must be; the rest of a sentence that begins with the field.
    """

    def __init__(self, field: str, requirement: str) -> None:
        self.field = field
        self.requirement = requirement
        super().__init__(f"{field} {requirement}")


class NameTakenError(RefusedError):
    """A live key has this name already."""

    def __init__(self, name: str, key_id: str) -> None:
        self.name = name
        self.key_id = key_id
        super().__init__(
            f"a key named {name!r} exists already (id {key_id}): choose another name or revoke it"
        )


class NoSuchKeyError(RefusedError):
    """There is no key with this id."""

    def __init__(self) -> None:
        super().__init__("there is no key with this id: `citadel keys list` shows the ids")


class KeyEndedError(RefusedError):
    """The key is revoked or expired, so this cannot be done with it."""
