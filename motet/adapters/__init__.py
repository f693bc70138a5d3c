"""Checkpoint to deltas: formats, validation, digest."""
