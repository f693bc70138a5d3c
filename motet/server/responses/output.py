"""The response object and the items of its output, from what a chat answered.

Owns: their JSON.
Does not know: streams (`events.py`), nor how a chat is answered.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from motet.core.errors import MotetError
from motet.server.errors import error_body
from motet.server.responses.protocol import NamedFunction, ResponsesRequest

Json = dict[str, Any]

# Why a response is incomplete, by a chat's reason to finish; by any other it is complete.
_INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseFrame:
    """What is the same in all states of one response.

    Args:
        params: what was asked for; a response repeats it.
        unique_id: unlike that of any other request. Ids of items are made from it, too.
    """

    def __init__(self, params: ResponsesRequest, unique_id: str) -> None:
        self._params = params
        self._unique_id = unique_id
        self._created_s = int(time.time())

    def item_id(self, kind: str, output_index: int) -> str:
        """The id of an item: `kind` is msg, or fc for a call."""
        return f"{kind}_{self._unique_id}_{output_index}"

    def begun(self) -> Json:
        """The response before there is anything of it."""
        return self._response("in_progress", [])

    def finished(self, output: Sequence[Json], finish_reason: str | None, usage: Json) -> Json:
        """The response as it is when the chat finished for this reason, with a chat's usage."""
        reason = _INCOMPLETE_REASONS.get(finish_reason or "")
        return {
            **self._response("completed" if reason is None else "incomplete", output),
            "completed_at": int(time.time()) if reason is None else None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "usage": _usage(usage),
        }

    def failed(self, output: Sequence[Json], error: MotetError) -> Json:
        """The response that an error has ended."""
        told = error_body(error)["error"]
        # Of OpenAI's codes, this is the only one that blames nobody but the server.
        code = {"code": "server_error", "message": told["message"]}
        return {**self._response("failed", output), "error": code}

    def _response(self, status: str, output: Sequence[Json]) -> Json:
        params = self._params
        return {
            "id": f"resp_{self._unique_id}",
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "completed_at": None,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": params.instructions,
            "max_output_tokens": params.max_output_tokens,
            "max_tool_calls": None,
            "metadata": params.metadata,
            "model": params.model,
            "output": list(output),
            "parallel_tool_calls": params.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": params.reasoning.effort, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": params.temperature,
            "text": {"format": params.text.format.as_json()},
            "tool_choice": _choice_json(params.tool_choice),
            "tools": [tool.as_json() for tool in params.tools],
            "top_logprobs": 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": params.user,
        }


def whole_response(params: ResponsesRequest, unique_id: str, chat: Json) -> Json:
    """The response that a whole `chat.completion` of one choice stands for."""
    frame = ResponseFrame(params, unique_id)
    (choice,) = chat["choices"]
    message, finish_reason = choice["message"], choice["finish_reason"]
    calls = message.get("tool_calls") or []
    output: list[Json] = []
    if message["content"] or not calls:
        item_id, status = frame.item_id("msg", 0), item_status(finish_reason)
        output.append(message_item(item_id, [text_part(message["content"] or "")], status))
    for call in calls:
        item_id = frame.item_id("fc", len(output))
        function = call["function"]
        # A call that was cut off would be text.
        item = call_item(item_id, call["id"], function["name"], function["arguments"], "completed")
        output.append(item)
    return frame.finished(output, finish_reason, chat["usage"])


def item_status(finish_reason: str | None) -> str:
    """The status of the item at which a chat finished for this reason."""
    return "incomplete" if finish_reason in _INCOMPLETE_REASONS else "completed"


def message_item(item_id: str, parts: Sequence[Json], status: str) -> Json:
    """A message of the assistant's."""
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": list(parts),
    }


def text_part(text: str) -> Json:
    """The text of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> Json:
    """A call of a function; its answer refers to `call_id`."""
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _usage(chat: Json) -> Json:
    details = chat.get("prompt_tokens_details") or {}
    return {
        "input_tokens": chat["prompt_tokens"],
        # Nobody pays for what goes into the prefix cache, so it is not counted.
        "input_tokens_details": {
            "cached_tokens": details.get("cached_tokens", 0),
            "cache_write_tokens": 0,
        },
        "output_tokens": chat["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": chat["total_tokens"],
    }


def _choice_json(choice: str | NamedFunction) -> str | Json:
    return choice if isinstance(choice, str) else choice.model_dump()
