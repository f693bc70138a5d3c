"""What the paging of thousands of adapters is worth. `__main__.py` runs it; one part, one file."""
