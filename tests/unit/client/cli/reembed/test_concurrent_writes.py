"""What others write while `clipsearch reembed` runs is in the collection that it switches to."""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import Event

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipsearch import SearchClient
from clipsearch.cli.reembed.job import Job, Options
from clipsearch.cli.reembed.originals import Originals
from clipsearch.cli.reembed.plan import make_plan
from clipsearch.cli.reembed.survey import survey
from clipsearch.cli.session import Server
from clipsearch.v1 import image_search_pb2 as pb
from unit.client.cli.reembed.library import NEW, Library, embedding_of, id_of, serve
from unit.client.scripted_service import ScriptedService

IDS = range(6)
LATE_IDS = range(6, 9)  # of what the old collection gets after the switch
CONTENTS = 4  # fewer than ids: some are equal

# An id with the number of its content and of its uri; None deletes it.
writes = st.lists(
    st.tuples(
        st.integers(0, 8),  # calls that pass before it
        st.sampled_from(IDS),
        st.none() | st.tuples(st.integers(0, CONTENTS - 1), st.integers(0, 1)),
    ),
    max_size=20,
)


class Others:
    """Writes to the alias, by a schedule of the calls that the server gets; ``expected`` is what
    a server that knew of no second collection would hold."""

    def __init__(self, library: Library, schedule: list[tuple[int, int, tuple[int, int] | None]]):
        self.expected: dict[str, tuple[str, str]] = {}
        # What the new collection lacks at the switch. To delete that is as if it had never been
        # there, which is what the command then takes it for.
        self.unseen: set[int] = set()
        self._library = library
        self._schedule = schedule
        self._calls = 0

    def write(self, number: int, image: tuple[int, int] | None, collection: str = "") -> None:
        image_id = id_of(number)
        if image is None and number in self.unseen:
            return
        if image is not None and self._is_switched and self._leaves_no_trace(number, image):
            return
        if image is None:
            if self._library.remove(collection, image_id):  # else the caller was told so
                self.expected.pop(image_id, None)
            return
        content, uri = f"content {image[0]}".encode(), f"uri {image[1]}"
        policy, self._library.duplicates = self._library.duplicates, "allow"
        url = f"https://example.com/{image[0]}"
        self._library.web[url] = content
        self._library.put(collection, pb.AddImageRequest(id=image_id, url=url, uri=uri))
        self._library.duplicates = policy
        self.expected[image_id] = (hashlib.sha256(content).hexdigest(), uri)

    @property
    def _is_switched(self) -> bool:
        return self._library.aliases["images"] != "images-1"

    def _leaves_no_trace(self, number: int, image: tuple[int, int]) -> bool:
        """Whether the image was changed in the old collection after the last look and is now put
        back as the new one still has it: which changes nothing there, and so cannot be seen."""
        image_id = id_of(number)
        there = self._library.images["images-2"].get(image_id)
        wanted = (hashlib.sha256(f"content {image[0]}".encode()).hexdigest(), f"uri {image[1]}")
        is_same = there is not None and (there.sha256, there.uri) == wanted
        return is_same and self.expected.get(image_id) != wanted

    def before(self, method: str) -> None:
        # Between the last look at an image and its overwriting there is no place for others'
        # writes in a test; a server has no way to refuse them.
        if self._is_switched and method != "GetImage":
            return
        self._calls += 1
        while self._schedule and self._calls > self._schedule[0][0]:
            _, number, image = self._schedule.pop(0)
            self._calls = 0
            self.write(number, image)


def reembed(target: str, folder: Path) -> None:
    """The command without its command line, which takes longer than all the rest."""
    options = Options(
        headers={},
        max_in_flight=1,
        wait_s=10,
        settle_s=0,
        allow_missing=False,
        failures=folder / "failures",
        as_json=False,
    )
    server = Server(target=target, timeout_s=10, tls=False, ca_file=None)
    with SearchClient(target) as client:
        plan = make_plan(client, source="", model="new", target="", keep_alias=False)
        originals = Originals(None, max_bytes=10_000)
        job = Job(server, plan, survey(client, plan), originals, options, Event())
        assert job.run(client)


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    first=st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, CONTENTS - 1)), max_size=8),
    meanwhile=writes,
    at_switch=writes,
    late=st.lists(st.tuples(st.sampled_from(LATE_IDS), st.integers(0, CONTENTS - 1)), max_size=3),
)
def test_nothing_that_is_written_meanwhile_is_lost(
    first: list[tuple[int, int]],
    meanwhile: list[tuple[int, int, tuple[int, int] | None]],
    at_switch: list[tuple[int, int, tuple[int, int] | None]],
    late: list[tuple[int, int]],
    service: ScriptedService,
    tmp_path: Path,
) -> None:
    library = serve(service, Library())
    others = Others(library, meanwhile)
    for number, content in first:
        others.write(number, (content, 0))
    library.before = others.before
    switch = library.SetAlias

    def switch_between_writes(request: object, context: object) -> object:
        for _, number, image in at_switch[::2]:
            others.write(number, image)
        answer = switch(request, context)
        others.unseen = {it for it in IDS if id_of(it) not in library.images["images-2"]}
        for _, number, image in at_switch[1::2]:
            others.write(number, image)
        for number, content in late:
            others.write(number, (content, 1), "images-1")
        return answer

    library.SetAlias = switch_between_writes  # type: ignore[method-assign]
    serve(service, library)
    reembed(service.target, tmp_path)
    found = library.images["images-2"]
    assert {it.id: (it.sha256, it.uri) for it in found.values()} == others.expected
    for image in found.values():
        assert library.embeddings["images-2"][image.id] == embedding_of(image.sha256, NEW)
