"""Training routers: gates that choose among adapters, which stay as they are."""
