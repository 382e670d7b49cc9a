"""`python -m datasync try`: a run of a flow that writes nothing, with an API on this machine."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace
from vcr.persisters.filesystem import FilesystemPersister
from vcr.serializers import yamlserializer

from datasync import FlowRegistry
from datasync.author.attempt import Wish
from datasync.author.trial import Trial, trial
from datasync.model.run import Outcome, RunWindow
from datasync.services import Services
from tests.authoring import Desk, Target
from tests.deliveries import NOW
from tests.documents import document, entry
from tests.operating import command, settings_file
from tests.world import World

HOUR = timedelta(hours=1)

COPY = """
base, token = await kv.secret("crm", "base"), await kv.secret("crm", "token")
items = (await run.http.get(f"{base}/items")).json()["items"]
await run.http.post(f"{base}/search", json={"all": True}, extensions=READ)
made = await run.http.post(f"{base}/leads", json={"token": token, "leads": [{"id": n} for n in items]})
run.count(items=len(items), leads=made.json()["created"])
"""


@pytest_asyncio.fixture(autouse=True)
async def tenant(world: World, services: Services) -> None:
    """Store a tenant with an entry for the flow, and the state of a flow that has run."""
    await world.put(document("t", entry("feed", settings={"limit": 5})))
    state = await services.runs.state("t", ("feed",))
    await services.runs.save(replace(state, window_end_utc=NOW - HOUR, cursor={"page": 3}))


async def try_feed(services: Services, registry: FlowRegistry, **options: Any) -> Trial:
    own = {name: options.pop(name) for name in ("cursor", "saves") if name in options}
    return await trial(services, registry, Wish(tenant_id="t", flow="feed", **options), NOW, **own)


def answer(desk: Desk, *entries: dict[str, Any]) -> None:
    desk.answers.parent.mkdir(parents=True, exist_ok=True)
    desk.answers.write_text(json.dumps(entries))


async def stored(world: World) -> list[str]:
    """Return everything that the app has stored, with the ETags, and the messages on its queues."""
    documents = [
        json.dumps(dict(item), sort_keys=True)
        for container in (world.tenants, world.runs)
        async for item in container.query_items("SELECT * FROM c")
    ]
    queues = [(await each.get_queue_properties()).approximate_message_count for each in (world.jobs, world.poison)]
    return [*sorted(documents), str(queues)]


class TestWritesNothing:
    async def test_the_services_and_the_api_are_as_before(
        self, desk: Desk, target: Target, services: Services, world: World
    ) -> None:
        """All documents keep their ETags. The API gets the requests that read, and a POST with READ."""
        before = await stored(world)
        answer(desk, {"method": "POST", "url": "/leads", "status": 201, "json": {"created": 3}})

        found = await try_feed(services, desk.write(COPY))

        assert await stored(world) == before
        assert [(method, path) for method, path, _ in target.requests] == [("GET", "/items"), ("POST", "/search")]
        assert (found.ending.outcome, found.ending.counts) == (Outcome.SUCCEEDED, {"items": 3, "leads": 3})
        (stopped,) = found.stopped
        assert (stopped.method, stopped.items, stopped.status) == ("POST", 3, 201)
        assert stopped.source == "answers[0]"
        assert stopped.sample == '{"id":1}'

    @pytest.mark.parametrize(
        "body",
        [
            "raise RuntimeError('broken')",
            "raise RetryLater(timedelta(hours=1), 'later')",
            "raise Continue(window_end=run.window.end)",
            "raise GiveUp('no contract')",
            "run.cursor = 1\nawait run.checkpoint()\nrun.cursor = 2",
        ],
    )
    async def test_however_it_ends(self, desk: Desk, services: Services, world: World, body: str) -> None:
        """A failure, a signal or a checkpoint leaves no trace either."""
        before = await stored(world)

        await try_feed(services, desk.write(body))

        assert await stored(world) == before

    async def test_a_checkpoint_is_shown(self, desk: Desk, services: Services) -> None:
        """And what the app would keep at the end."""
        found = await try_feed(services, desk.write("run.cursor = 1\nawait run.checkpoint()\nrun.cursor = 2"))

        assert (found.kept, found.ending.cursor_before, found.ending.cursor) == ((1,), {"page": 3}, 2)


async def test_it_reads_what_a_run_would(desk: Desk, services: Services) -> None:
    """The settings, the window and the cursor."""
    registry = desk.write("assert run.settings == {'limit': 5}\nassert run.cursor == {'page': 3}")

    found = await try_feed(services, registry)

    assert found.ending.outcome is Outcome.SUCCEEDED
    assert found.ending.window == RunWindow(NOW - HOUR, NOW)


async def test_its_author_can_choose_them(desk: Desk, services: Services) -> None:
    """For this try only."""
    registry = desk.write("assert run.settings == {'limit': 1}\nassert run.cursor is None")

    found = await try_feed(
        services, registry, settings={"limit": 1}, cursor=None, since=NOW - 2 * HOUR, until=NOW - HOUR
    )

    assert found.ending.outcome is Outcome.SUCCEEDED
    assert found.ending.window == RunWindow(NOW - 2 * HOUR, NOW - HOUR)


async def test_no_secret_is_shown_or_kept(desk: Desk, target: Target, services: Services) -> None:
    """Neither in the list of requests, nor in the file for the next comparison."""
    body = """
