"""Settings of a store: from keywords, else from the environment, checked at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, get_args
from urllib.parse import parse_qs, quote, urlsplit

from pymongo.errors import ConfigurationError as MongoConfigurationError
from pymongo.errors import InvalidURI
from pymongo.uri_parser import parse_uri
from redis.asyncio import ConnectionPool

from .errors import ConfigurationError
from .times import LookAheadPolicy

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Settings", "SettingsArguments"]

_NODE_MONGO_DEFAULT: Final = "mongodb://localhost:27017/backtest-kit?wtimeoutMS=15000"
_NODE_REDIS_HOST: Final = "127.0.0.1"
_NODE_REDIS_PORT: Final = 6379


class SettingsArguments(TypedDict, total=False):
    """The keywords of ``open()`` and ``setup()``: the fields of :class:`Settings`."""

    mongo_url: str | None
    redis_url: str | None
    redis_prefix: str | None
    redis_timeout: float | None
    redis_connections: int | None
    start_timeout: float | None
    operation_timeout: float | None
    write_concern: int | str | None
    journal: bool | None
    look_ahead: LookAheadPolicy | None
    whole_doubles_to_int: bool | None
    id_cache_entries: int | None
    candle_ids: bool | None
    local_folder: str | Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a store reaches its servers and what it guarantees.

    Each can be given by keyword or by the environment variable ``FASTPERSIST_<NAME>``; the Node
    runner's variables (``CC_MONGO_CONNECTION_STRING``, ``CC_REDIS_HOST``, ``CC_REDIS_PORT``,
    ``CC_REDIS_USER``, ``CC_REDIS_PASSWORD``) are read after them. With no server configured at all,
    local ones are started below ``local_folder``; with only one configured, the other is the Node
    runner's default on this machine.

    Attributes:
        mongo_url: MongoDB connection string. TLS, credentials, replica set and database
            (``test`` if it names none, as in the Node runner) are part of it.
        redis_url: ``redis://``, ``rediss://`` or ``unix://`` URL.
        redis_prefix: Put before every Redis key, to keep several databases on one Redis apart.
            The Node runner knows no prefix: with one, ids are not shared with it.
        redis_timeout: Budget of one call to Redis, in seconds; after it the call goes on without.
        redis_connections: Most connections to Redis at a time.
        start_timeout: Deadline for connecting and ensuring the indexes, in seconds.
        operation_timeout: Deadline of one MongoDB operation with all its retries, in seconds.
        write_concern: How many members acknowledge a write: a number, a tag or ``majority``;
            None takes it from the URL, else ``majority``.
        journal: Whether an acknowledged write is in the journal; None takes it from the URL,
            else True.
        look_ahead: What a read does with a row of a later simulated time: ``hide``, ``raise`` or
            ``allow``.
        whole_doubles_to_int: Whether whole doubles beyond 32 bits are read as int, for payloads
            written by the Node runner.
        id_cache_entries: Most ids kept in this process.
        candle_ids: Whether the ids of candles go to Redis, where only the Node runner looks for
            them: one key for each candle, 4.7 million for a year of nine symbols.
        local_folder: Where local servers keep their data.
    """

    mongo_url: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    redis_prefix: str = ""
    redis_timeout: float = 0.25
    redis_connections: int = 64
    start_timeout: float = 15.0
    operation_timeout: float = 5.0
    write_concern: int | str | None = None
    journal: bool | None = None
    look_ahead: LookAheadPolicy = "hide"
    whole_doubles_to_int: bool = False
    id_cache_entries: int = 1_000_000
    candle_ids: bool = True
    local_folder: Path = Path(".fastpersist")

    def __post_init__(self) -> None:
        if self.mongo_url is not None:
            _check_mongo_url("mongo_url", self.mongo_url)
        if self.redis_url is not None:
            _check_redis_url("redis_url", self.redis_url)
        if not isinstance(self.redis_prefix, str) or not _is_utf8(self.redis_prefix):
            raise ConfigurationError("redis_prefix", "must be a text that UTF-8 can hold")
        for name in ("redis_timeout", "start_timeout", "operation_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                raise ConfigurationError(name, "must be a number of seconds")
            if not 0 < seconds < 86_400:
                raise ConfigurationError(name, f"must be above 0 and below a day, got {seconds}")
        for name, least in (("id_cache_entries", 0), ("redis_connections", 1)):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ConfigurationError(name, f"must be an integer of at least {least}")
        if isinstance(self.write_concern, bool) or not isinstance(
            self.write_concern, (int, str, type(None))
        ):
            raise ConfigurationError("write_concern", "must be a number, a text or None")
        if self.write_concern == 0 and isinstance(self.write_concern, int):
            raise ConfigurationError(
                "write_concern", "0 means unacknowledged: such a write cannot be promised"
            )
        if self.write_concern == "" or (
            isinstance(self.write_concern, int) and self.write_concern < 0
        ):
            raise ConfigurationError("write_concern", "must be at least 1, or name a tag")
        if not isinstance(self.journal, (bool, type(None))):
            raise ConfigurationError("journal", "must be a bool or None")
        for name in ("whole_doubles_to_int", "candle_ids"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(name, "must be a bool")
        if self.look_ahead not in get_args(LookAheadPolicy):
            known = ", ".join(get_args(LookAheadPolicy))
            raise ConfigurationError("look_ahead", f"must be one of {known}")
        try:
            object.__setattr__(self, "local_folder", Path(self.local_folder))
        except TypeError:
            raise ConfigurationError("local_folder", "must be a path") from None

    @property
    def is_local(self) -> bool:
        """Whether no server is configured, so that local ones are started."""
        return self.mongo_url is None and self.redis_url is None

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, **keywords: Unpack[SettingsArguments]
    ) -> Settings:
        """Return settings from `keywords`, else from the environment.

        Raises:
            ConfigurationError: A value is wrong or a keyword unknown; it names the setting, and
                never repeats a URL or a password.
        """
        environ = os.environ if environ is None else environ
        known = {item.name for item in fields(cls)}
        for name in keywords:
            if name not in known:
                raise ConfigurationError(name, "no such setting", hint=", ".join(sorted(known)))
        values: dict[str, Any] = {
            name: value for name, value in keywords.items() if value is not None
        }
        for name in known - values.keys():
            variable = f"FASTPERSIST_{name.upper()}"
            text = environ.get(variable, "")
            if text:
                values[name] = _parse(name, variable, text)
        _add_node_settings(values, environ)
        return cls(**values)


def _add_node_settings(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    if "mongo_url" not in values and environ.get("CC_MONGO_CONNECTION_STRING"):
        url = environ["CC_MONGO_CONNECTION_STRING"]
        _check_mongo_url("CC_MONGO_CONNECTION_STRING", url)
        values["mongo_url"] = url
    if "redis_url" not in values and any(
        environ.get(f"CC_REDIS_{part}") for part in ("HOST", "PORT", "USER", "PASSWORD")
    ):
        values["redis_url"] = _node_redis_url(environ)
    if "mongo_url" in values and "redis_url" not in values:
        values["redis_url"] = f"redis://{_NODE_REDIS_HOST}:{_NODE_REDIS_PORT}/0"
    if "redis_url" in values and "mongo_url" not in values:
        values["mongo_url"] = _NODE_MONGO_DEFAULT


def _node_redis_url(environ: Mapping[str, str]) -> str:
    host = environ.get("CC_REDIS_HOST") or _NODE_REDIS_HOST
    port = environ.get("CC_REDIS_PORT") or str(_NODE_REDIS_PORT)
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ConfigurationError("CC_REDIS_PORT", f"not a port: {port!r:.20}")
    address = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not address or any(character in "/@?#[]\\" or character.isspace() for character in address):
        raise ConfigurationError("CC_REDIS_HOST", "not a host name or address")
    if ":" in address:
        try:
            host = f"[{IPv6Address(address)}]"
        except ValueError:
            raise ConfigurationError(
                "CC_REDIS_HOST", "not a host name or address", hint="the port is CC_REDIS_PORT"
            ) from None
    for variable in ("CC_REDIS_USER", "CC_REDIS_PASSWORD"):
        if not _is_utf8(environ.get(variable, "")):
            raise ConfigurationError(variable, "not a text in UTF-8")
    user = quote(environ.get("CC_REDIS_USER", ""), safe="")
    password = quote(environ.get("CC_REDIS_PASSWORD", ""), safe="")
    if user and not password:
        raise ConfigurationError("CC_REDIS_PASSWORD", "missing, while CC_REDIS_USER is set")
    credentials = f"{user}:{password}@" if password else ""
    return f"redis://{credentials}{host}:{port}/0"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_mongo_url(setting: str, url: object) -> None:
    hint = (
        "expected mongodb://[user:password@]host[:port]/[database][?options]; "
        "percent-encode special characters of user and password"
    )
    if not isinstance(url, str):
        raise ConfigurationError(setting, f"must be a text, got {type(url).__name__}", hint=hint)
    if not _is_utf8(url):
        raise ConfigurationError(setting, "not a text in UTF-8", hint=hint)
    if url.startswith("mongodb+srv://"):
        return  # parsing one needs DNS, which belongs to connecting
    if not url.startswith("mongodb://"):
        raise ConfigurationError(setting, "not a MongoDB connection string", hint=hint)
    if _is_refused(url):
        # The driver's text may repeat parts of the URL, a password among them.
        head, _, options = url.partition("?")
        faulty = [
            option.partition("=")[0]
            for option in options.split("&")
            if options and _is_refused(f"mongodb://host/?{option}")
        ]
        if faulty and not _is_refused(head):
            names = ", ".join(f"{name!r:.60}" for name in faulty)
            raise ConfigurationError(setting, f"unknown or wrong options: {names}")
        raise ConfigurationError(setting, "not a valid MongoDB connection string", hint=hint)


def _is_refused(mongo_url: str) -> bool:
    try:
        parse_uri(mongo_url, validate=True, warn=False)
    except (InvalidURI, MongoConfigurationError, OSError, ValueError, TypeError):
        return True
    return False


def _check_redis_url(setting: str, url: object) -> None:
    hint = "expected redis://, rediss:// or unix://, for example redis://:password@host:6379/0"
    if not isinstance(url, str):
        raise ConfigurationError(setting, f"must be a text, got {type(url).__name__}", hint=hint)
    if not _is_utf8(url):
        raise ConfigurationError(setting, "not a text in UTF-8", hint=hint)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(setting, "not a valid Redis URL", hint=hint) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigurationError(setting, "not a Redis URL", hint=hint)
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigurationError(setting, "the path of the socket is missing", hint=hint)
    else:
        if port == 0 or not parts.hostname:
            raise ConfigurationError(setting, "host or port is missing", hint=hint)
        database = parts.path.strip("/")
        if database and not database.isdecimal():
            raise ConfigurationError(setting, "the database must be a number", hint=hint)
    _check_redis_options(setting, url, parts.query)


def _check_redis_options(setting: str, url: str, query: str) -> None:
    names = sorted(parse_qs(query, keep_blank_values=True))
    # The client looks at options when it makes a connection; making one opens no socket.
    try:
        pool = ConnectionPool.from_url(url)
        pool.connection_class(**pool.connection_kwargs)
    except Exception:  # of whatever kind; its text may repeat values of the URL
        known = f"one of {', '.join(names)}" if names else "the URL"
        raise ConfigurationError(setting, f"the client refuses {known}") from None
    if pool.connection_kwargs.get("decode_responses"):
        raise ConfigurationError(setting, "decode_responses is not for the user to choose")
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        path = pool.connection_kwargs.get(name)
        if path and not Path(path).is_file():
            raise ConfigurationError(setting, f"{name}: no such file: {path}")


def _parse_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError


def _parse_write_concern(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "redis_timeout": float,
    "redis_connections": int,
    "start_timeout": float,
    "operation_timeout": float,
    "write_concern": _parse_write_concern,
    "journal": _parse_bool,
    "whole_doubles_to_int": _parse_bool,
    "id_cache_entries": int,
    "candle_ids": _parse_bool,
    "local_folder": Path,
}


def _parse(name: str, variable: str, text: str) -> Any:
    if name == "mongo_url":
        _check_mongo_url(variable, text)
    elif name == "redis_url":
        _check_redis_url(variable, text)
    try:
        return _PARSERS.get(name, str)(text)
    except ValueError:
        raise ConfigurationError(variable, f"not a valid value: {text!r:.40}") from None
