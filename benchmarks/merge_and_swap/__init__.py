"""Merge-and-swap, the way to serve adapters that batched LoRA replaces: for comparison only."""
