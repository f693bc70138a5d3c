"""/v1/responses: OpenAI's newer endpoint, as a chat in other words."""
