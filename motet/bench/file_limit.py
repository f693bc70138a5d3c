"""How many connections this process may have open at a time.

Owns: the operating system's limit of open files, raised as far as a run can need.
"""

import resource

_RESERVED_FILES = 64  # modules, results, the terminal


def allow_connections(num_wanted: int) -> int:
    """Raise the limit of open files as far as is wanted and allowed; how many connections it has.

    That may be fewer or more than were wanted.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_wanted + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return num_wanted if soft == resource.RLIM_INFINITY else max(0, soft - _RESERVED_FILES)
