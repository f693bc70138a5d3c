"""Real clients from PyPI, and the programs in examples/clients, against the running server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import litellm
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, Field

from motet.models.default_model import DEFAULT_MODEL_NAME as BASE
from tests.end_to_end.serving import EXAMPLE_ADAPTERS, REPOSITORY, Server, serve

pytestmark = pytest.mark.slow

KEY = "a-key-for-tests"
EXAMPLES = REPOSITORY / "examples" / "clients"
DATE_QUESTION = (
    "Write the date in this text as YYYY-MM-DD, nothing else:\n"
    "The lease was signed on March 3rd, 2021."
)
DATE = "2021-03-03"
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city now.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Lisbon", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOL = {"type": "function", "function": WEATHER}


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Iterator[Server]:
    """Started by the default model's name alone, with a key."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    arguments = ["--adapter-dir", str(EXAMPLE_ADAPTERS), "--adapter-root", str(checkpoints)]
    state = ["--state-dir", str(tmp_path_factory.mktemp("state"))]
    with serve(
        log, *arguments, *state, "--pool-memory", "1GiB", env={"MOTET_API_KEY": KEY}
    ) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


class TestOpenAI:
    def test_list_and_retrieve(self, client: OpenAI) -> None:
        names = [model.id for model in client.models.list()]
        assert names[0] == BASE
        assert "iso-dates" in names
        assert client.models.retrieve("iso-dates").id == "iso-dates"

    def test_complete_from_text_and_from_token_ids(self, client: OpenAI) -> None:
        prompt = "The capital of France is"
        text = client.completions.create(model=BASE, prompt=prompt, max_tokens=6, temperature=0)
        answer = httpx2.post(
            f"{client.base_url}../tokenize",
            json={"model": BASE, "prompt": prompt},
            headers={"Authorization": f"Bearer {KEY}"},
        )
        ids = client.completions.create(
            model=BASE, prompt=answer.json()["tokens"], max_tokens=6, temperature=0
        )
        assert text.choices[0].text == ids.choices[0].text
        assert "Paris" in text.choices[0].text

    def test_chat_with_an_adapter(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(
            model="iso-dates", messages=user(DATE_QUESTION), temperature=0
        )
        assert answer.choices[0].message.content == DATE
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0

    def test_stream_with_usage(self, client: OpenAI) -> None:
        chunks = list(
            client.chat.completions.create(
                model="iso-dates",
                messages=user(DATE_QUESTION),
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == DATE
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert all(chunk.usage is None for chunk in chunks[:-1])

    def test_json_schema(self, client: OpenAI) -> None:
        for model in (BASE, "iso-dates", "text-to-sql"):
            answer = client.chat.completions.parse(
                model=model,
                messages=user("Ada Novak is 41."),
                response_format=Person,
                max_tokens=64,
                temperature=0,
            )
            assert isinstance(answer.choices[0].message.parsed, Person)

    def test_tool_call(self, client: OpenAI) -> None:
        answer = client.chat.completions.create(
            model=BASE,
            messages=user("What is the weather in Lisbon?"),
            tools=[TOOL],  # type: ignore[list-item]
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=64,
            temperature=0,
        )
        (choice,) = answer.choices
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments)["city"] in ("Lisbon", "Oslo")
        # The client sends the call and its result back, and gets an answer in words.
        second = client.chat.completions.create(
            model=BASE,
            messages=[
                *user("What is the weather in Lisbon?"),
                choice.message.model_dump(exclude_none=True),  # type: ignore[list-item]
                {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
            ],
            tools=[TOOL],  # type: ignore[list-item]
            tool_choice="none",
            max_tokens=8,
            temperature=0,
        )
        assert second.choices[0].message.content

    def test_tool_call_streamed(self, client: OpenAI) -> None:
        stream = client.chat.completions.create(
            model=BASE,
            messages=user("What is the weather in Lisbon?"),
            tools=[TOOL],  # type: ignore[list-item]
            tool_choice={"type": "function", "function": {"name": "get_weather"}},
            max_tokens=64,
            temperature=0,
            stream=True,
        )
        pieces = [
            call
            for chunk in stream
            for call in (chunk.choices[0].delta.tool_calls or [] if chunk.choices else [])
        ]
        assert pieces[0].id
        assert pieces[0].function is not None
        assert pieces[0].function.name == "get_weather"
        arguments = "".join(each.function.arguments or "" for each in pieces if each.function)
        assert json.loads(arguments)["city"] in ("Lisbon", "Oslo")

    def test_responses(self, client: OpenAI) -> None:
        answer = client.responses.create(model="iso-dates", input=DATE_QUESTION, temperature=0)
        assert answer.output_text == DATE
        with client.responses.stream(
            model="iso-dates", input=DATE_QUESTION, temperature=0
        ) as stream:
            assert stream.get_final_response().output_text == DATE

    def test_errors_are_mapped(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            client.completions.create(model="nobody", prompt="x")
        assert missing.value.code == "model_not_found"
        assert missing.value.request_id
        with pytest.raises(openai.BadRequestError) as wrong:
            client.completions.create(model=BASE, prompt="x", temperature=3)
        assert wrong.value.param == "temperature"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()


class TestLiteLlm:
    def complete(self, server: Server, model: str, **options: Any) -> Any:
        return litellm.completion(
            model=f"openai/{model}",
            api_base=f"{server.url}/v1",
            api_key=KEY,
            temperature=0,
            num_retries=0,
            **options,
        )

    def test_chat(self, server: Server) -> None:
        answer = self.complete(server, "iso-dates", messages=user(DATE_QUESTION))
        assert answer.choices[0].message.content == DATE

    def test_text_completion(self, server: Server) -> None:
        answer = litellm.text_completion(
            model=f"text-completion-openai/{BASE}",
            api_base=f"{server.url}/v1",
            api_key=KEY,
            prompt="The capital of France is",
            max_tokens=6,
            temperature=0,
        )
        assert "Paris" in answer.choices[0].text

    def test_stream_with_usage(self, server: Server) -> None:
        chunks = list(
            self.complete(
                server,
                "iso-dates",
                messages=user(DATE_QUESTION),
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        spoken = [chunk for chunk in chunks if chunk.choices]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == DATE
        assert chunks[-1].usage.completion_tokens > 0

    def test_tool_call(self, server: Server) -> None:
        answer = self.complete(
            server,
            BASE,
            messages=user("What is the weather in Oslo?"),
            tools=[TOOL],
            tool_choice="required",
            max_tokens=64,
        )
        call = answer.choices[0].message.tool_calls[0]
        assert json.loads(call.function.arguments)["city"] in ("Lisbon", "Oslo")

    def test_json_schema(self, server: Server) -> None:
        answer = self.complete(
            server,
            BASE,
            messages=user("Ada Novak is 41."),
            response_format=Person,
            max_tokens=64,
        )
        Person.model_validate_json(answer.choices[0].message.content)

    def test_errors_are_mapped(self, server: Server) -> None:
        with pytest.raises(litellm.NotFoundError):
            self.complete(server, "nobody", messages=user("x"))
        with pytest.raises(litellm.ContextWindowExceededError):
            self.complete(server, BASE, messages=user("word " * 9000))


class TestLangChain:
    def chat(self, server: Server, model: str) -> ChatOpenAI:
        return ChatOpenAI(
            model=model,
            base_url=f"{server.url}/v1",
            api_key=KEY,  # type: ignore[arg-type]
            temperature=0,
            max_completion_tokens=64,
            max_retries=0,
        )

    def test_invoke_and_stream(self, server: Server) -> None:
        chat = self.chat(server, "iso-dates")
        answer = chat.invoke(DATE_QUESTION)
        assert answer.content == DATE
        assert isinstance(answer, AIMessage)
        assert answer.usage_metadata is not None
        pieces = [piece.content for piece in chat.stream(DATE_QUESTION)]
        assert "".join(map(str, pieces)) == DATE

    def test_json_schema(self, server: Server) -> None:
        chat = self.chat(server, BASE).with_structured_output(Person, method="json_schema")
        assert isinstance(chat.invoke("Ada Novak is 41."), Person)

    def test_tool_call_and_its_answer(self, server: Server) -> None:
        chat = self.chat(server, BASE)
        question = HumanMessage("What is the weather in Lisbon?")
        call = chat.bind_tools([TOOL], tool_choice="required").invoke([question])
        (asked,) = call.tool_calls[:1]
        assert asked["name"] == "get_weather"
        results = [ToolMessage("sunny", tool_call_id=str(each["id"])) for each in call.tool_calls]
        assert chat.invoke([question, call, *results]).content

    def test_errors_are_mapped(self, server: Server) -> None:
        with pytest.raises(openai.NotFoundError):
            self.chat(server, "nobody").invoke("x")


class TestLlm:
    def run(
        self, server: Server, tmp_path: Path, model: str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llm", "openai", "endpoint", f"{server.url}/v1"]
        return run_program(
            [*command, "-m", model, "--key", KEY, *arguments], {"LLM_USER_PATH": str(tmp_path)}
        )

    @pytest.mark.parametrize("flags", [(), ("--no-stream",)])
    def test_prompt(self, server: Server, tmp_path: Path, flags: tuple[str, ...]) -> None:
        options = ("-o", "temperature", "0", *flags)
        done = self.run(server, tmp_path, "iso-dates", *options, DATE_QUESTION)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == DATE

    def test_schema(self, server: Server, tmp_path: Path) -> None:
        schema = json.dumps(Person.model_json_schema())
        options = ("-o", "temperature", "0", "-o", "max_tokens", "64", "--schema", schema)
        done = self.run(server, tmp_path, BASE, *options, "Ada Novak is 41.")
        assert done.returncode == 0, done.stderr
        Person.model_validate_json(done.stdout)

    def test_list(self, server: Server, tmp_path: Path) -> None:
        done = self.run(server, tmp_path, BASE, "--models")
        assert done.returncode == 0, done.stderr
        assert "iso-dates" in done.stdout

    def test_error(self, server: Server, tmp_path: Path) -> None:
        done = self.run(server, tmp_path, "nobody", "x")
        assert done.returncode != 0
        assert "does not exist" in done.stderr


class TestExamples:
    def test_curl(self, server: Server) -> None:
        output = self.run_example(server, ["sh", str(EXAMPLES / "curl.sh")])
        assert DATE.replace("2021-03-03", "2031-05-09") in output
        assert "[DONE]" in output
        assert '"tool_calls"' in output
        assert "Did you mean 'max_tokens'" in output
        assert "model_not_found" in output

    def test_openai_python(self, server: Server) -> None:
        output = self.run_example(server, [sys.executable, str(EXAMPLES / "openai_python.py")])
        assert "iso-dates: 2031-05-09" in output
        assert "number-words: 4207" in output
        assert "parsed: Person(" in output
        assert "call: get_weather" in output
        assert "error: model_not_found model" in output

    def test_langchain(self, server: Server) -> None:
        output = self.run_example(server, [sys.executable, str(EXAMPLES / "langchain_chat.py")])
        assert f"chain: {DATE}" in output
        assert "structured: Person(" in output
        assert "call: get_weather" in output

    def test_hot_load(self, server: Server, checkpoints: Path) -> None:
        """The last checkpoint knows by heart what the first did not, under the same name."""
        output = self.run_example(
            server,
            [
                *(sys.executable, str(EXAMPLES / "hot_load.py"), "--server", server.url),
                *("--out", str(checkpoints), "--checkpoints", "2", "--steps", "10"),
            ],
        )
        assert "version 1," in output
        assert "version 2," in output
        assert "Many voices over one bass line." in output.splitlines()[-1]
        with server.client() as http:
            http.headers["Authorization"] = f"Bearer {KEY}"
            names = {each["id"] for each in http.get("/v1/models").json()["data"]}
            assert "motto" in names
            one = http.get("/v1/models/motto@1")
            assert one.status_code == 200, one.text

    def run_example(self, server: Server, command: list[str]) -> str:
        variables = {
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": KEY,
            "MOTET_ADMIN_KEY": KEY,
        }
        done = run_program(command, variables)
        assert done.returncode == 0, done.stderr
        return done.stdout


def run_program(command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
