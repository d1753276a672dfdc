"""Events on their way to whatever logger the user has."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import structlog

from fastpersist import ConfigurationError
from fastpersist.services.logger import LoggerService

METHODS = ("log", "debug", "info", "warn")
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Recorder:
    """Remembers the calls of the methods that it is said to have."""

    def __init__(self, *methods: str) -> None:
        self.calls: list[Call] = []
        for name in methods:
            setattr(self, name, self._method(name))

    def _method(self, name: str) -> Any:
        return lambda *args, **fields: self.calls.append((name, args, fields))


class Failing:
    """Fails at every call."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def log(self, topic: str, *args: Any) -> None:
        raise self.error

    debug = info = warn = warning = bind = log


def report_all(service: LoggerService) -> None:
    for method in METHODS:
        getattr(service, method)("event", name=method, count=1)


def service_with(logger: Any) -> LoggerService:
    service = LoggerService()
    service.set_logger(logger)
    return service


def test_silent_until_a_logger_is_set(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    report_all(LoggerService())
    assert caplog.records == []


def test_none_silences_again() -> None:
    logger = Recorder(*METHODS)
    service = service_with(logger)
    service.set_logger(None)
    report_all(service)
    assert logger.calls == []


def test_standard_logger(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "own")
    report_all(service_with(logging.getLogger("own")))
    assert caplog.record_tuples == [
        ("own", logging.INFO, "event name=log count=1"),
        ("own", logging.DEBUG, "event name=debug count=1"),
        ("own", logging.INFO, "event name=info count=1"),
        ("own", logging.WARNING, "event name=warn count=1"),
    ]


def test_standard_logger_keeps_its_level_and_formats_nothing_below(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError("formatted for nobody")

    caplog.set_level(logging.WARNING, "own")
    service = service_with(logging.getLogger("own"))
    for method in METHODS[:3]:
        getattr(service, method)("event", field=Unprintable())
    service.warn("100 %s", field="%d")
    assert caplog.messages == ["100 %s field=%d"]


def test_logger_adapter(caplog: pytest.LogCaptureFixture) -> None:
    base: Any = logging.LoggerAdapter  # no type parameters at run time before 3.11

    class Adapter(base):  # type: ignore[misc]  # see above
        def process(self, msg: Any, kwargs: Any) -> Any:
            return f"[desk] {msg}", kwargs

    caplog.set_level(logging.INFO, "own")
    report_all(service_with(Adapter(logging.getLogger("own"), {})))
    assert caplog.messages == [f"[desk] event name={name} count=1" for name in METHODS[::2]] + [
        "[desk] event name=warn count=1"
    ]


def test_structured_logger_gets_fields() -> None:
    logger = Recorder("bind", "debug", "info", "warning", "log", "warn")
    report_all(service_with(logger))
    assert logger.calls == [
        ("info", ("event",), {"name": "log", "count": 1}),
        ("debug", ("event",), {"name": "debug", "count": 1}),
        ("info", ("event",), {"name": "info", "count": 1}),
        ("warning", ("event",), {"name": "warn", "count": 1}),
    ]


def test_four_method_logger_gets_topic_and_fields() -> None:
    logger = Recorder(*METHODS)
    report_all(service_with(logger))
    assert logger.calls == [
        (method, ("event", {"name": method, "count": 1}), {}) for method in METHODS
    ]


@pytest.mark.parametrize(
    "unfit",
    [
        object(),
        "root",
        print,
        0,
        Recorder("log", "debug", "info"),
        Recorder("bind"),
        type("Values", (), dict.fromkeys(METHODS, "not callable")),
    ],
    ids=["object", "name", "function", "number", "three methods", "bind alone", "values"],
)
def test_unfit_objects_are_refused_and_change_nothing(unfit: Any) -> None:
    logger = Recorder(*METHODS)
    service = service_with(logger)
    with pytest.raises(ConfigurationError, match=r"logger: .* is no logger") as caught:
        service.set_logger(unfit)
    assert caught.value.setting == "logger"
    service.info("event")
    assert logger.calls == [("info", ("event", {}), {})]


def test_a_failing_logger_does_not_fail_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise ValueError

    report_all(service_with(Failing(RuntimeError())))
    caplog.set_level(logging.INFO, "own")
    service_with(logging.getLogger("own")).info("event", field=Unprintable())
    assert caplog.messages == []


def test_an_interrupt_inside_a_logger_gets_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        service_with(Failing(KeyboardInterrupt())).info("event")


def test_structlog_itself_fits() -> None:
    with structlog.testing.capture_logs() as entries:
        report_all(service_with(structlog.get_logger()))
    levels = [(entry["log_level"], entry["name"], entry["count"]) for entry in entries]
    assert levels == [
        ("info", "log", 1), ("debug", "debug", 1), ("info", "info", 1), ("warning", "warn", 1),
    ]  # fmt: skip
