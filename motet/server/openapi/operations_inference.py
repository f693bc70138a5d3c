"""The operations of whoever uses models.

Owns: what the document says of generation, models and tokens.
"""

from __future__ import annotations

from motet.server.openapi import answers, answers_generation, answers_responses, error_codes
from motet.server.openapi.operation import Answer, Body, Operation, Parameter
from motet.server.parameters import idle_chat_parameters, idle_completion_parameters
from motet.server.protocol import ChatRequest, CompletionRequest
from motet.server.responses.parameters import idle_response_parameters
from motet.server.responses.protocol import ResponsesRequest
from motet.server.tokenize import DetokenizeRequest, TokenizeChatRequest, TokenizeRequest

_TIMEOUT = Parameter(
    "x-request-timeout",
    "header",
    "Seconds that the request may take, from its arrival to its end; at most the server's own.",
    {"type": "string", "pattern": "^[0-9]{1,9}([.][0-9]{1,9})?$"},
)
_MODEL = frozenset({"model"})
_SERVED_BY = ("x-adapter-id", "x-adapter-version")

GENERATION = (
    Operation(
        "POST",
        "/v1/completions",
        "create_completion",
        "Continue prompts.",
        "generation",
        (
            Answer(
                "The completions, or with `stream` their parts.",
                json=answers_generation.Completion,
                event=answers_generation.CompletionChunk | answers.Error,
                ends_with_done=True,
            ),
        ),
        error_codes.OF_GENERATION,
        bodies=(Body(CompletionRequest, idle_completion_parameters(), may_be_lenient=True),),
        parameters=(_TIMEOUT,),
        headers=(*_SERVED_BY, "x-ignored-params"),
    ),
    Operation(
        "POST",
        "/v1/chat/completions",
        "create_chat_completion",
        "Answer a conversation.",
        "generation",
        (
            Answer(
                "The answers, or with `stream` their parts.",
                json=answers_generation.ChatCompletion,
                event=answers_generation.ChatCompletionChunk | answers.Error,
                ends_with_done=True,
            ),
        ),
        error_codes.OF_GENERATION,
        bodies=(Body(ChatRequest, idle_chat_parameters(), may_be_lenient=True),),
        parameters=(_TIMEOUT,),
        headers=(*_SERVED_BY, "x-ignored-params"),
    ),
    Operation(
        "POST",
        "/v1/responses",
        "create_response",
        "Answer a conversation, as OpenAI's newer endpoint does; nothing is kept.",
        "generation",
        (
            Answer(
                "The response, or with `stream` its events.",
                json=answers_responses.Response,
                event=answers_responses.ResponseEvent,
            ),
        ),
        error_codes.OF_GENERATION,
        bodies=(Body(ResponsesRequest, idle_response_parameters()),),
        parameters=(_TIMEOUT,),
        headers=_SERVED_BY,
    ),
)

MODELS = (
    Operation(
        "GET",
        "/v1/models",
        "list_models",
        "The base model, then every adapter.",
        "models",
        (Answer("The models.", json=answers.ModelList),),
    ),
    Operation(
        "GET",
        "/v1/models/{model}",
        "retrieve_model",
        "One model.",
        "models",
        (Answer("The model.", json=answers.Model),),
        error_codes.OF_MODEL,
        parameters=(Parameter("model", "path", "Its name, with any slashes.", {"type": "string"}),),
    ),
)


def _tokens(prefix: str, name: str) -> tuple[Operation, ...]:
    """The operations on tokens, below a prefix of the path and with names that end in `name`."""
    return (
        Operation(
            "POST",
            f"{prefix}/tokenize",
            f"tokenize{name}",
            "The tokens of a text, or of the prompt that a conversation becomes.",
            "tokens",
            (Answer("The tokens.", json=answers.Tokens),),
            error_codes.OF_TOKENS,
            bodies=(
                Body(TokenizeRequest, {}, optional=_MODEL),
                Body(TokenizeChatRequest, idle_chat_parameters(), optional=_MODEL),
            ),
            headers=_SERVED_BY,
        ),
        Operation(
            "POST",
            f"{prefix}/detokenize",
            f"detokenize{name}",
            "The text of tokens.",
            "tokens",
            (Answer("The text.", json=answers.DetokenizedText),),
            error_codes.OF_TOKENS,
            bodies=(Body(DetokenizeRequest, {}, optional=_MODEL),),
            headers=_SERVED_BY,
        ),
        Operation(
            "GET",
            f"{prefix}/tokenizer_info",
            f"tokenizer_info{name}",
            "What a client needs to tokenize as this server does.",
            "tokens",
            (Answer("The tokenizer's configuration.", json=answers.TokenizerInfo),),
            ("engine_restarting",),
        ),
    )


TOKENS = (*_tokens("/v1", ""), *_tokens("", "_vllm"))
