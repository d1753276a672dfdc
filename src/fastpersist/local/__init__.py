"""Real database servers as child processes: the default without configuration."""

from .binaries import find_mongod, find_redis_server
from .servers import LocalServers, LocalUrls, Server, down, status, up

__all__ = [
    "LocalServers",
    "LocalUrls",
    "Server",
    "down",
    "find_mongod",
    "find_redis_server",
    "status",
    "up",
]
