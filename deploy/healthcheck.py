"""Ends with 0 if the server on this machine is healthy, and with 1 if not. For containers.

python deploy/healthcheck.py [PORT]
"""

import http.client
import sys

DEFAULT_PORT = 8000

_TIMEOUT_S = 4  # Dockerfile's HEALTHCHECK gives up after 5


def is_healthy(port: int) -> bool:
    """Whether GET /health on loopback answers 200 in time."""
    # No proxy may answer in the server's place, so this is not urllib.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_PORT
    sys.exit(0 if is_healthy(port) else 1)
