"""`python -m reference_impl --state DIR --port 0` starts a server and prints its address.

It needs no configuration. SIGTERM drains it: running turns finish or are marked, memory is
committed, streams are closed, and the process exits with 0 within the deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys

from reference_impl.app import App
from reference_impl.config import env_seconds
from reference_impl.storage import files
from reference_impl.web.access import LOOPBACK
from reference_impl.web.api import Api
from reference_impl.web.server import DRAIN_S, Server

log = logging.getLogger("reference_impl")

PREDECESSOR_S = 1.0  # how long to wait for the previous server of the folder to exit


async def serve(folder: str, host: str, port: int, password: str) -> None:
    """Serve a folder until a signal arrives, then drain. Raises OSError, LockBusyError."""
    app = App(folder)
    api = Api(app, host, password)
    server = Server(api)
    api.measure(server.gauges, server.counters)
    app.begin()
    address = await server.listen(host, port)
    log.info("serving %s at %s", folder, address)
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    await server.serve_until_signalled(env_seconds("HERMES_WEBUI_DRAIN_DEADLINE", DRAIN_S))


def main() -> int:
    """Parse the command line and run the server."""
    parser = argparse.ArgumentParser(prog="python -m reference_impl", description=__doc__)
    parser.add_argument("--state", required=True, help="the folder that holds all state")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8787, help="the port; 0 picks a free one")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    password = os.environ.get("HERMES_WEBUI_PASSWORD", "")
    if options.host not in LOOPBACK and not password:
        parser.error(f"{options.host} is not loopback, so HERMES_WEBUI_PASSWORD has to be set")
    try:
        folder = files.absolute(options.state)
        files.make_folder(folder)
        # Two servers on one folder would each treat the other's live runs as dead.
        with files.SharedLock(os.path.join(folder, "_server"), PREDECESSOR_S).held():
            asyncio.run(serve(folder, options.host, options.port, password))
    except (OSError, files.LockBusyError) as error:
        sys.stderr.write(f"cannot serve: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # a hanging call, for example in a provider, must not delay the exit
