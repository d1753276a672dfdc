"""Rows whose answer was lost, cancelled or overtaken: the next write is never taken for done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastpersist import ListDomain, Store, StoreUnavailableError
from kit import eventually


def row(number: int) -> list[Any]:
    """Return a list of one row whose content is `number`."""
    return [{"id": "a", "priority": 1, "type": "x", "n": number}]


async def stored(store: Store) -> Any:
    """Return the content of the one row."""
    rows: Any = await store.storage.read_storage_data(True)
    return [found["n"] for found in rows]


async def holds(store: Store, number: int) -> bool:
    """Say whether the content of the one row is `number`."""
    return await stored(store) == [number]


@pytest.fixture
def lose_answers(store: Store) -> list[BaseException]:
    """Errors to raise in place of the next answers, after MongoDB has applied the write."""
    errors: list[BaseException] = []
    service = store.container.storage_db_service
    apply = service._apply

    async def apply_and_lose(*arguments: Any) -> Any:
        answer = await apply(*arguments)
        if errors:
            raise errors.pop()
        return answer

    service._apply = apply_and_lose  # type: ignore[method-assign]  # a lost answer
    return errors


@pytest.mark.parametrize(
    "error", [StoreUnavailableError("mongo", "lost"), asyncio.CancelledError()]
)
async def test_the_old_content_is_sent_again_after_a_lost_answer(
    store: Store, lose_answers: list[BaseException], error: BaseException
) -> None:
    await store.storage.write_storage_data(True, row(1))
    lose_answers.append(error)
    with pytest.raises(type(error)):
        await store.storage.write_storage_data(True, row(2))
    await store.storage.write_storage_data(True, row(1))
    assert await stored(store) == [1]


async def test_a_row_whose_answer_was_lost_is_never_taken_for_known(
    store: Store, lose_answers: list[BaseException]
) -> None:
    await store.storage.write_storage_data(True, row(1))
    lose_answers.append(StoreUnavailableError("mongo", "lost"))
    with pytest.raises(StoreUnavailableError):
        await store.storage.write_storage_data(True, row(2))
    await store.storage.write_storage_data(True, row(3))
    # The lost write is applied only now, as a server that was stopped does.
    update = {"$set": {"payload": row(2)[0]}}
    await store.container.storage_db_service.collection.update_one({"signalId": "a"}, update)
    await store.storage.write_storage_data(True, row(3))
    assert await stored(store) == [3]


async def test_of_writers_that_met_none_counts_as_the_last(store: Store) -> None:
    service = store.container.storage_db_service
    apply = service._apply
    answers = [asyncio.Event(), asyncio.Event()]
    turns = iter(answers)

    async def apply_and_wait(*arguments: Any) -> Any:
        answer = await apply(*arguments)
        await next(turns).wait()
        return answer

    await store.ready()
    service._apply = apply_and_wait  # type: ignore[method-assign]  # answers in any order
    first = asyncio.create_task(store.storage.write_storage_data(True, row(1)))
    await eventually(lambda: holds(store, 1))
    second = asyncio.create_task(store.storage.write_storage_data(True, row(2)))
    for _ in range(20):
        assert await holds(store, 1)
    # The second is not sent before the first has its answer.
    answers[0].set()
    await first
    await eventually(lambda: holds(store, 2))
    answers[1].set()
    await second
    service._apply = apply  # type: ignore[method-assign]  # back again
    await store.storage.write_storage_data(True, row(1))
    assert await stored(store) == [1]


async def test_clearing_during_a_write_makes_it_forgotten(store: Store) -> None:
    service = store.container.storage_db_service
    apply = service._apply

    async def apply_then_clear(*arguments: Any) -> Any:
        answer = await apply(*arguments)
        await service.clear((True,))
        return answer

    service._apply = apply_then_clear  # type: ignore[method-assign]  # another who clears
    await store.storage.write_storage_data(True, row(1))
    assert await stored(store) == []
    service._apply = apply  # type: ignore[method-assign]  # back again
    await store.storage.write_storage_data(True, row(1))
    assert await stored(store) == [1]


async def test_rows_of_contexts_that_share_a_key_are_both_written(store: Store) -> None:
    lists = ListDomain[Any].declare(
        "shared", collection="shared-items", context=["desk"], install=False
    )
    bound = store.domain(lists)
    await bound.write("a:b", rows=[{"id": "c", "n": 1}])
    await bound.write("a", rows=[{"id": "b:c", "n": 1}])
    assert await bound.read("a:b") == [{"id": "c", "n": 1}]
    assert await bound.read("a") == [{"id": "b:c", "n": 1}]
