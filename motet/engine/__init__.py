"""One step: batch to tokens, and the process around it."""
