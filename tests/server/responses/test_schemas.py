"""Text with a schema through /v1/responses, over an engine that repeats what it is asked."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.server.running_server import BASE, RunningServer, running_server
from tests.server.tiny_model import END_OF_TURN, write_tiny_model

CITY = '{"name": "K\u00f6ln", "people": 1100000}'


class City(BaseModel):
    name: str
    people: int


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory: Path = tmp_path_factory.mktemp("echo")
    model = write_tiny_model(directory / "model", chat_template="{{ messages[-1]['content'] }}")
    with running_server(model, directory / "engine.jsonl") as server:
        yield server


@pytest.fixture(scope="module")
def client(echo: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{echo.url}/v1", api_key="none", max_retries=0)


def test_the_client_library_parses_the_answer(echo: RunningServer, client: OpenAI) -> None:
    """And the engine is told to keep to the schema, as in a chat."""
    asked = f"{CITY}{END_OF_TURN}"
    answer = client.responses.parse(model=BASE, input=asked, text_format=City)
    assert answer.output_parsed == City(name="K\u00f6ln", people=1100000)
    with client.responses.stream(model=BASE, input=asked, text_format=City) as events:
        assert events.get_final_response().output_parsed == answer.output_parsed
    client.chat.completions.parse(
        model=BASE, messages=[{"role": "user", "content": asked}], response_format=City
    )
    grammars = {each["sampling"]["grammar"] for each in echo.events("AddRequest")}
    assert len(grammars) == 1
    assert None not in grammars


def test_a_schema_that_cannot_be_kept_to_is_named_as_here(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "http://example.org/a.json"}}}
    text_format = {"type": "json_schema", "name": "n", "schema": schema}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=BASE, input="x", text={"format": text_format})
    assert caught.value.param == "text.format"
