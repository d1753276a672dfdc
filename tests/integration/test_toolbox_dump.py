"""`fastpersist import-dump` and `export-dump` on real servers, with the tree that Node wrote."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database

from candle_rows import random_walk
from conftest import Place
from fastpersist import CorruptDataError, Store
from fastpersist.adapters.files import LONGEST_TEXT, FilesBackend, keys_of_path, load_within
from fastpersist.adapters.json_text import to_json
from fastpersist.domains import CANDLE, DOMAINS, PARTIAL, RECENT, SESSION, SIGNAL, Shape
from fastpersist.registry import Registries
from fastpersist.tools.dump import _Import, export_dump
from interop_calls import FIXTURES
from toolbox_kit import START, Command, candles, content, fill, interrupt, process

# The drivers leave a socket to the collector when a call ends while it connects.
pytestmark = [
    pytest.mark.usefixtures("cut_connects"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

GOLDEN: Final = FIXTURES / "dump"
NAMES: Final = (
    "--exchange", "binance", "--exchange", "bybit", "--strategy", "trend_ema",
    "--strategy", "limit_entry", "--strategy", "стратегия-β",
)  # fmt: skip
JOINED: Final = [
    "data/partial/ETHUSDT_trend_ema_binance/sig-4.json",
    "data/schedule/ETHUSDT_limit_entry_binance/ETHUSDT.json",
    "data/signal/SOLUSDT_trend_ema_binance/SOLUSDT.json",
    "data/signal/XRPUSDT_trend_ema_binance/XRPUSDT.json",
    "data/strategy/BTCUSDT_trend_ema_binance/strategy.json",
    "data/strategy/ETHUSDT_trend_ema_binance/strategy.json",
]


@pytest.fixture
def mongo(place: Place) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](place.servers.mongo_url, tz_aware=True) as client:
        yield client[place.name]
        client.drop_database(f"{place.name}b")


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of the golden tree."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def total(report: dict[str, Any], figure: str) -> int:
    return sum(count[figure] for count in report["domains"])


def digests(report: dict[str, Any]) -> dict[str, str]:
    assert all(count["is_verified"] for count in report["domains"])
    return {
        count["domain"]: count["sha256"]
        for count in report["domains"]
        if count["written"] + count["same"]
    }


def test_the_golden_tree_goes_in_and_comes_out_byte_for_byte(
    place: Place, golden: Path, fastpersist: Command, tmp_path: Path
) -> None:
    before = tree(golden)
    imported = fastpersist.json("import-dump", str(golden), *NAMES)
    assert total(imported, "written") == len(before)
    assert tree(golden) == before
    stored = content(place)
    again = fastpersist.json("import-dump", str(golden), *NAMES)
    assert (total(again, "same"), total(again, "written")) == (len(before), 0)
    assert content(place) == stored
    out = tmp_path / "out"
    exported = fastpersist.json("export-dump", str(out))
    assert tree(out) == before
    assert digests(exported) == digests(imported) == digests(again)
    assert total(fastpersist.json("export-dump", str(out)), "same") == len(before)


def test_the_store_answers_what_the_files_do(
    place: Place, golden: Path, fastpersist: Command
) -> None:
    fastpersist.json("import-dump", str(golden), *NAMES)

    async def answers(registries: Registries) -> list[Any]:
        found: list[Any] = []
        context = ("BTCUSDT", "trend_ema", "binance")
        found.append(await registries.signal.read_signal_data(*context))
        found.append(await registries.recent.read_recent_data(*context, "jan_2025", True))
        found.append(await registries.recent.read_recent_data(*context, "", False))
        found.append(await registries.partial.read_partial_data(*context, "sig-2"))
        found.append(await registries.risk.read_position_data("conservative", "binance"))
        found.append(await registries.risk.read_position_data("aggressive", "bybit"))
        for backtest in (True, False):
            rows = await registries.storage.read_storage_data(backtest)
            found.append(sorted(rows, key=lambda row: row["id"]))
            found.append(await registries.notification.read_notification_data(backtest))
        found.append(await registries.log.read_log_data())
        for key in ("BTCUSDT_1735689600000", "ETHUSDT_1735689600000", "n10"):
            found.append(await registries.measure.read_measure_data("fetch_news_1h_0", key))
        found.append(
            await registries.session.read_session_data(
                "trend_ema", "binance", "jan_2025", "BTCUSDT", True
            )
        )
        return found

    async def both() -> tuple[list[Any], list[Any]]:
        files = Registries()
        files.use_backend(FilesBackend(golden))
        async with place.open() as store:
            return await answers(files), await answers(store)

    of_files, of_store = asyncio.run(both())
    for expected, found in zip(of_files, of_store, strict=True):
        # Notifications are ordered by their creation here, and by their ids there.
        if isinstance(expected, list) and expected and isinstance(expected[0], dict):
            expected = sorted(expected, key=lambda row: row["id"])
            found = sorted(found, key=lambda row: row["id"])
        assert found == expected


def test_ambiguous_files_are_named_and_left_out(
    mongo: Database[dict[str, Any]], golden: Path, fastpersist: Command
) -> None:
    report = fastpersist.json("import-dump", str(golden), code=1)
    assert (report["bad"], report["unknown"]) == ([], [])
    names = [problem["name"] for problem in report["ambiguous"]]
    assert "data/strategy/BTCUSDT_trend_ema_binance/strategy.json" in names
    assert "data/partial/ETHUSDT_trend_ema_binance/sig-4.json" in names
    assert "data/signal/SOLUSDT_trend_ema_binance/SOLUSDT.json" in names
    (problem,) = [p for p in report["ambiguous"] if p["name"].endswith("SOLUSDT.json")][:1]
    # The signal's own row tells the context of its levels.
    assert not any("BTCUSDT_trend_ema_binance/sig-2" in name for name in names if "partial" in name)
    contexts = {(row["strategyName"], row["exchangeName"]) for row in mongo["partial-items"].find()}
    assert contexts == {("trend_ema", "binance")}
    assert total(report, "written") == len(tree(golden)) - len(names)
    code, out, _ = fastpersist("import-dump", str(golden))
    assert code == 1
    assert f"ambiguous: {problem['name']} may be of" in out
    report = fastpersist.json("import-dump", str(golden), *NAMES)
    assert (total(report, "written"), report["ambiguous"]) == (len(names), [])


def test_bad_and_unknown_files_are_named_and_the_others_imported(
    place: Place, golden: Path, fastpersist: Command
) -> None:
    bad = {
        "data/log/log/broken.json": b'{"id": "bro',
        "data/log/log/other.json": b'{"id":"another"}',
        "data/storage/live/list.json": b"[1,2]",
        "data/risk/x_y/positions.json": b'[["a"]]',
        "data/measure/b/text.json": b'"text"',
        "data/measure/b/removed.json": b'{"id":"m","removed":1}',
        "data/interval/b/big.json": b'{"id":"big","data":123456789012345678901234567890}',
        "data/candle/e/S/1m/1735689600000.json": b'{"timestamp":1735689660000}',
        "data/candle/e/S/7m/1735689600000.json": b'{"timestamp":1735689600000}',
        "data/signal/S_a_b/S.json": b'{"strategyName":"c","exchangeName":"b"}',
    }
    unknown = ["data/signal/S_a/other.json", "readme.txt", "data/candle/e/S/1m/007.json"]
    for name, text in {**bad, **dict.fromkeys(unknown, b"{}")}.items():
        (golden / name).parent.mkdir(parents=True, exist_ok=True)
        (golden / name).write_bytes(text)
    (golden / "data/log/log/.corrupt").mkdir()
    (golden / "data/log/log/.corrupt/old.json").write_text("nothing")
    (golden / "data/log/log/.tmp-0123456789ab-x.json").write_text("{")
    (golden / "data/measure/b/null.json").write_text("null")
    before = tree(golden)
    report = fastpersist.json("import-dump", str(golden), *NAMES, code=1)
    named = {problem["name"]: problem["reason"] for problem in report["bad"]}
    # A whole number beyond 64 bits is a double in JSON.
    assert set(bad) - set(named) <= {"data/interval/b/big.json"}
    assert set(named) <= set(bad)
    assert "is not JSON" in named["data/log/log/broken.json"]
    assert sorted(report["unknown"]) == sorted(unknown)
    assert total(report, "empty") == 1
    assert total(report, "written") >= len(tree(GOLDEN))
    assert tree(golden) == before


def test_stored_rows_with_other_content_stay_unless_told(
    place: Place, mongo: Database[dict[str, Any]], golden: Path, fastpersist: Command
) -> None:
    fastpersist.json("import-dump", str(golden), *NAMES)
    path = golden / "data/measure/other_bucket/k.json"
    path.write_text('{"id":"k","data":5,"removed":false}')
    log = golden / "data/log/log/log-9.json"
    log.write_text('{"id":"log-9","message":"another"}')
    stored = content(place)
    report = fastpersist.json("import-dump", str(golden), *NAMES, code=1)
    assert total(report, "different") == 2
    assert content(place) == stored
    report = fastpersist.json("import-dump", str(golden), *NAMES, "--overwrite", code=1)
    assert (total(report, "replaced"), total(report, "different")) == (1, 1)
    found = mongo["measure-items"].find_one({"bucket": "other_bucket"})
    assert found is not None
    assert found["payload"]["data"] == 5


def test_no_file_is_overwritten_or_deleted_unless_told(
    place: Place, golden: Path, fastpersist: Command
) -> None:
    fastpersist.json("import-dump", str(golden), *NAMES)
    changed = golden / "data/measure/other_bucket/k.json"
    text = changed.read_bytes()
    changed.write_text('{"id":"k","data":5,"removed":false}')
    (golden / "data/measure/other_bucket/mine.json").write_text("{}")
    (golden / "data/log/log/log-9.json").unlink()
    before = tree(golden)
    report = fastpersist.json("export-dump", str(golden), code=1)
    assert (total(report, "different"), total(report, "written")) == (1, 1)
    assert {**tree(golden), "data/log/log/log-9.json": b""} == {
        **before, "data/log/log/log-9.json": b""
    }  # fmt: skip
    report = fastpersist.json("export-dump", str(golden), "--overwrite")
    assert total(report, "replaced") == 1
    assert changed.read_bytes() == text
    assert (golden / "data/measure/other_bucket/mine.json").read_text() == "{}"


def test_rows_that_no_file_can_hold_are_named(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    async def run() -> None:
        async with place.open() as store:
            await fill(store)  # its state holds bytes, which JSON has no form for
            await store.measure.write_measure_data("b", "a/b", {"id": "x", "data": 1}, START)
            for context in (("S", "a_b", "c"), ("S", "a", "b_c")):
                await store.partial.write_partial_data(*context, "one", {"10": {"level": 1}}, START)

    asyncio.run(run())
    mongo["log-items"].insert_one({"entryId": 5, "payload": {}})
    mongo["signal-items"].insert_one({"symbol": "S", "strategyName": "t", "exchangeName": "e"})
    out = tmp_path / "out"
    report = fastpersist.json("export-dump", str(out), code=1)
    reasons = [problem["reason"] for problem in report["bad"]]
    assert len(reasons) == 5
    for part in ("separator", "of another context", "bytes", "entry_id", "has no payload"):
        assert any(part in reason for reason in reasons), (part, reasons)
    assert len(tree(out)) == total(report, "written") > 60
    other = f"{place.name}b"
    back = fastpersist.json("import-dump", str(out), database=other, code=1)
    assert [problem["name"] for problem in back["ambiguous"]] == ["data/partial/S_a_b_c/one.json"]
    names = ("--strategy", "a_b", "--strategy", "ema")
    assert total(fastpersist.json("import-dump", str(out), *names, database=other), "written") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import-dump", "no/such"), "no such directory: no/such"),
        (("import-dump",), "Missing argument"),
        (("import-dump", "."), "no tree of the file family"),
        (("export-dump", "file"), "file is no directory"),
        (("export-dump", "out", "--domain", "nothing"), "no domain 'nothing'"),
    ],
)
def test_mistakes_are_told_in_a_line(
    place: Place, fastpersist: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "dump" / "data").mkdir(parents=True)
    code, out, errors = fastpersist(*arguments)
    assert (code, out) == (2, "")
    assert message in errors


def big_tree(folder: Path) -> Path:
    for candle in random_walk(4_000):
        path = folder / f"data/candle/binance/BTCUSDT/1m/{candle['timestamp']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_json(candle))
    for number in range(4_000):
        path = folder / f"data/log/log/{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"id":"{number}","priority":{-number}}}')
        path = folder / f"memory/s/b/{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"id":"{number}","removed":{"true" if number % 3 else "false"}}}')
    return folder


async def test_an_export_goes_by_small_batches_that_an_interrupt_can_part(
    store: Store, tmp_path: Path
) -> None:
    """What has been given to the file system in one piece ends before the command does."""
    await store.candle.write_candles_data("BTCUSDT", "1m", "binance", candles(2_300))
    steps: list[int] = []
    report = await export_dump(
        store.container,
        tmp_path,
        [CANDLE],
        on_progress=lambda name, done, total: steps.append(done),
    )
    assert report.of(CANDLE).written == len(tree(tmp_path)) == 2_300
    assert steps == [500, 1_000, 1_500, 2_000, 2_300]


def test_killed_ones_are_repeated_with_the_same_outcome(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path
) -> None:
    folder = big_tree(tmp_path / "big")
    out = tmp_path / "out"
    logs, memories = mongo["log-items"], mongo["memory-items"]

    def interrupted(
        arguments: list[str], held_at: tuple[str, int], is_under_way: Any, kind: signal.Signals
    ) -> None:
        running = process(place, arguments, held_at=held_at)
        deadline = time.monotonic() + 120
        while not is_under_way():
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        _, errors = interrupt(running, kind)
        assert running.returncode == (-9 if kind == signal.SIGKILL else 130), errors
        assert "Traceback" not in errors

    command = ["import-dump", str(folder)]
    interrupted(
        command, ("log", 3_000), lambda: logs.estimated_document_count() > 500, signal.SIGKILL
    )
    interrupted(
        command, ("memory", 1_500), lambda: memories.estimated_document_count() > 500, signal.SIGINT
    )
    interrupted(
        command,
        ("memory", 3_000),
        lambda: memories.estimated_document_count() > 2_000,
        signal.SIGKILL,
    )
    report = fastpersist.json(*command)
    assert total(report, "written") + total(report, "same") == 12_000
    assert 0 < total(report, "written") < 12_000
    assert logs.count_documents({}) == memories.count_documents({}) == 4_000
    assert memories.count_documents({"removed": True}) == 2_666
    # Lists come by the date of their rows, whatever their names.
    newest = [row["entryId"] for row in logs.find().sort([("createDate", -1), ("_id", -1)])]
    assert newest[:3] == ["0", "1", "2"]

    def files(name: str) -> int:
        return len(list((out / name).glob("*.json"))) if (out / name).exists() else 0

    export = ["export-dump", str(out)]
    interrupted(
        export,
        ("candle", 3_000),
        lambda: files("data/candle/binance/BTCUSDT/1m") > 500,
        signal.SIGKILL,
    )
    interrupted(export, ("log", 3_000), lambda: files("data/log/log") > 500, signal.SIGTERM)
    interrupted(export, ("memory", 3_000), lambda: files("memory/s/b") > 500, signal.SIGKILL)
    exported = fastpersist.json(*export)
    found = tree(out)
    assert {name: text for name, text in found.items() if "/.tmp-" not in name} == tree(folder)
    assert digests(exported) == digests(report)


def test_however_fast_lists_come_their_dates_are_in_order_and_not_in_the_future(
    mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("log/log", "storage/live"):
        for number in range(1_100):
            path = tmp_path / f"tree/data/{name}/{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'{{"id":"{number}","priority":{number},"createdAt":{number}}}')
    monkeypatch.setattr("fastpersist.tools.dump.now_ms", lambda: START)
    fastpersist.json("import-dump", str(tmp_path / "tree"))
    for collection, key in (("log-items", "entryId"), ("storage-items", "signalId")):
        rows = list(mongo[collection].find().sort("createDate", 1))
        dates = {row["createDate"] for row in rows}
        assert [row[key] for row in rows] == [str(number) for number in range(1_100)]
        assert len(dates) == len(rows)
        assert max(dates).timestamp() * 1000 == START


def test_paths_say_what_they_may_be_of() -> None:
    assert keys_of_path(SESSION, "session/s/e/f/B_T_live.json") == [("s", "e", "f", "B_T", False)]
    assert keys_of_path(SESSION, "session/s/e/B_live.json") == [("s", "e", "", "B", False)]
    assert keys_of_path(SIGNAL, "data/signal/S_a_b_c/S.json") == [
        ("S", "a", "b_c"),
        ("S", "a_b", "c"),
    ]
    assert set(keys_of_path(RECENT, "data/recent/S_a_b_c_backtest/S.json")) == {
        ("S", "a", "b", "c", True),
        ("S", "a", "b_c", "", True),
        ("S", "a_b", "c", "", True),
    }
    assert len(keys_of_path(PARTIAL, "data/partial/a_b_c_d/x.json")) == 3
    assert keys_of_path(SIGNAL, "data/signal/S_a_b/T.json") == []
    backend = FilesBackend("x")
    values = {"name": "n", "optional_name": "", "mode": True, "timestamp": 60_000}
    for domain in DOMAINS:
        key = tuple(values[field.kind] for field in domain.key)
        found = keys_of_path(domain, backend.path_of(domain, key))
        assert key in found
        assert len(found) == 1 or domain.shape is Shape.VALUE


def test_strange_files_end_nothing(
    place: Place, golden: Path, fastpersist: Command, tmp_path: Path
) -> None:
    strange: dict[bytes, bytes] = {
        b"data/log/log/\xff.json": b'{"id":"x"}',
        b"data/log/log/ .json": b'{"id":" "}',
        b"data/candle/e/S/1m/9999999999999999999.json": b"{}",
        b"data/candle/e/S/1m/-60000.json": b"[]",
        b"state/a/b/b.json": b'{"when":1e300}',
        b"state/a/c/c.json": b'{"when":"someday"}',
        b"state/a/d/d.json": b"[" * 100_000,
        b"state/a/e/e.json": b'{"a":' * 300 + b"1" + b"}" * 300,
        b"state/a/h/h.json": b'{"a":' + b"[" * 200 + b"1" + b"]" * 200 + b"}",
        b"state/a/f/f.json": b'{"a":"\\ud800"}',
        b"state/a/g/g.json": b'{"a.b":{"$c":1},"":2}',
        b"data/storage/live/\xe2\x80\xae[red].json": b"\x00",
    }
    for name, text in strange.items():
        path = bytes(golden) + b"/" + name
        Path(path.decode("utf-8", "surrogateescape")).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(text)
    (golden / "data/log/log/folder.json").mkdir()
    secret = golden / "data/log/log/secret.json"
    secret.symlink_to(tmp_path / "nothing")
    report = fastpersist.json("import-dump", str(golden), *NAMES, code=1)
    named = {problem["name"] for problem in report["bad"]}
    assert named >= {
        "data/log/log/secret.json",
        "state/a/d/d.json",
        "state/a/e/e.json",
        "state/a/f/f.json",
    }, named
    for name in ("d", "e", "h"):  # the way to the innermost is not told in full
        assert len(reasons(report)[f"state/a/{name}/{name}.json"]) < 160
    assert "containers stand inside each other" in reasons(report)["state/a/h/h.json"]
    taken = total(report, "written")
    assert taken + len(report["bad"]) + len(report["unknown"]) == len(tree(golden)) + 1
    assert taken >= len(tree(GOLDEN)) + 2
    code, _, _ = fastpersist("import-dump", str(golden), *NAMES)
    assert code == 1


def reasons(report: dict[str, Any]) -> dict[str, str]:
    return {problem["name"]: problem["reason"] for problem in report["bad"]}


def test_links_are_named_and_those_that_lead_out_are_not_read(
    mongo: Database[dict[str, Any]], golden: Path, fastpersist: Command, tmp_path: Path
) -> None:
    logs = golden / "data/log/log"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "far.json").write_text('{"id":"far"}')
    (logs / "far.json").symlink_to(outside / "far.json")
    (logs / "near.json").symlink_to("kept/near.json")
    (logs / "kept").mkdir()
    (logs / "kept/near.json").write_text('{"id":"near"}')
    (logs / "itself.json").symlink_to("itself.json")
    (golden / "data/measure/elsewhere").symlink_to(outside)
    (golden / "memory/round").symlink_to("..")
    # A tree is the same by whatever name it is called.
    (tmp_path / "called").symlink_to(golden)
    report = fastpersist.json("import-dump", str(tmp_path / "called"), *NAMES, code=1)
    named = reasons(report)
    assert set(named) == {
        "data/log/log/far.json", "data/log/log/itself.json", "data/measure/elsewhere",
        "memory/round",
    }  # fmt: skip
    assert named["data/log/log/far.json"] == "is a link out of the tree"
    for name in ("data/measure/elsewhere", "memory/round"):
        assert "is a link to a directory" in named[name]
    assert report["unknown"] == ["data/log/log/kept/near.json"]
    assert mongo["log-items"].count_documents({"entryId": "near"}) == 1
    assert mongo["log-items"].count_documents({"entryId": "far"}) == 0


MINE: Final = {"id": "mine", "removed": False}


@pytest.mark.parametrize(
    ("path", "collection", "key", "ours"),
    [
        ("state/s/b/b.json", "state-items", {"signalId": "s", "bucketName": "b"}, {"data": 1}),
        ("memory/s/b/m.json", "memory-items",
         {"signalId": "s", "bucketName": "b", "memoryId": "m"}, {"id": "m"}),
        ("data/storage/live/r.json", "storage-items", {"backtest": False, "signalId": "r"},
         {"id": "r", "createdAt": 1}),
        ("data/log/log/l.json", "log-items", {"entryId": "l"}, {"id": "l"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_same", [False, True])
def test_what_another_client_writes_after_the_look_stays(
    place: Place, mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, path: str, collection: str, key: dict[str, Any],
    ours: dict[str, Any], is_same: bool,
) -> None:  # fmt: skip
    file = tmp_path / "tree" / path
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(ours))
    payload = MINE if not is_same else {**ours, **({"removed": False} if "memoryId" in key else {})}
    stored = _Import._stored
    written: list[Any] = []

    async def read_before_another_writes(self: _Import, *arguments: Any) -> Any:
        found = await stored(self, *arguments)
        if not written:
            document = {**key, "payload": payload, "removed": False}
            written.append(mongo[collection].insert_one(document).inserted_id)
        return found

    monkeypatch.setattr(_Import, "_stored", read_before_another_writes)
    report = fastpersist.json("import-dump", str(tmp_path / "tree"), code=int(not is_same))
    (count,) = report["domains"]
    assert (count["written"], count["replaced"]) == (0, 0)
    assert (count["same"], count["different"]) == ((1, 0) if is_same else (0, 1))
    (found,) = mongo[collection].find()
    assert (found["_id"], found["payload"]) == (written[0], payload)
    report = fastpersist.json(
        "import-dump", str(tmp_path / "tree"), "--overwrite",
        code=int(not is_same and collection == "log-items"),
    )  # fmt: skip
    (found,) = mongo[collection].find()
    is_kept = is_same or collection == "log-items"
    assert total(report, "replaced") == int(not is_kept)
    assert is_kept == (found["payload"] == payload)


def test_a_candle_of_another_client_stays(
    mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    candles = random_walk(3)
    for candle in candles:
        path = tmp_path / f"tree/data/candle/binance/BTCUSDT/1m/{candle['timestamp']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_json(candle))
    key = {"symbol": "BTCUSDT", "interval": "1m", "exchangeName": "binance"}
    other = {**key, **candles[1], "volume": 7.5}
    stored = _Import._stored_candles

    async def read_before_another_writes(self: _Import, *arguments: Any) -> Any:
        found = await stored(self, *arguments)
        if "_id" not in other:
            mongo["candle-items"].insert_one(other)
        return found

    monkeypatch.setattr(_Import, "_stored_candles", read_before_another_writes)
    report = fastpersist.json("import-dump", str(tmp_path / "tree"), code=1)
    assert (total(report, "written"), total(report, "different")) == (2, 1)
    assert mongo["candle-items"].find_one({"timestamp": candles[1]["timestamp"]}) == other


def test_a_row_that_the_server_refuses_is_named_and_the_others_stored(
    mongo: Database[dict[str, Any]], golden: Path, fastpersist: Command
) -> None:
    mongo.create_collection("state-items", validator={"payload.bad": {"$exists": False}})
    path = golden / "state/s/bad/bad.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"bad":1}')
    for more in ((), ("--overwrite",)):
        report = fastpersist.json("import-dump", str(golden), *NAMES, *more, code=1)
        (name,) = reasons(report)
        assert name == "state/s/bad/bad.json"
        assert reasons(report)[name].startswith("mongo: 121 ")
        assert total(report, "written") + total(report, "same") == len(tree(golden)) - 1
        digests(report)


def test_a_row_that_came_and_went_meanwhile_is_named(
    mongo: Database[dict[str, Any]], fastpersist: Command, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "tree/data/log/log/l.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"id":"l"}')
    stored = _Import._stored
    looks: list[int] = []

    async def look(self: _Import, *arguments: Any) -> Any:
        looks.append(mongo["log-items"].delete_many({}).deleted_count)
        found = await stored(self, *arguments)
        if len(looks) == 1:
            mongo["log-items"].insert_one({"entryId": "l"})
        return found

    monkeypatch.setattr(_Import, "_stored", look)
    report = fastpersist.json("import-dump", str(tmp_path / "tree"), code=1)
    assert looks == [0, 1]
    assert "is gone again" in reasons(report)["data/log/log/l.json"]
    assert total(report, "written") == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_what_is_no_regular_file_or_too_large_is_named_and_not_waited_for(
    place: Place, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = golden / "data/log/log"
    os.mkfifo(logs / "pipe.json")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(logs)  # the address has room for a short path only
        listener.bind("socket.json")
        listener.listen()
        (golden / "state/s/zero").mkdir(parents=True)
        (golden / "state/s/zero/zero.json").symlink_to("/dev/zero")
        (golden / "state/s/big").mkdir()
        with open(golden / "state/s/big/big.json", "wb") as file:
            file.truncate(20 * 1024**3)
        running = process(place, ["import-dump", str(golden), *NAMES, "--json"])
        try:
            out, errors = running.communicate(timeout=60)
        finally:
            running.kill()
            running.communicate()
    assert (running.returncode, errors) == (1, "")
    assert reasons(json.loads(out)) == {
        "data/log/log/pipe.json": "is no regular file",
        "data/log/log/socket.json": "is no regular file",
        "state/s/big/big.json": f"is larger than {LONGEST_TEXT} bytes, as no row is",
        "state/s/zero/zero.json": "is a link out of the tree",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_what_takes_the_place_of_a_file_is_not_waited_for(
    golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = golden / "data/log/log/other.json"
    path.write_text("{}")
    opened = os.open

    def replaced(name: Any, flags: int, *more: Any, **options: Any) -> int:
        path.unlink()
        os.mkfifo(path)
        return opened(name, flags, *more, **options)

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(CorruptDataError, match="is no regular file"):
        load_within(str(golden), "data/log/log/other.json")


def test_many_large_files_are_not_in_memory_at_once(
    mongo: Database[dict[str, Any]], fastpersist: Command, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    # As JSON this is six times as long as in MongoDB: the longest row that there is.
    longest = "\x01" * 15_900_000
    folder = tmp_path / "tree/memory/s/b"
    folder.mkdir(parents=True)
    (folder / "longest.json").write_bytes(to_json({"id": "longest", "data": longest}))
    for number in range(6):
        (folder / f"{number}.json").write_bytes(to_json({"id": "x", "data": "x" * 9_000_000}))
    sizes: list[int] = []
    rows = _Import._rows

    async def noted(self: _Import, domain: Any, batch: Any) -> None:
        sizes.append(len(batch))
        await rows(self, domain, batch)

    monkeypatch.setattr(_Import, "_rows", noted)
    report = fastpersist.json("import-dump", str(tmp_path / "tree"))
    assert total(report, "written") == 7
    assert max(sizes) <= 2
    found = mongo["memory-items"].find_one({"memoryId": "longest"})
    assert found is not None
    assert found["payload"]["data"] == longest


def test_a_directory_that_cannot_be_read_is_named_and_the_others_imported(
    place: Place, golden: Path, fastpersist: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = len(tree(golden / "data/log"))
    scandir = os.scandir

    def refused(path: Any) -> Any:  # by the system itself it would not be to root
        if str(path).endswith("data/log"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    report = fastpersist.json("import-dump", str(golden), *NAMES, code=1)
    monkeypatch.undo()
    assert reasons(report) == {"data/log": "Permission denied"}
    assert total(report, "written") == len(tree(golden)) - inside


def test_a_row_whose_text_is_none_is_named_and_the_others_are_exported(
    place: Place, fastpersist: Command, tmp_path: Path
) -> None:
    with MongoClient[dict[str, Any]](place.servers.mongo_url) as client:
        rows = client[place.name]["state-items"]
        raw = bson.encode({"_id": "odd", "signalId": "QQQQ", "bucketName": "b", "payload": {}})
        rows.insert_one(RawBSONDocument(raw.replace(b"QQQQ", b"Q\xff\xfeQ")))
        rows.insert_one({"signalId": "s", "bucketName": "b", "payload": {"data": 1}})
    found = fastpersist.json("export-dump", str(tmp_path / "out"), code=1)
    assert [problem["name"] for problem in found["bad"]] == ["state-items odd"]
    assert len([*(tmp_path / "out").rglob("*.json")]) == 1
