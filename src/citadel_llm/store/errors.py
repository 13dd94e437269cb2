"""What can go wrong with the store."""


class StoreError(Exception):
    """The root of the store's errors; its text is written for the operator.

    ```
    StoreError
    ├── StoreUnavailableError  the database cannot be reached, read or written
    ├── InvalidNameError       a key's name or owner is not acceptable
    ├── NameTakenError         a live key has this name already
    └── NoSuchKeyError         there is no key with this id
    ```
    """


class StoreUnavailableError(StoreError):
    """The database cannot be reached, read or written."""


class InvalidNameError(StoreError):
    """A key's name or owner is not acceptable."""


class NameTakenError(StoreError):
    """A live key has this name already."""

    def __init__(self, name: str, key_id: str) -> None:
        self.name = name
        self.key_id = key_id
        super().__init__(
            f"a key named {name!r} exists already (id {key_id}): choose another name or revoke it"
        )


class NoSuchKeyError(StoreError):
    """There is no key with this id."""
