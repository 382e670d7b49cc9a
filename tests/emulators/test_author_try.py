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
from localdev.keyvault import KeyVault
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


async def test_secrets_are_not_saved(desk: Desk, target: Target, vault: KeyVault, services: Services) -> None:
    """Neither as a number, nor in the URL, nor in a field for a password. The next try uses the saved answer."""
    vault.set_secret("tenants--t--crm--pin", "48213")
    registry = desk.write("""
base, token, pin = await kv.secret("crm", "base"), await kv.secret("crm", "token"), await kv.secret("crm", "pin")
await run.http.post(f"{base}/hooks/{token}/x", json={"accountId": int(pin), "password": "hunter22"})
""")

    first = await try_feed(services, registry, saves=True)
    second = await try_feed(services, registry)

    (entry,) = json.loads(desk.answers.read_text())
    assert entry["url"] == "/hooks/*/x"
    assert entry["json"] == {"id": "made-up-1", "accountId": "<crm--pin>", "password": "<password>"}
    assert [each.source for each in second.stopped] == ["answers[0]"]
    kept = "".join(file.read_text() for file in desk.root.rglob("*.json"))
    for secret in ("48213", "hunter22", "s3cr3t-token"):
        assert secret not in kept + first.stopped[0].sample


async def test_a_url_that_is_a_secret_fits_again(
    desk: Desk, target: Target, vault: KeyVault, services: Services
) -> None:
    """Its path is not shown. Other answers come first."""
    vault.set_secret("tenants--t--slack--hook", "http://slack.example/services/T0/B0")
    registry = desk.write("""
await run.http.post(await kv.secret("slack", "hook"), json={"text": "done"})
await run.http.post(f"{await kv.secret('crm', 'base')}/leads", json={})
""")

    await try_feed(services, registry, saves=True)
    second = await try_feed(services, registry)

    assert [each["url"] for each in json.loads(desk.answers.read_text())] == ["/leads", "*"]
    assert [each.source for each in second.stopped] == ["answers[1]", "answers[0]"]


async def test_a_try_that_fails_is_not_compared(desk: Desk, target: Target, services: Services) -> None:
    """The next one is compared with the last one that succeeded."""
    registry = desk.write("""
assert run.settings["limit"] == 5
await run.http.patch(f"{await kv.secret('crm', 'base')}/leads/1", json={"name": "A"})
""")
    first = await try_feed(services, registry)
    failed = await try_feed(services, registry, settings={"limit": 6})
    third = await try_feed(services, registry)

    assert (first.changes, failed.changes, third.changes) == (None, None, ())


async def test_there_is_no_comparison_with_a_try_that_sent_nothing(
    desk: Desk, target: Target, services: Services
) -> None:
    """A note says so."""
    registry = desk.write("""
if run.settings["limit"] == 6:
    await run.http.delete(await kv.secret("crm", "base"))
""")
    await try_feed(services, registry)
    found = await try_feed(services, registry, settings={"limit": 6})

    assert found.changes is None
    assert found.notes == ("the last try has stopped no request, so there is nothing to compare with",)


async def test_only_the_user_can_read_what_is_kept(desk: Desk, services: Services) -> None:
    """In `.local`, which the try makes if it is missing."""
    await try_feed(services, desk.write("pass"))

    assert [path.stat().st_mode & 0o777 for path in (desk.root / ".local", desk.root / ".local" / "try")] == [0o700] * 2


async def test_of_many_requests_some_are_left_out(desk: Desk, target: Target, services: Services) -> None:
    """Their number is given, and the last ones are kept."""
    body = """
base = await kv.secret("crm", "base")
for number in range(1012):
    await run.http.put(f"{base}/{number}", json={})
"""
    found = await try_feed(services, desk.write(body))

    assert (found.ending.outcome, len(found.stopped), found.left_out) == (Outcome.SUCCEEDED, 1010, 2)
    assert [each.pattern for each in found.stopped[999:1001]] == ["/999", "/1002"]


async def test_of_a_large_body_the_size_is_kept(desk: Desk, target: Target, services: Services) -> None:
    """And a hash, to compare it; also of a stream."""
    body = """
async def chunks():
    for _ in range(20):
        yield b"x" * 65536

base = await kv.secret("crm", "base")
await run.http.put(f"{base}/stream", content=chunks())
await run.http.put(f"{base}/leads", json={"leads": ["x" * 600_000]})
"""
    found = await try_feed(services, desk.write(body), saves=True)

    assert found.ending.outcome is Outcome.SUCCEEDED
    assert found.stopped[0].sample.startswith("(1,310,720 bytes, SHA-256 ")
    assert found.notes == ("2 of the made-up answers are too large, and were not saved",)
    (kept,) = (desk.root / ".local" / "try").iterdir()
    assert kept.stat().st_size < 2_000


class TestWithoutRun:
    FLOW = """
import httpx
async with httpx.AsyncClient() as client:
    await client.post(f"{(await kv.get_secret(f'tenants--{tenant_id}--crm--base')).value}/leads", json={})
"""

    async def test_it_is_refused(self, desk: Desk, target: Target, world: World) -> None:
        """Its requests cannot be stopped."""
        desk.write(self.FLOW, parameters="tenant_id, kv")

        shown = await command(world, "try", "feed", "--tenant", "t", "--flows", desk.package)

        assert (shown.exit_code, shown.stdout, target.requests) == (1, "", [])
        assert "flow 'feed' does not take `run`, so a try cannot stop the requests" in shown.stderr

    async def test_nothing_is_claimed_of_its_requests(self, desk: Desk, target: Target, world: World) -> None:
        """If its author asks for it nevertheless."""
        desk.write(self.FLOW, parameters="tenant_id, kv")

        shown = await command(world, "try", "feed", "--tenant", "t", "--flows", desk.package, "--unguarded")

        assert (shown.exit_code, [method for method, _, _ in target.requests]) == (0, ["POST"])
        assert shown.stdout.endswith("kept. The flow does not take run: none of its requests was stopped\n")


@pytest.mark.usefixtures("target")
class TestCommand:
    async def test_saved_files_do_not_contradict_the_end(self, desk: Desk, world: World) -> None:
        """It does not say that nothing was written."""
        desk.write("pass")

        shown = await command(world, "try", "feed", "--tenant", "t", "--flows", desk.package, "--save")

        assert "Saved: " in shown.stdout
        assert "Nothing was written" not in shown.stdout

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
        assert "No record, window or cursor was kept, and run.http has sent no request that changes" in shown.stdout

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
