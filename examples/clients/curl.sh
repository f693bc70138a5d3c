#!/bin/sh
# What the API does, by curl alone. See README.md beside this file.
set -eu

base=${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}
model=${MODEL:-SmolLM2-135M-Instruct}
adapter=${ADAPTER:-iso-dates}

post() {
    path=$1
    shift
    echo "--- POST $path" >&2
    curl --silent --show-error --no-buffer "$base$path" -H 'Content-Type: application/json' \
        -H "Authorization: Bearer ${OPENAI_API_KEY:-none}" -d "$@"
    echo
}

echo "--- GET /models" >&2
curl --silent --show-error "$base/models" -H "Authorization: Bearer ${OPENAI_API_KEY:-none}"
echo

post /completions '{"model": "'"$model"'", "prompt": "The capital of France is",
    "max_tokens": 8, "temperature": 0, "logprobs": 1}'

post /chat/completions '{"model": "'"$adapter"'", "temperature": 0, "messages": [{"role": "user",
    "content": "Write the date in this text as YYYY-MM-DD, nothing else:\nDue the 9th of May 2031."}]}'

post /chat/completions '{"model": "'"$model"'", "max_tokens": 12, "stream": true,
    "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "Hello!"}]}'

# The answer is JSON of this form, whichever model or adapter speaks.
post /chat/completions '{"model": "'"$model"'", "temperature": 0, "max_tokens": 64,
    "messages": [{"role": "user", "content": "Ada Novak is 41 and lives in Lisbon."}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "person", "strict": true,
        "schema": {"type": "object", "additionalProperties": false,
            "required": ["name", "age"],
            "properties": {"name": {"type": "string", "maxLength": 20},
                           "age": {"type": "integer", "minimum": 0, "maximum": 150}}}}}}'

post /chat/completions '{"model": "'"$model"'", "temperature": 0, "max_tokens": 64,
    "messages": [{"role": "user", "content": "What is the weather in Lisbon?"}],
    "tool_choice": "required", "tools": [{"type": "function", "function": {"name": "get_weather",
        "parameters": {"type": "object", "additionalProperties": false, "required": ["city"],
            "properties": {"city": {"enum": ["Lisbon", "Oslo"]}}}}}]}'

# A misspelt parameter is not ignored, and a model that does not exist is a 404.
post /completions '{"model": "'"$model"'", "prompt": "x", "max_token": 8}'
post /completions '{"model": "nobody", "prompt": "x"}'
