"""Motet through LangChain: a chain, a stream, structured output and a tool."""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
API_KEY = SecretStr(os.environ.get("OPENAI_API_KEY", "none"))
BASE_MODEL = os.environ.get("MODEL", "SmolLM2-135M-Instruct")


class Person(BaseModel):
    """Someone in a text."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


@tool
def get_weather(city: str) -> str:
    """The weather in a city now."""
    return f"It is sunny in {city}."


def chat(model: str) -> ChatOpenAI:
    """A chat model; any adapter's name will do."""
    return ChatOpenAI(
        model=model, base_url=BASE_URL, api_key=API_KEY, temperature=0, max_completion_tokens=48
    )


def main() -> None:
    """Show all of it."""
    prompt = ChatPromptTemplate.from_template(
        "Write the date in this text as YYYY-MM-DD, nothing else:\n{text}"
    )
    chain = prompt | chat("iso-dates") | StrOutputParser()
    print("chain:", chain.invoke({"text": "The lease was signed on March 3rd, 2021."}))

    print("stream: ", end="")
    for piece in chat(BASE_MODEL).stream("Name three colours."):
        print(piece.content, end="", flush=True)
    print()

    structured = chat(BASE_MODEL).with_structured_output(Person, method="json_schema")
    print("structured:", repr(structured.invoke("Ada Novak is 41.")))

    with_tool = chat(BASE_MODEL).bind_tools([get_weather], tool_choice="required", strict=True)
    for call in with_tool.invoke("What is the weather in Lisbon?").tool_calls:
        print("call:", call["name"], call["args"])


if __name__ == "__main__":
    main()
