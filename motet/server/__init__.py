"""HTTP in and out: the OpenAI API, admin, auth, streaming, metrics, command line."""
