"""Reading the few fields of a body that the gateway needs, and appending its own."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from citadel_llm.gateway.body import read_fields, read_form_fields, with_end
from citadel_llm.gateway.errors import InvalidRequestError

NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
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
def test_what_is_appended_wins_and_all_else_stays(
    before: dict[str, Any], after: dict[str, Any], model: str, ascii_only: bool, indent: int | None
) -> None:
    before, after = ({k: v for k, v in d.items() if k != "model"} for d in (before, after))
    fields = {**before, "model": model, **after}
    body = json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode() + b" \r\n"
    assert read_fields(body, 16).model == model
    changed = b"".join(with_end(body, b',"model":"real","priority":-1}'))
    assert json.loads(changed) == {**fields, "model": "real", "priority": -1}
    assert changed.startswith(body[: body.rindex(b"}")]), "not a byte of the client's is touched"


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (b'{"mod\\u0065l": "a"}', "a"),
        (b'{"model": "first", "model": "a"}', "a"),
        (b'{"x": [{"model": "b"}], "model": "a"}', "a"),
        (b'{"x": "\\"model\\": \\"b\\"", "model": "a"}', "a"),
        (b'{"model": "a", "tail": "}"}', "a"),
    ],
)
def test_the_model_of_unusual_bodies(body: bytes, model: str) -> None:
    assert read_fields(body, 0).model == model
    assert json.loads(b"".join(with_end(body, b',"model":"real"}')))["model"] == "real"


def test_what_the_engine_takes_for_true_is_true() -> None:
    """It reads by pydantic: a stream that the gateway did not know for one would not tell its usage."""
    asks = TypeAdapter(bool | None)
    for other in (b"true", b"1", b"1.0", b'"TRUE"', b'"on"', b'"y"'):
        assert asks.validate_json(other) is True
        body = b'{"model": "a", "stream": %b, "stream_options": {"include_usage": %b}}' % (other, other)
        fields = read_fields(body, 0)
        assert (fields.stream, fields.wants_usage) == (True, True)
    for other in (b"false", b"null", b"0", b'"no"', b"2", b"[]", b"{}"):
        body = b'{"model": "a", "stream": %b, "stream_options": {"include_usage": %b}}' % (other, other)
        fields = read_fields(body, 0)
        assert (fields.stream, fields.wants_usage) == (False, False)
    assert read_fields(b'{"model": "a", "stream_options": {"include_usage": true}}', 0).wants_usage


@pytest.mark.parametrize(
    ("fields", "group", "prompt"),
    [
        ({"messages": ["hello"]}, b"", b'["hello"]'),
        ({"prompt": "hello", "user": "ada"}, b'"ada"', b'"hello"'),
        ({"input": "hello", "prompt_cache_key": "k", "user": "ada"}, b'"k"', b'"hello"'),
        ({"messages": ["x"], "system": "be kind"}, b"", b'"be kind"["x"]'),
        ({"messages": ["x"], "user": None}, b"", b'["x"]'),
        ({}, b"", b""),
    ],
)
def test_what_chooses_the_engine(fields: dict[str, Any], group: bytes, prompt: bytes) -> None:
    read = read_fields(json.dumps({"model": "a", **fields}).encode(), 64)
    assert (read.group, read.prompt) == (group, prompt)
    assert read_fields(json.dumps({"model": "a", **fields}).encode(), 3).prompt == prompt[:3]


FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nname="model"\r\n'
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
    b'--x\r\ncontent-disposition: form-data; name="stream"\r\n\r\ntrue\r\n--x--\r\n'
)


def test_the_fields_of_a_form() -> None:
    fields = read_form_fields(FORM, b"multipart/form-data; boundary=x")
    assert (fields.model, fields.stream) == ("whisper", True)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (FORM, b"application/json"),
        (FORM, b"multipart/form-data"),
        (FORM, b"multipart/form-data; boundary=y"),
        (FORM[:-10], b"multipart/form-data; boundary=x"),
        (FORM.replace(b'name="model"\r\n\r\n', b'name="modal"\r\n\r\n'), b"multipart/form-data; boundary=x"),
        (FORM.replace(b"whisper", b"w" * 2000), b"multipart/form-data; boundary=x"),
        (b"", b"multipart/form-data; boundary=x"),
    ],
)
def test_forms_that_cannot_be_understood(body: bytes, content_type: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        read_form_fields(body, content_type)


def test_a_picture_counts_for_itself_and_not_for_its_bytes() -> None:
    def estimate(*urls: str) -> int:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        body = json.dumps({"model": "a", "messages": [{"role": "user", "content": parts}]}).encode()
        return read_fields(body, 0).prompt_estimate

    text, picture = "x" * 400_000, "data:image/png;base64," + "A" * 400_000
    assert estimate(text) > 100_000
    assert 2_000 < estimate(picture) < 3_000
    assert 4_000 < estimate(picture, picture) < 5_000
    assert 100_000 < estimate(picture, text) < 103_000
    assert estimate(picture[:2_000]) < 1_000
    # Who claims to send many gets no discount for those beyond the first few, nor any time.
    assert estimate(*[";base64,"] * 50_000) > 100_000
