"""Calls that wait in the same loop turn travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from fastpersist.coalesce import Coalescer


class Store:
    """Records what is sent, and answers when it is let."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refused: set[Any] = set()
        self.broken = False

    async def alone(self, request: Any) -> Any:
        self.sent.append(request)
        await self.gate.wait()
        if request in self.refused:
            raise ValueError(request)
        return ("alone", request)

    async def together(self, requests: Sequence[Any]) -> list[Any]:
        self.sent.append(list(requests))
        await self.gate.wait()
        if self.broken:
            raise ConnectionError("gone")
        return [
            ValueError(request) if request in self.refused else ("together", request)
            for request in requests
        ]


async def settled() -> None:
    """Return when nothing moves any more; after a time it might not have begun to."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
async def store() -> Store:
    return Store()


def coalescer(store: Store, **options: Any) -> Coalescer[Any, Any]:
    return Coalescer(store.alone, store.together, **options)


async def test_a_single_call_runs_alone(store: Store) -> None:
    assert await coalescer(store)("k", 1) == ("alone", 1)
    assert store.sent == [1]


async def test_calls_of_one_turn_travel_together(store: Store) -> None:
    calls = coalescer(store)
    outcomes = await asyncio.gather(*(calls(number, number) for number in range(5)))
    assert outcomes == [("together", number) for number in range(5)]
    assert store.sent == [[0, 1, 2, 3, 4]]


async def test_calls_of_one_key_are_one_request_and_the_last_counts(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    outcomes = await asyncio.gather(calls("k", 1), calls("other", 2), calls("k", 3))
    assert outcomes == [("together", 3), ("together", 2), ("together", 3)]
    assert store.sent == [[3, 2]]


async def test_a_later_turn_is_another_batch(store: Store) -> None:
    calls = coalescer(store)
    store.gate.clear()
    first = asyncio.ensure_future(asyncio.wait_for(calls(1, 1), 60))
    await settled()
    second = asyncio.gather(calls(2, 2), calls(3, 3))
    await settled()
    assert store.sent == [1, [2, 3]]
    store.gate.set()
    await asyncio.gather(first, second)


async def test_an_ordered_key_holds_back_later_calls(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.gate.clear()
    first = asyncio.ensure_future(calls("k", 1))
    await settled()
    later = [asyncio.ensure_future(calls("k", number)) for number in (2, 3)]
    other = asyncio.ensure_future(calls("other", 9))
    await settled()
    assert 1 in store.sent
    assert not {2, 3} & set(map(str, store.sent))
    assert all(not call.done() for call in later)
    store.gate.set()
    await asyncio.gather(first, other, *later)
    assert store.sent[-1] == [3]


async def test_unordered_keys_are_not_held_back(store: Store) -> None:
    calls = coalescer(store)
    store.gate.clear()
    first = asyncio.ensure_future(calls("k", 1))
    await settled()
    second = asyncio.ensure_future(calls("k", 2))
    await settled()
    assert store.sent == [1, 2]
    store.gate.set()
    await asyncio.gather(first, second)


async def test_a_refused_request_fails_only_its_callers(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.refused.add(2)
    good, bad = await asyncio.gather(calls("a", 1), calls("b", 2), return_exceptions=True)
    assert good == ("together", 1)
    assert isinstance(bad, ValueError)
    assert store.sent == [[1, 2], 2]


async def test_a_value_that_replaced_another_does_not_fail_it(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.refused.add(2)
    first, second = await asyncio.gather(calls("a", 1), calls("a", 2), return_exceptions=True)
    assert first == ("alone", 1)
    assert isinstance(second, ValueError)


async def test_what_fails_as_a_whole_fails_all(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.broken = True
    outcomes = await asyncio.gather(*(calls(n, n) for n in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionError] * 3
    assert len(store.sent) == 1
    store.broken = False
    assert await calls(1, 1) == ("alone", 1)


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_cancelled_caller_drops_out_alone(store: Store, cancelled: int) -> None:
    calls = coalescer(store)
    tasks = [asyncio.ensure_future(calls(number, number)) for number in range(3)]
    await asyncio.sleep(0)
    tasks[cancelled].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for number, outcome in enumerate(outcomes):
        if number == cancelled:
            assert isinstance(outcome, asyncio.CancelledError)
        else:
            assert outcome[1] == number


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_caller_cancelled_on_the_way_leaves_the_others(
    store: Store, cancelled: int
) -> None:
    calls = coalescer(store, ordered=True)
    store.gate.clear()
    tasks = [asyncio.ensure_future(calls(number, number)) for number in range(3)]
    await settled()
    tasks[cancelled].cancel()
    await settled()
    store.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == 1
    # Its key is free again.
    assert (await calls(cancelled, 7))[1] == 7


async def test_what_was_cancelled_while_held_back_is_not_sent(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.gate.clear()
    first = asyncio.ensure_future(calls("k", 1))
    await settled()
    held = asyncio.ensure_future(calls("k", 2))
    await settled()
    held.cancel()
    with suppress(asyncio.CancelledError):
        await held
    store.gate.set()
    await first
    assert (await calls("k", 3))[1] == 3
    assert store.sent == [1, 3]


async def test_a_cancelled_call_does_not_strand_what_waits_behind_it(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.gate.clear()
    first = asyncio.ensure_future(calls("k", 1))
    await settled()
    cancelled = asyncio.ensure_future(calls("k", 2))
    removal = asyncio.ensure_future(calls.exclusively("k", "gone"))
    await settled()
    cancelled.cancel()
    store.gate.set()
    await asyncio.gather(first, removal)
    assert store.sent == [1, "gone"]


async def test_batches_are_bounded_by_count_and_bytes(store: Store) -> None:
    calls = coalescer(store, most_calls=2)
    await asyncio.gather(*(calls(number, number) for number in range(5)))
    assert store.sent == [[0, 1], [2, 3], 4]
    store.sent.clear()
    calls = coalescer(store, most_bytes=100)
    await asyncio.gather(*(calls(number, number, 60) for number in range(3)))
    assert store.sent == [0, 1, 2]


async def test_an_exclusive_request_keeps_its_place(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    outcomes = await asyncio.gather(
        calls("k", 1), calls("other", 5), calls.exclusively("k", "gone"), calls("k", 2)
    )
    assert outcomes[2] == ("alone", "gone")
    flat = [one for sent in store.sent for one in (sent if isinstance(sent, list) else [sent])]
    assert [one for one in flat if one != 5] == [1, "gone", 2]


async def test_an_exclusive_request_on_a_free_key_runs_at_once(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    assert await calls.exclusively("k", "gone") == ("alone", "gone")
    assert await calls("k", 1) == ("alone", 1)


async def test_flush_sends_what_waits(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    tasks = [asyncio.ensure_future(calls(number, number)) for number in range(3)]
    await asyncio.sleep(0)
    await calls.flush()
    assert store.sent == [[0, 1, 2]]
    assert await asyncio.gather(*tasks) == [("together", number) for number in range(3)]
    assert (await calls(9, 9)) == ("alone", 9)


async def test_many_random_calls_keep_the_order_of_each_key(store: Store) -> None:
    stored: dict[Any, list[int]] = {}

    async def alone(request: tuple[int, int]) -> None:
        await asyncio.sleep(0.0001 * (request[1] % 3))
        stored.setdefault(request[0], []).append(request[1])

    async def together(requests: Sequence[tuple[int, int]]) -> list[None]:
        await asyncio.sleep(0.0001 * (len(requests) % 3))
        for key, number in requests:
            stored.setdefault(key, []).append(number)
        return [None] * len(requests)

    calls: Coalescer[tuple[int, int], None] = Coalescer(alone, together, ordered=True)

    async def write(number: int) -> None:
        await asyncio.sleep(0.0002 * (number % 7))
        key = number % 5
        mine = next(counters[key])
        await calls(key, (key, mine))
        assert max(stored[key]) >= mine

    counters = [iter(range(1_000)) for _ in range(5)]
    await asyncio.gather(*(write(number) for number in range(500)))
    for numbers in stored.values():
        assert numbers == sorted(numbers)


async def test_many_requests_of_a_caller_join_the_turn(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    await asyncio.gather(calls.all([(1, 1, 0), (2, 2, 0)]), calls(3, 3), calls.all([(4, 4, 0)]))
    assert store.sent == [[1, 2, 3, 4]]
    await calls.all([])
    await calls.all([(5, 5, 0)])
    assert store.sent == [[1, 2, 3, 4], 5]


async def test_many_requests_end_before_the_first_failure_is_told(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.refused = {2, 3}
    with pytest.raises(ValueError, match="2"):
        await calls.all([(number, number, 0) for number in range(1, 5)])
    assert store.sent == [[1, 2, 3, 4], 2, 3]


async def test_many_requests_of_a_cancelled_caller_drop_out(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    many = asyncio.ensure_future(calls.all([(1, 1, 0), (2, 2, 0)]))
    other = asyncio.ensure_future(calls(3, 3))
    await asyncio.sleep(0)
    many.cancel()
    assert (await other)[1] == 3
    with suppress(asyncio.CancelledError):
        await many
    assert store.sent == [3]
    assert (await calls(1, 1))[1] == 1


async def test_the_first_request_of_a_key_counts_on_request(store: Store) -> None:
    calls = coalescer(store, ordered=True, first_counts=True)
    await asyncio.gather(calls("k", 1), calls("other", 2), calls("k", 3))
    assert store.sent == [[1, 2]]


async def test_few_batches_are_under_way_at_a_time(store: Store) -> None:
    calls = coalescer(store, ordered=True, most_calls=2)
    store.gate.clear()
    tasks = [asyncio.ensure_future(calls(number, number)) for number in range(30)]
    await settled()
    assert len(store.sent) == 8
    later = [asyncio.ensure_future(calls(number, number + 100)) for number in range(30)]
    await settled()
    assert len(store.sent) == 8
    store.gate.set()
    first = await asyncio.gather(*tasks)
    second = await asyncio.gather(*later)
    # Those that had to wait were replaced by the later values of their keys.
    assert [outcome[1] for outcome in first] == [*range(16), *range(116, 130)]
    assert [outcome[1] for outcome in second] == list(range(100, 130))
    assert (await calls(1, 1)) == ("alone", 1)


async def test_reads_that_had_to_wait_are_sent(store: Store) -> None:
    calls = coalescer(store, most_calls=1)
    outcomes = await asyncio.gather(*(calls(number, number) for number in range(50)))
    assert [outcome[1] for outcome in outcomes] == list(range(50))


async def test_flush_sends_what_had_to_wait(store: Store) -> None:
    calls = coalescer(store, ordered=True, most_calls=1)
    tasks = [asyncio.ensure_future(calls(number, number)) for number in range(40)]
    await asyncio.sleep(0)
    await calls.flush()
    assert len(store.sent) == 40
    await asyncio.gather(*tasks)


async def test_a_write_behind_a_removal_waits_for_it_however_busy_it_is(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.gate.clear()
    removals = [
        asyncio.ensure_future(calls.exclusively(number, f"gone {number}")) for number in range(20)
    ]
    write = asyncio.ensure_future(calls(19, "back"))
    await settled()
    assert set(store.sent) == {f"gone {number}" for number in range(20)}
    store.gate.set()
    await asyncio.wait_for(asyncio.gather(*removals, write), 60)
    assert store.sent[-1] == "back"
    assert store.sent.count("back") == 1


async def test_a_leader_does_not_take_the_place_of_what_waits_before_it(store: Store) -> None:
    calls = coalescer(store, ordered=True, most_calls=1)
    store.gate.clear()
    busy = [asyncio.ensure_future(calls(number, number)) for number in range(8)]
    await settled()
    first = asyncio.ensure_future(calls("k", 1))
    await settled()
    removal = asyncio.ensure_future(calls.exclusively("k", "gone"))
    second = asyncio.ensure_future(calls("k", "later"))
    await settled()
    store.gate.set()
    await asyncio.wait_for(asyncio.gather(*busy, first, removal, second), 60)
    flat = [one for sent in store.sent for one in (sent if isinstance(sent, list) else [sent])]
    assert [one for one in flat if isinstance(one, str)] == ["gone", "later"]


async def test_flush_waits_for_a_caller_that_runs_alone_and_for_what_it_holds_back(
    store: Store,
) -> None:
    calls = coalescer(store, ordered=True)
    store.gate.clear()
    first = asyncio.ensure_future(calls("k", 1))
    await settled()
    second = asyncio.ensure_future(calls("k", 2))
    await settled()
    flushed = asyncio.ensure_future(calls.flush())
    await settled()
    assert not flushed.done()
    store.gate.set()
    await asyncio.wait_for(flushed, 60)
    assert first.done()
    assert second.done()
    assert store.sent == [1, 2]


async def test_flushes_side_by_side_all_end(store: Store) -> None:
    calls = coalescer(store, ordered=True)
    store.gate.clear()
    first = asyncio.ensure_future(calls("k", 1))
    await settled()
    flushes = [asyncio.ensure_future(calls.flush()) for _ in range(3)]
    await settled()
    flushes[0].cancel()
    await settled()
    store.gate.set()
    outcomes = await asyncio.wait_for(asyncio.gather(*flushes, return_exceptions=True), 60)
    assert [type(outcome) for outcome in outcomes[1:]] == [type(None)] * 2
    assert await first == ("alone", 1)
