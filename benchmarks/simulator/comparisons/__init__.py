"""What is compared, by name. One comparison, one file."""

from collections.abc import Callable, Mapping

from benchmarks.simulator.comparisons.adapters import compare_numbers_of_adapters
from benchmarks.simulator.comparisons.clustering import compare_clustering
from benchmarks.simulator.comparisons.cpu import compare_cpu
from benchmarks.simulator.comparisons.early_abort import compare_early_abort
from benchmarks.simulator.comparisons.fairness import compare_fairness
from benchmarks.simulator.comparisons.merging import compare_merging
from benchmarks.simulator.comparisons.pools import compare_pools
from benchmarks.simulator.comparisons.prefixes import compare_prefix_cache
from benchmarks.simulator.comparisons.seventy import compare_seventy
from benchmarks.simulator.comparisons.sizes import compare_sizes
from benchmarks.simulator.lab import Lab, Table

COMPARISONS: Mapping[str, Callable[[Lab], Table]] = {
    "early-abort": compare_early_abort,
    "clustering": compare_clustering,
    "merging": compare_merging,
    "adapters": compare_numbers_of_adapters,
    "pools": compare_pools,
    "prefix-cache": compare_prefix_cache,
    "fairness": compare_fairness,
    "sizes": compare_sizes,
    "seventy": compare_seventy,
    "cpu": compare_cpu,
}
