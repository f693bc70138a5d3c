"""Motet: thousands of LoRA adapters over one base model, in one batch, from one page pool."""

__version__ = "0.1.0"