base, token = await kv.secret("crm", "base"), await kv.secret("crm", "token")
await run.http.put(f"{base}/{token}", json={"token": token})
"""
    found = await try_feed(services, desk.write(body))

    (kept,) = (desk.root / ".local" / "try").iterdir()
    assert found.stopped[0].sample == '{"token":"<crm--token>"}'
    assert found.stopped[0].url == "<crm--base>/<crm--token>"
    assert "s3cr3t-token" not in kept.read_text()


async def test_the_requests_are_compared_with_the_last_try(desk: Desk, target: Target, services: Services) -> None:
    """None the first time, nothing if they are the same, else the lines that differ."""
    registry = desk.write(
        'base = await kv.secret("crm", "base")\n'
        'await run.http.patch(f"{base}/leads/1", json={"name": "A", "limit": run.settings["limit"]})'
    )

    first, second = await try_feed(services, registry), await try_feed(services, registry)
    third = await try_feed(services, registry, settings={"limit": 6})

    assert (first.changes, second.changes) == (None, ())
    assert third.changes is not None
    assert [line for line in third.changes if line[0] in "+-"] == ['- "limit": 5', '+ "limit": 6']


async def test_it_can_be_saved_for_tests(desk: Desk, target: Target, services: Services) -> None:
    """The exchanges as a cassette that vcrpy reads, and the made-up answers. The next try uses these."""
    registry = desk.write(COPY.replace('leads=made.json()["created"]', 'leads=len(made.json()["leads"])'))

    first = await try_feed(services, registry, saves=True)
    second = await try_feed(services, registry, saves=True)

    cassette, answers = first.saved
    assert cassette == desk.answers.parent / "cassettes" / "test_feed" / "test_try_t.yaml"
    requests, _ = FilesystemPersister.load_cassette(str(cassette), yamlserializer)
    assert [each.method for each in requests] == ["GET", "POST", "POST"]
    assert json.loads(answers.read_text()) == [
        {
            "method": "POST",
            "url": "/leads",
            "status": 201,
            "json": {"id": "made-up-1", "token": "<crm--token>", "leads": [{"id": 1}, {"id": 2}, {"id": 3}]},
        }
    ]
    assert "s3cr3t-token" not in cassette.read_text()
    assert [each.source for each in second.stopped] == ["answers[0]"]
    assert second.saved == (cassette,)


@pytest.mark.usefixtures("target")
class TestCommand:
    async def test_a_made_up_answer_that_did_not_fit_is_named(self, desk: Desk, world: World) -> None:
        """With the file and the entry to put into it."""
        desk.write(COPY)

        shown = await command(world, "try", "feed", "--tenant", "t", "--flows", desk.package)

        assert shown.exit_code == 1
        assert "FAIL t/feed (KeyError: 'created') http=2 stopped=1\n" in shown.stdout
        assert "stopped: POST <crm--base>/leads, 3 items, answered 201 (made up)\n" in shown.stdout
        assert "failed after an answer that was made up, that to POST <crm--base>/leads" in shown.stdout
        assert f"put a list of them into {desk.answers}, such as\n" in shown.stdout
        assert '[{"method": "POST", "url": "/leads", "status": 201, "json": {}}]' in shown.stdout
        assert "Nothing was written" in shown.stdout

    async def test_settings_of_the_run_and_of_the_app_are_two_options(
        self, desk: Desk, world: World, tmp_path: Path
    ) -> None:
        """`--with` and `--settings` can be given together."""
        desk.write("run.count(limit=run.settings['limit'])")
        options = ("--with", '{"limit": 9}', "--settings", settings_file(tmp_path, world))

        shown = await command(world, "try", "feed", "--tenant", "t", "--flows", desk.package, *options)

        assert (shown.exit_code, " limit=9 " in shown.stdout) == (0, True)

    async def test_json_has_everything(self, desk: Desk, world: World) -> None:
        """For tools."""
        desk.write(COPY)
        answer(desk, {"method": "POST", "url": "*/leads", "status": 201, "json": {"created": 3}})

        shown = await command(world, "try", "feed", "--tenant", "t", "--flows", desk.package, "--json")

        content = json.loads(shown.stdout)
        assert (shown.exit_code, content["outcome"], content["counts"]["leads"]) == (0, "succeeded", 3)
        assert [each["source"] for each in content["stopped"]] == ["answers[0]"]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            ("[{", "is not JSON in UTF-8"),
            ('{"method": "POST"}', "expected a list"),
            ('[{"method": "POST"}]', "answers[0].url: missing; expected a URL or a path"),
            ('[{"method": "post", "url": "/x"}]', "answers[0].method: expected a method in capitals"),
            ('[{"method": "GET", "url": "/x"}]', "a GET is sent to the API"),
            ('[{"method": "PUT", "url": "x"}]', "must begin with '/'"),
            ('[{"method": "PUT", "url": "/x", "status": 99}]', "answers[0].status: expected an HTTP status"),
            ('[{"method": "PUT", "url": "/x", "body": 1}]', "answers[0].body"),
            ('[{"method": "PUT", "url": "/x", "json": 1, "text": "1"}]', "json or text, not both"),
        ],
    )
    async def test_a_mistake_in_the_answers_is_explained(
        self, desk: Desk, world: World, content: str, why: str
    ) -> None:
        """With the file and the entry, before the flow is called."""
        desk.write("raise AssertionError")
        answer(desk)
        desk.answers.write_text(content)

        shown = await command(world, "try", "feed", "--tenant", "t", "--flows", desk.package)

        assert (shown.exit_code, shown.stdout) == (2, "")
        assert str(desk.answers) in shown.stderr
        assert why in shown.stderr

    @pytest.mark.parametrize(
        ("body", "code", "line"),
        [
            ("raise Continue()", 0, "DONE t/feed (Continue: the next part would follow)"),
            ("raise GiveUp('no contract')", 1, "GAVE_UP t/feed (the run would end, and the next one would come as"),
            ("raise RetryLater(timedelta(hours=1))", 1, "DEFERRED t/feed (the run would be attempted again after 1 h"),
        ],
    )
    async def test_a_signal_is_explained(self, desk: Desk, world: World, body: str, code: int, line: str) -> None:
        """By what the app would do."""
        desk.write(body)

        shown = await command(world, "try", "feed", "--tenant", "t", "--flows", desk.package)

        assert (shown.exit_code, shown.stdout.startswith(line)) == (code, True)
