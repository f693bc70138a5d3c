"""What travels between the two processes: there and back, and nothing else gets in."""

from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.core import messages
from motet.core.messages import FromEngine, ToEngine, decode_from_engine, decode_to_engine, encode
from motet.core.sampling import SamplingParams
from motet.core.shape import ModelShape

TO_ENGINE = get_args(ToEngine)
FROM_ENGINE = get_args(FromEngine)

counts = st.integers(0, 2**63 - 1)
texts = st.text(max_size=8)
fractions = st.floats(0, 1, allow_nan=False)
tokens = st.lists(st.integers(0, 2**31 - 1), max_size=5)

sampling = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 2**31),
    temperature=fractions,
    top_k=st.none() | counts,
    top_p=fractions,
    min_p=fractions,
    seed=counts,
    stop_token_ids=tokens.map(tuple),
    repetition_penalty=fractions,
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
)
st.register_type_strategy(SamplingParams, sampling)
st.register_type_strategy(int, counts)
st.register_type_strategy(str, texts)


def message_of(kinds: tuple[type, ...]) -> st.SearchStrategy[msgspec.Struct]:
    """Any message of these kinds, every field drawn, those with a default included."""
    return st.one_of(
        *(
            st.builds(kind, **{field: st.from_type(hint) for field, hint in hints(kind).items()})
            for kind in kinds
        )
    )


def hints(kind: type) -> dict[str, type]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


@given(message=message_of(TO_ENGINE))
@settings(max_examples=200)
def test_to_the_engine_and_back(message: msgspec.Struct) -> None:
    decoded = decode_to_engine(encode(message))
    assert type(decoded) is type(message)
    assert encode(decoded) == encode(message)  # NaN equals nothing, itself included


@given(message=message_of(FROM_ENGINE))
@settings(max_examples=200)
def test_from_the_engine_and_back(message: msgspec.Struct) -> None:
    decoded = decode_from_engine(encode(message))
    assert type(decoded) is type(message)
    assert encode(decoded) == encode(message)


def example(kind: type) -> msgspec.Struct:
    """The least message of a kind."""
    shape = ModelShape(1, 2, 3, 4, 5, 6, 7)
    values = {
        str: "x",
        int: 1,
        list[int]: [1],
        list[str]: ["x"],
        list[messages.TokenOutput]: [messages.TokenOutput("r", [3], "stop")],
        SamplingParams: SamplingParams(max_tokens=1),
        ModelShape: shape,
        messages.AdapterInfo: messages.AdapterInfo("d", 8, ["q"], 10, 2),
        float: 0.5,
        list[messages.AdapterMemory]: [],
        list[messages.WeightedAdapter]: [messages.WeightedAdapter("d", 0.5)],
        bool: True,
    }
    if kind is messages.MemoryReport:
        values[messages.EngineStats] = example(messages.EngineStats)
    made = kind(**{name: values.get(hint) for name, hint in hints(kind).items()})
    assert isinstance(made, msgspec.Struct)
    return made


@pytest.mark.parametrize("kind", [*TO_ENGINE, *FROM_ENGINE], ids=lambda kind: kind.__name__)
def test_each_kind_is_told_by_its_tag_and_goes_one_way(kind: type) -> None:
    message = example(kind)
    decode, wrong_way = decode_to_engine, decode_from_engine
    if kind in FROM_ENGINE:
        decode, wrong_way = wrong_way, decode
    assert decode(encode(message)) == message
    with pytest.raises(msgspec.ValidationError, match=kind.__name__):
        wrong_way(encode(message))


def test_every_message_is_in_one_of_the_two_unions() -> None:
    tagged = {
        kind
        for kind in vars(messages).values()
        if isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__struct_config__.tag is not None
    }
    assert tagged == {*TO_ENGINE, *FROM_ENGINE}
    assert not {*TO_ENGINE} & {*FROM_ENGINE}


@pytest.mark.parametrize("decode", [decode_to_engine, decode_from_engine])
@given(garbage=st.binary(max_size=60))
def test_garbage_is_refused(decode: object, garbage: bytes) -> None:
    assert callable(decode)
    with pytest.raises(msgspec.DecodeError):
        decode(garbage)


@pytest.mark.parametrize("decode", [decode_to_engine, decode_from_engine])
@pytest.mark.parametrize(
    "content",
    [
        {"type": "Unheard"},
        {"type": 3},
        {},
        [],
        None,
        "Shutdown",
        {"operation_id": "x"},
    ],
)
def test_what_is_no_message_is_refused(decode: object, content: object) -> None:
    assert callable(decode)
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode(content))


@pytest.mark.parametrize("kind", [*TO_ENGINE, *FROM_ENGINE], ids=lambda kind: kind.__name__)
def test_a_missing_field_or_one_of_a_wrong_type_is_refused(kind: type) -> None:
    decode = decode_to_engine if kind in TO_ENGINE else decode_from_engine
    whole = msgspec.msgpack.decode(encode(example(kind)))
    for field in msgspec.structs.fields(kind):
        name = field.name
        without = {key: value for key, value in whole.items() if key != name}
        if field.required:
            with pytest.raises(msgspec.ValidationError, match=name):
                decode(msgspec.msgpack.encode(without))
        wrong = "x" if field.type in (float, float | None) else 1.5
        with pytest.raises(msgspec.ValidationError, match=name):
            decode(msgspec.msgpack.encode({**whole, name: wrong}))


@given(message=message_of(TO_ENGINE), data=st.data())
def test_a_message_cut_short_is_refused(message: msgspec.Struct, data: st.DataObject) -> None:
    whole = encode(message)
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(msgspec.DecodeError):
        decode_to_engine(whole[:length])


def test_messages_do_not_change_once_made() -> None:
    for kind in (*TO_ENGINE, *FROM_ENGINE):
        for name in hints(kind):
            with pytest.raises(AttributeError, match="immutable"):
                setattr(example(kind), name, None)


def test_absent_options_stay_absent() -> None:
    request = messages.AddRequest("r", [1, 2], SamplingParams(max_tokens=3), None)
    decoded = decode_to_engine(encode(request))
    assert decoded.digest is None
    assert decoded.sampling.top_k is None
    assert decoded.sampling.stop_token_ids == ()
