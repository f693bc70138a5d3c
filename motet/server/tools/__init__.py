"""Function calls in a chat: what may be called, how it is asked for, and what was called."""
