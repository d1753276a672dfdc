"""The map from Redis key to document id against an OrderedDict, in both implementations."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from importlib import import_module
from types import ModuleType
from typing import Any

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


class IdCacheMachine(RuleBasedStateMachine):
    """Does the same to each implementation and to a model."""

    @initialize(max_entries=st.integers(0, 6))
    def make(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self.caches = [module.IdCache(max_entries) for module in IMPLEMENTATIONS]
        self.model: OrderedDict[bytes, bytes] = OrderedDict()
        self.hits = self.misses = self.evictions = 0

    @rule(key=KEYS, document_id=IDS)
    def put(self, key: bytes, document_id: bytes) -> None:
        for cache in self.caches:
            cache.put(key, document_id)
        if self.max_entries:
            self.model[key] = document_id
            self.model.move_to_end(key)
        if len(self.model) > self.max_entries:
            self.model.popitem(last=False)
            self.evictions += 1

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        for cache in self.caches:
            assert cache.get(key) == self.model.get(key)
        if key in self.model:
            self.hits += 1
            self.model.move_to_end(key)
        else:
            self.misses += 1

    @rule(key=KEYS)
    def drop(self, key: bytes) -> None:
        for cache in self.caches:
            assert cache.drop(key) is (key in self.model)
        self.model.pop(key, None)

    @rule()
    def clear(self) -> None:
        for cache in self.caches:
            cache.clear()
        self.model.clear()
        self.hits = self.misses = self.evictions = 0

    @rule(key=KEYS, document_id=st.binary(max_size=20).filter(lambda text: len(text) != 12))
    def put_an_id_of_another_length(self, key: bytes, document_id: bytes) -> None:
        for cache in self.caches:
            assert outcome(cache.put, key, document_id)[0] is ValueError

    @invariant()
    def counts_agree(self) -> None:
        for cache in self.caches:
            assert len(cache) == len(self.model)
            assert cache.stats() == (
                self.hits,
                self.misses,
                len(self.model),
                self.max_entries,
                self.evictions,
            )

    def teardown(self) -> None:
        # Pushes the entries out one by one, which shows the order of use.
        for cache in getattr(self, "caches", ()):
            for number in range(self.max_entries - len(cache)):
                cache.put(b"filler:%d" % number, b"f" * 12)
            for number, key in enumerate(self.model):
                cache.put(b"new:%d" % number, b"n" * 12)
                assert cache.get(key) is None


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
