"""The map from Redis key to document id against a plain model, in both implementations."""

from __future__ import annotations

import contextlib
import os
import random
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpersist.hot import _idcache_py

IMPLEMENTATIONS: list[ModuleType] = [_idcache_py]
if os.environ.get("FASTPERSIST_PURE") != "1":
    with contextlib.suppress(ImportError):
        IMPLEMENTATIONS.append(import_module("fastpersist.hot._idcache_c"))

KEYS = st.sampled_from([b"", b"\0", *(b"key:%d" % number for number in range(10))])
IDS = st.binary(min_size=12, max_size=12)
WRONG = st.one_of(st.none(), st.text(), st.integers(), st.binary().map(bytearray))


class Model:
    """The policy in plain lists of [key, id, used], the oldest first."""

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.clear()

    def clear(self) -> None:
        self.probation: list[list[Any]] = []
        self.main: list[list[Any]] = []
        self.hits = self.misses = self.evictions = 0

    def find(self, key: bytes) -> list[Any] | None:
        return next((entry for entry in self.probation + self.main if entry[0] == key), None)

    def get(self, key: bytes) -> bytes | None:
        entry = self.find(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        entry[2] = True
        return entry[1]

    def put(self, key: bytes, document_id: bytes) -> None:
        if self.max_entries == 0:
            return
        entry = self.find(key)
        if entry is not None:
            entry[1:] = document_id, True
            return
        while len(self.probation) + len(self.main) == self.max_entries:
            self.turn()
        self.probation.append([key, document_id, False])

    def turn(self) -> None:
        if len(self.probation) >= max(1, self.max_entries // 10) or not self.main:
            key, document_id, used = self.probation.pop(0)
        else:
            key, document_id, used = self.main.pop(0)
        if used:
            self.main.append([key, document_id, False])
        else:
            self.evictions += 1

    def drop(self, key: bytes) -> bool:
        entry = self.find(key)
        self.probation = [other for other in self.probation if other is not entry]
        self.main = [other for other in self.main if other is not entry]
        return entry is not None

    def stats(self) -> tuple[int, ...]:
        entries = len(self.probation) + len(self.main)
        return (self.hits, self.misses, entries, self.max_entries, self.evictions)


class IdCacheMachine(RuleBasedStateMachine):
    """Does the same to each implementation and to a model."""

    @initialize(max_entries=st.one_of(st.integers(0, 6), st.integers(20, 35)))
    def make(self, max_entries: int) -> None:
        self.caches = [module.IdCache(max_entries) for module in IMPLEMENTATIONS]
        self.model = Model(max_entries)
        # A large cache is filled first: the keys of the rules alone would not make it evict.
        for number in range(max_entries - 5 if max_entries > 6 else 0):
            self.put(b"first:%d" % number, b"1" * 12)
            if number % 3 == 0:
                self.get(b"first:%d" % number)

    @rule(key=KEYS, document_id=IDS)
    def put(self, key: bytes, document_id: bytes) -> None:
        for cache in self.caches:
            cache.put(key, document_id)
        self.model.put(key, document_id)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        expected = self.model.get(key)
        for cache in self.caches:
            assert cache.get(key) == expected

    @rule(key=KEYS)
    def drop(self, key: bytes) -> None:
        expected = self.model.drop(key)
        for cache in self.caches:
            assert cache.drop(key) is expected

    @rule()
    def clear(self) -> None:
        for cache in (*self.caches, self.model):
            cache.clear()

    @rule(key=KEYS, document_id=st.binary(max_size=20).filter(lambda text: len(text) != 12))
    def put_an_id_of_another_length(self, key: bytes, document_id: bytes) -> None:
        for cache in self.caches:
            assert outcome(cache.put, key, document_id)[0] is ValueError

    @invariant()
    def counts_agree(self) -> None:
        expected = self.model.stats()
        for cache in self.caches:
            assert cache.stats() == expected
            assert len(cache) == expected[2]

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        # Pushes the entries out one by one, which shows their order; dropping what is gone
        # from the model changes nothing and marks nothing.
        for number in range(2 * self.model.max_entries):
            before = [entry[0] for entry in self.model.probation + self.model.main]
            self.put(b"new:%d" % number, b"n" * 12)
            for key in before:
                if self.model.find(key) is None:
                    self.drop(key)
        self.counts_agree()


IdCacheMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestIdCache = IdCacheMachine.TestCase


def outcome(call: Any, *args: object) -> tuple[Any, ...]:
    """Return a result, or what an error says."""
    try:
        return (call(*args),)
    except Exception as error:
        return type(error), str(error)


@settings(max_examples=200, deadline=None)
@given(st.one_of(KEYS, WRONG), st.one_of(IDS, WRONG, st.binary()))
def test_both_refuse_the_same(key: Any, document_id: Any) -> None:
    results = []
    for module in IMPLEMENTATIONS:
        cache = module.IdCache(2)
        results.append(
            [
                outcome(cache.put, key, document_id),
                outcome(cache.get, key),
                outcome(cache.drop, key),
                cache.stats(),
            ]
        )
    assert all(other == results[0] for other in results)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 140),
    st.lists(st.tuples(st.sampled_from("ppppgd"), st.integers(0, 200)), min_size=50, max_size=600),
)
def test_both_evict_the_same_while_they_grow(max_entries: int, steps: list[Any]) -> None:
    results = []
    for module in IMPLEMENTATIONS:
        cache = module.IdCache(max_entries)
        for action, number in steps:
            key = b"%d" % number
            if action == "p":
                cache.put(key, b"%012d" % number)
            elif action == "g":
                cache.get(key)
            else:
                cache.drop(key)
        results.append([cache.stats(), *(cache.get(b"%d" % number) for number in range(201))])
    assert all(other == results[0] for other in results)
    assert results[0][0].entries <= max_entries


@pytest.mark.parametrize("module", IMPLEMENTATIONS)
@pytest.mark.parametrize("max_entries", [95, 150, 290])
def test_a_long_run_matches_the_model(module: Any, max_entries: int) -> None:
    chance = random.Random(5)
    cache, model = module.IdCache(max_entries), Model(max_entries)
    for step in range(20_000):
        key = b"key:%d" % chance.randrange(300)
        action = chance.random()
        if action < 0.5:
            document_id = b"%012d" % step
            cache.put(key, document_id)
            model.put(key, document_id)
        elif action < 0.8:
            assert cache.get(key) == model.get(key)
        elif action < 0.95:
            assert cache.drop(key) == model.drop(key)
        elif step % 997 == 0:
            cache.clear()
            model.clear()
        assert cache.stats() == model.stats()
