"""Load on a server, and what came of it: workloads, a client, results, a report.

A leaf: it knows servers by their HTTP alone, and imports nothing of the engine.
"""
