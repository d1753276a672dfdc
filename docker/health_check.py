"""Exit with 0 if the run in this container is healthy; the image's HEALTHCHECK."""

import os
import sys
import urllib.error
import urllib.request

URL = "http://127.0.0.1:{}/api/v1/health/health_check"


def main() -> int:
    port = os.environ.get("FASTPERSIST_HEALTH_PORT") or "60050"
    # A proxy of the environment has no part in this.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(URL.format(port), timeout=4) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as error:  # the 503 of a run that is not ready tells why
        print(f"not healthy: {error}: {error.read().decode()}")
        return 1
    except OSError as error:  # refused, or too late
        print(f"not healthy: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
