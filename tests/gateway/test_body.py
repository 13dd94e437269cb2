"""Reading `model` out of a body, and putting another name in its place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citadel_llm.gateway.body import read_fields, replace_model

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["model", "a", '"', "\\"]) | st.text(), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(
    before=st.dictionaries(st.text(), NESTED, max_size=3),
    after=st.dictionaries(st.text(), NESTED, max_size=3),
    model=st.text(min_size=1),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_replacing_changes_the_model_and_nothing_else(
    before: dict[str, Any], after: dict[str, Any], model: str, ascii_only: bool, indent: int | None
) -> None:
    before, after = ({k: v for k, v in d.items() if k != "model"} for d in (before, after))
    fields = {**before, "model": model, **after}
    body = json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode()
    expected = json.dumps({**fields, "model": "real"}, ensure_ascii=ascii_only, indent=indent).encode()
    assert replace_model(body, "real") == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"real"}'),
        (b' { "model" :\n"a" , "x": 1.0e5 } ', b' { "model" :\n"real" , "x": 1.0e5 } '),
        (b'{"mod\\u0065l": "a"}', b'{"mod\\u0065l": "real"}'),
        (b'{"model": "first", "model": "a"}', b'{"model": "real", "model": "real"}'),
        (b'{"model": {"model": "b"}, "model": "a"}', b'{"model": {"model": "b"}, "model": "real"}'),
        (b'{"x": [{"model": "b"}], "model": "a"}', b'{"x": [{"model": "b"}], "model": "real"}'),
        (b'{"x": "\\"model\\": \\"b\\"", "model": "a"}', b'{"x": "\\"model\\": \\"b\\"", "model": "real"}'),
        (b'{"x": "model", "model": "a"}', b'{"x": "model", "model": "real"}'),
        (b'{"model": "a\\\\", "n": 1}', b'{"model": "real", "n": 1}'),
    ],
)
def test_replacing_in_unusual_bodies(body: bytes, expected: bytes) -> None:
    assert read_fields(body).model
    assert replace_model(body, "real") == expected


def test_replacing_in_a_large_body_takes_no_time() -> None:
    body = json.dumps({"messages": ['x"\\' * 100_000] * 20, "model": "a"}).encode()
    assert replace_model(body, "real") == body.replace(b'"model": "a"', b'"model": "real"')


def test_stream_is_only_what_is_really_true() -> None:
    assert read_fields(b'{"model": "a", "stream": true}').stream is True
    for other in (b"false", b"null", b'"true"', b"1"):
        assert read_fields(b'{"model": "a", "stream": ' + other + b"}").stream is False
