"""The real scheduler and the real memory bookkeeping in virtual time, over a model of a device.

`python -m benchmarks.simulate` runs it. Nothing is computed and nobody sleeps, so policies can be
judged at sizes that no machine at hand has.
"""
