"""Settings: where each comes from, what is refused, and that no secret shows anywhere."""

from __future__ import annotations

import traceback
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastpersist import ConfigurationError, Settings
from fastpersist.settings import SettingsArguments

NODE_MONGO = "mongodb://localhost:27017/backtest-kit?wtimeoutMS=15000"
NODE_REDIS = "redis://127.0.0.1:6379/0"
MONGO = "mongodb://db.example/runs"
REDIS = "redis://cache.example:6380/1"
SECRET = "hunter2-hunter2"


def refusal(environ: dict[str, str] | None = None, **keywords: Any) -> ConfigurationError:
    """Return the error of settings that have to be refused."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ or {}, **keywords)
    return caught.value


def shown(error: BaseException) -> str:
    """Return all that a log could show of an error."""
    return "".join([str(error), repr(error), *traceback.format_exception(error)])


def test_nothing_configured_is_local() -> None:
    settings = Settings.load({})
    assert settings == Settings()
    assert settings.is_local
    assert (settings.mongo_url, settings.redis_url) == (None, None)


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTPERSIST_REDIS_PREFIX", "from the shell:")
    assert Settings.load().redis_prefix == "from the shell:"
    assert Settings().redis_prefix == ""


def test_keyword_wins_over_own_variable_wins_over_nodes() -> None:
    environ = {
        "CC_MONGO_CONNECTION_STRING": "mongodb://node/x",
        "CC_REDIS_HOST": "node",
        "CC_REDIS_PASSWORD": SECRET,
    }
    assert Settings.load(environ).mongo_url == "mongodb://node/x"
    assert Settings.load(environ).redis_url == f"redis://:{SECRET}@node:6379/0"
    environ |= {"FASTPERSIST_MONGO_URL": MONGO, "FASTPERSIST_REDIS_URL": REDIS}
    assert Settings.load(environ).mongo_url == MONGO
    assert Settings.load(environ).redis_url == REDIS
    settings = Settings.load(environ, mongo_url="mongodb://k/x", redis_url="redis://k")
    assert (settings.mongo_url, settings.redis_url) == ("mongodb://k/x", "redis://k")


def test_what_loses_is_not_even_checked() -> None:
    environ = {"FASTPERSIST_REDIS_TIMEOUT": "soon", "FASTPERSIST_MONGO_URL": "nonsense"}
    settings = Settings.load(environ, redis_timeout=2, mongo_url=MONGO)
    assert (settings.redis_timeout, settings.mongo_url) == (2, MONGO)
    environ = {"FASTPERSIST_REDIS_URL": REDIS, "CC_REDIS_PORT": "nonsense"}
    assert Settings.load(environ).redis_url == REDIS


def test_none_and_empty_count_as_not_given() -> None:
    environ = {"FASTPERSIST_REDIS_PREFIX": "p:", "FASTPERSIST_JOURNAL": "", "CC_REDIS_HOST": ""}
    settings = Settings.load(environ, redis_prefix=None, mongo_url=None)
    assert (settings.redis_prefix, settings.journal, settings.is_local) == ("p:", None, True)


@pytest.mark.parametrize(
    ("environ", "mongo", "redis"),
    [
        ({"FASTPERSIST_MONGO_URL": MONGO}, MONGO, NODE_REDIS),
        ({"CC_MONGO_CONNECTION_STRING": MONGO}, MONGO, NODE_REDIS),
        ({"FASTPERSIST_REDIS_URL": REDIS}, NODE_MONGO, REDIS),
        ({"CC_REDIS_HOST": "cache"}, NODE_MONGO, "redis://cache:6379/0"),
        ({"CC_REDIS_PORT": "6399"}, NODE_MONGO, "redis://127.0.0.1:6399/0"),
        ({"CC_REDIS_PASSWORD": "pw"}, NODE_MONGO, "redis://:pw@127.0.0.1:6379/0"),
    ],
)
def test_one_server_configured_gives_the_other_as_node_has_it(
    environ: dict[str, str], mongo: str, redis: str
) -> None:
    settings = Settings.load(environ)
    assert (settings.mongo_url, settings.redis_url) == (mongo, redis)
    assert not settings.is_local


@pytest.mark.parametrize(
    ("host", "port", "user", "password", "url"),
    [
        ("h", "1", "", "", "redis://h:1/0"),
        ("h", "65535", "u", "p", "redis://u:p@h:65535/0"),
        ("::1", "", "", "", "redis://[::1]:6379/0"),
        ("[::1]", "7", "", "p", "redis://:p@[::1]:7/0"),
        ("", "", "a/b", "p@:/?#% é", "redis://a%2Fb:p%40%3A%2F%3F%23%25%20%C3%A9@127.0.0.1:6379/0"),
    ],
)
def test_the_url_of_the_nodes_redis_variables(
    host: str, port: str, user: str, password: str, url: str
) -> None:
    environ = {
        "CC_REDIS_HOST": host,
        "CC_REDIS_PORT": port,
        "CC_REDIS_USER": user,
        "CC_REDIS_PASSWORD": password,
    }
    settings = Settings.load(environ, mongo_url=MONGO)
    assert settings.redis_url == url
    parts = urlsplit(url)
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == (user, password)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("mongo_url", MONGO, MONGO),
        ("redis_url", REDIS, REDIS),
        ("redis_prefix", " p:", " p:"),
        ("redis_timeout", "0.5", 0.5),
        ("redis_connections", "8", 8),
        ("start_timeout", "1e1", 10.0),
        ("operation_timeout", " 3 ", 3.0),
        ("write_concern", "2", 2),
        ("write_concern", "majority", "majority"),
        ("journal", "TRUE", True),
        ("journal", "off", False),
        ("look_ahead", "raise", "raise"),
        ("whole_doubles_to_int", " yes ", True),
        ("whole_doubles_to_int", "0", False),
        ("id_cache_entries", "0", 0),
        ("candle_ids", "off", False),
        ("local_folder", "data/own", Path("data/own")),
    ],
)
def test_every_variable_is_read(name: str, text: str, value: Any) -> None:
    read = getattr(Settings.load({f"FASTPERSIST_{name.upper()}": text}), name)
    assert read == value
    assert type(read) is type(value)


def test_the_table_above_names_every_setting() -> None:
    mark = next(iter(test_every_variable_is_read.pytestmark))
    assert {name for name, _, _ in mark.args[1]} == set(Settings.__dataclass_fields__)


@pytest.mark.parametrize("flag", ["1", "true", "Yes", "on", "0", "False", "no", "OFF"])
def test_every_word_for_a_flag(flag: str) -> None:
    expected = flag.lower() in ("1", "true", "yes", "on")
    assert Settings.load({"FASTPERSIST_JOURNAL": flag}).journal is expected


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://h",
        f"mongodb://u:{SECRET}@a:1,b:2/runs?replicaSet=r&tls=true",
        "mongodb://u:p%40%2F@h/",
        "mongodb+srv://cluster.example/runs",
    ],
)
def test_mongo_urls_that_are_taken(url: str) -> None:
    assert Settings(mongo_url=url).mongo_url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://[::1]:6379",
        f"redis://u:{SECRET}@h:1/15",
        "rediss://h/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock",
        f"unix://:{SECRET}@/run/redis.sock?db=1",
    ],
)
def test_redis_urls_that_are_taken(url: str) -> None:
    assert Settings(redis_url=url).redis_url == url


def test_a_folder_given_as_text_becomes_a_path() -> None:
    assert Settings(local_folder="x").local_folder == Path("x")


DURATIONS = ("redis_timeout", "start_timeout", "operation_timeout")
WRONG_DURATIONS: list[Any] = [0, -1, 86_400, float("nan"), float("inf"), True, "1", b"1"]
WRONG_KEYWORDS: list[tuple[str, Any]] = [
    *(
        ("mongo_url", wrong)
        for wrong in (
            5,
            b"mongodb://h",
            "",
            "h",
            "redis://h",
            "mongodb://",
            f"mongodb://u:{SECRET}@@h/",
            f"mongodb://u:{SECRET}/@h/",
            f"mongodb://u:{SECRET}@h:port/",
            f"mongodb://{SECRET}@h/?tls=perhaps",
            f"mongodb://u:{SECRET}\udcff@h/",
        )
    ),
    *(
        ("redis_url", wrong)
        for wrong in (
            5,
            b"redis://h",
            "",
            "h:6379",
            "http://h",
            "redis://",
            f"redis://:{SECRET}@",
            f"redis://:{SECRET}@h:0",
            f"redis://:{SECRET}@h:port",
            f"redis://:{SECRET}@h:65536",
            f"redis://:{SECRET}@[h",
            f"redis://:{SECRET}@h/db",
            f"unix://{SECRET}",
            f"redis://:{SECRET}\udcff@h",
        )
    ),
    ("redis_prefix", 5),
    ("redis_prefix", b"p"),
    ("redis_prefix", "\ud800"),
    *((name, wrong) for name in DURATIONS for wrong in WRONG_DURATIONS),
    ("redis_connections", 0),
    ("redis_connections", -1),
    ("redis_connections", True),
    ("redis_connections", 1.0),
    ("redis_connections", "1"),
    ("id_cache_entries", -1),
    ("id_cache_entries", True),
    ("id_cache_entries", 1.0),
    ("id_cache_entries", "1"),
    ("candle_ids", 1),
    ("write_concern", 0),
    ("write_concern", -1),
    ("write_concern", True),
    ("write_concern", False),
    ("write_concern", 1.5),
    ("write_concern", ""),
    ("write_concern", [1]),
    ("journal", 1),
    ("journal", 0),
    ("journal", "true"),
    ("journal", []),
    ("look_ahead", ""),
    ("look_ahead", "HIDE"),
    ("look_ahead", "never"),
    ("look_ahead", 1),
    ("look_ahead", []),
    ("whole_doubles_to_int", 1),
    ("whole_doubles_to_int", 0),
    ("whole_doubles_to_int", "true"),
    ("local_folder", 5),
    ("local_folder", b"x"),
    ("local_folder", []),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG_KEYWORDS)
def test_wrong_keywords_are_refused_by_name(name: str, wrong: Any) -> None:
    error = refusal(**{name: wrong})
    assert error.setting == name
    assert str(error).startswith(f"{name}: ")
    assert SECRET not in shown(error)


def test_unknown_keywords_are_refused_with_the_known_ones() -> None:
    error = refusal(mongo_uri=f"mongodb://u:{SECRET}@h/")
    assert error.setting == "mongo_uri"
    assert "mongo_url" in error.hint
    assert SECRET not in shown(error)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FASTPERSIST_MONGO_URL", f"mongodb://u:{SECRET}@@h/"),
        ("FASTPERSIST_REDIS_URL", f"redis://u:{SECRET}@h:port"),
        ("FASTPERSIST_REDIS_TIMEOUT", "soon"),
        ("FASTPERSIST_START_TIMEOUT", "1 s"),
        ("FASTPERSIST_OPERATION_TIMEOUT", "1,5"),
        ("FASTPERSIST_REDIS_CONNECTIONS", "1.5"),
        ("FASTPERSIST_ID_CACHE_ENTRIES", "many"),
        ("FASTPERSIST_JOURNAL", "perhaps"),
        ("FASTPERSIST_WHOLE_DOUBLES_TO_INT", "2"),
        ("CC_MONGO_CONNECTION_STRING", f"mongodb://u:{SECRET}@h:port/"),
        ("CC_MONGO_CONNECTION_STRING", SECRET),
        *(("CC_REDIS_PORT", text) for text in ("0", "65536", "-1", "1.5", "x", "٣")),
        pytest.param("CC_REDIS_PORT", "1" * 5000, id="CC_REDIS_PORT-huge"),
        *(
            ("CC_REDIS_HOST", text)
            for text in ("a b", "a/b", "u@h", "h?", "h#", "h\n", "a\\b", "h:6379", "[h", "h]", "[]")
        ),
        ("CC_REDIS_PASSWORD", f"{SECRET}\udcff"),
        ("CC_REDIS_USER", "\udcff"),
    ],
)
def test_wrong_variables_are_refused_by_name(variable: str, text: str) -> None:
    error = refusal({"CC_REDIS_PASSWORD": SECRET, variable: text})
    assert error.setting == variable
    assert str(error).startswith(f"{variable}: ")
    assert SECRET not in shown(error)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FASTPERSIST_REDIS_TIMEOUT", "nan"),
        ("FASTPERSIST_REDIS_CONNECTIONS", "0"),
        ("FASTPERSIST_WRITE_CONCERN", "0"),
        ("FASTPERSIST_LOOK_AHEAD", "maybe"),
    ],
)
def test_values_out_of_range_are_refused_by_the_settings_name(variable: str, text: str) -> None:
    assert variable == f"FASTPERSIST_{refusal({variable: text}).setting.upper()}"


def test_a_redis_user_needs_a_password() -> None:
    error = refusal({"CC_REDIS_USER": "u"})
    assert error.setting == "CC_REDIS_PASSWORD"
    assert "CC_REDIS_USER" in str(error)


def test_neither_urls_nor_passwords_are_in_the_repr() -> None:
    settings = Settings.load(
        {
            "CC_MONGO_CONNECTION_STRING": f"mongodb://u:{SECRET}@db.example/",
            "CC_REDIS_HOST": "cache.example",
            "CC_REDIS_PASSWORD": SECRET,
        }
    )
    for text in (repr(settings), str(settings), f"{settings}"):
        assert not any(part in text for part in (SECRET, "example", "://"))


@given(secret=st.text(min_size=6).filter(lambda text: len(set(text)) > 2))
def test_no_random_password_shows_anywhere(secret: str) -> None:
    quoted = quote(secret, safe="")
    forms = {secret, quoted, repr(secret)[1:-1]}
    settings = Settings.load({"CC_REDIS_PASSWORD": secret}, mongo_url=f"mongodb://u:{quoted}@h/")
    assert unquote(urlsplit(settings.redis_url or "").password or "") == secret
    texts = [repr(settings), str(settings)]
    for raw in (secret, quoted):
        for setting, url in (
            ("mongo_url", f"mongodb://u:{raw}@h:port/"),
            ("mongo_url", f"mongodb://u:{raw}@@h/"),
            ("mongo_url", raw),
            ("redis_url", f"redis://u:{raw}@h:port"),
            ("redis_url", f"redis://u:{raw}@h/none"),
            ("redis_url", raw),
        ):
            try:
                Settings.load({}, **{setting: url})
            except ConfigurationError as error:
                texts.append(shown(error))
    for environ in ({"CC_REDIS_PORT": "x"}, {"CC_REDIS_HOST": "a b"}):
        texts.append(shown(refusal({"CC_REDIS_PASSWORD": secret, **environ})))
    harmless = shown(refusal(mongo_url="x")) + shown(refusal(redis_url="x")) + repr(Settings())
    assume(not any(form in harmless for form in forms))
    assert not any(form in text for form in forms for text in texts)


def test_the_typed_keywords_are_the_fields() -> None:
    assert set(SettingsArguments.__annotations__) == {item.name for item in fields(Settings)}


@pytest.mark.parametrize(
    ("setting", "url", "named"),
    [
        ("redis_url", "redis://:hunter2@h/0?foo=bar", "foo"),
        ("redis_url", "redis://:hunter2@h/0?socket_timeout=soon", "socket_timeout"),
        ("redis_url", "rediss://:hunter2@h/0?ssl_cafile=x", "ssl_cafile"),
        ("redis_url", "rediss://:hunter2@h/0?ssl_ca_certs=no-such-file", "ssl_ca_certs"),
        ("mongo_url", "mongodb://u:hunter2@h/?foo=hunter2", "foo"),
        ("mongo_url", "mongodb://u:hunter2@h/?w=1&maxPoolSize=many", "maxPoolSize"),
        ("mongo_url", "mongodb://u:hunter2@h/?tls=true&tlsCAFile=no-such-file", "tlsCAFile"),
    ],
)
def test_a_refused_option_is_named_without_its_url(setting: str, url: str, named: str) -> None:
    error = refusal(**{setting: url})
    assert error.setting == setting
    assert named in str(error)
    assert "hunter2" not in shown(error)
