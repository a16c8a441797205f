"""The table of methods."""

from __future__ import annotations

import pytest

from clipsearch.v1 import image_search_pb2 as pb
from clipsearch_server.callers import Scope
from clipsearch_server.rpc.methods import METHODS, Work

SERVICE = pb.DESCRIPTOR.services_by_name["ImageSearchService"]


def test_every_method_has_its_class_and_scope() -> None:
    assert METHODS.keys() == set(SERVICE.methods_by_name)


@pytest.mark.parametrize("name", METHODS)
def test_streams_are_bulk_work_and_nothing_else_is(name: str) -> None:
    method = SERVICE.methods_by_name[name]
    is_stream = method.client_streaming or method.server_streaming
    assert (METHODS[name].work is Work.BULK) == is_stream


@pytest.mark.parametrize("name", METHODS)
def test_what_reads_is_told_by_its_name(name: str) -> None:
    reads = name.startswith(("Query", "Embed", "Get", "List", "Export"))
    assert (METHODS[name].scope is Scope.READ) == reads
