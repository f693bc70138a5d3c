"""Who owns which bytes: the page pool, KV pages, adapter residency."""
