"""The scheduling policies, one a file, each of `policy.Policy`. `choose.py` knows them by name."""
