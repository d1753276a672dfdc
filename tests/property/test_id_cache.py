"""The map from Redis key to document id against a plain model, in both implementations."""

from __future__ import annotations

import contextlib
import os
from importlib import import_module
from types import ModuleType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpersist.hot import _idcache_py
from id_cache_model import Model

IMPLEMENTATIONS: list[ModuleType] = [_idcache_py]
if os.environ.get("FASTPERSIST_PURE") != "1":
    with contextlib.suppress(ImportError):
        IMPLEMENTATIONS.append(import_module("fastpersist.hot._idcache_c"))

KEYS = st.sampled_from([b"", b"\0", *(b"key:%d" % number for number in range(10))])
IDS = st.binary(min_size=12, max_size=12)
WRONG = st.one_of(st.none(), st.text(), st.integers(), st.binary().map(bytearray))


class IdCacheMachine(RuleBasedStateMachine):
    """Does the same to each implementation and to a model."""

    @initialize(max_entries=st.integers(0, 6) | st.integers(20, 40))
    def make(self, max_entries: int) -> None:
        self.caches = [module.IdCache(max_entries) for module in IMPLEMENTATIONS]
        self.model = Model(max_entries)

    @rule(key=KEYS, document_id=IDS)
    def put(self, key: bytes, document_id: bytes) -> None:
        for cache in (*self.caches, self.model):
            cache.put(key, document_id)

    @rule(first=st.integers(0, 200), count=st.integers(1, 60))
    def scan(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            for cache in (*self.caches, self.model):
                cache.put(b"scan:%d" % number, b"%012d" % number)

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
        for cache in self.caches:
            assert len(cache) == len(self.model.ids)
            assert cache.stats() == self.model.stats()

    def teardown(self) -> None:
        for cache in getattr(self, "caches", ()):
            for key, document_id in self.model.ids.items():
                assert cache.get(key) == document_id


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
