"""Routers that others made, to routed sets: one module for each layout, one that writes."""
