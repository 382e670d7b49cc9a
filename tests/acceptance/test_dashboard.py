"""The routes of the dashboard, on the wire."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest_asyncio
from aiohttp import ClientSession
from yarl import URL

from tests.acceptance.conftest import App, Start
from tests.documents import document, entry
from tests.principals import principal
from tests.waiting import wait_until
from tests.world import World

FROM_PAGE = {"Content-Type": "application/json", "X-DataSync": "dashboard", "Sec-Fetch-Site": "same-origin"}
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest_asyncio.fixture
async def client(start: Start) -> AsyncGenerator[ClientSession]:
    """Run the app with its dashboard in mode `key`, and return a client of it."""
    async with start(DASHBOARD="key") as running, ClientSession(running.url) as session:
        yield session


async def data(client: ClientSession, question: str, **headers: str) -> tuple[int, Any]:
    """Return the status and the JSON of an answer, which has all the headers that keep it safe."""
    async with client.get(URL(f"/api/ops/data/{question}", encoded=True), headers=headers) as response:
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        return response.status, json.loads(await response.read())


async def act(client: ClientSession, name: str, body: bytes = b"{}", **changed: str) -> tuple[int, Any]:
    headers = {**FROM_PAGE, **{header.replace("_", "-"): text for header, text in changed.items()}}
    async with client.post(f"/api/ops/actions/{name}", data=body, headers=headers) as response:
        return response.status, json.loads(await response.read())


async def test_the_page_asks_for_everything_that_it_shows(client: ClientSession, world: World, app: App) -> None:
    """The page itself is a file without data. Each question is answered with JSON, for any names."""
    await world.put(document("acme", entry("succeeds"), entry("home-depot→builder-prime")), document("x", name=HOSTILE))

    async with client.get("/api/ops/", allow_redirects=False) as page:
        assert (page.status, page.headers["Location"]) == (308, "../ops")
    async with client.get("/api/ops/") as page:
        assert (page.status, page.url.path) == (200, "/api/ops")
        assert 'data-mode="key"' in await page.text()
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "acme" not in await page.text()
    status, fleet = await data(client, "fleet")
    assert (status, fleet["complete"]) == (200, True)
    assert {line["tenantId"] for line in fleet["lines"]} == {"acme", "x"}
    assert (await data(client, f"fleet?since={fleet['atTs'] + 60}"))[1]["lines"] == []
    assert (await data(client, "status"))[1]["flows"]["tenants"] == 2
    assert (await data(client, "incidents"))[1]["incidents"] == []
    assert (await data(client, "runs?tenant=acme&failed=1&since=24h&limit=5"))[1]["runs"] == []
    assert (await data(client, "queue"))[1]["jobs"]["length"] == 0
    assert (await data(client, "why?tenant=acme&flow=home-depot%E2%86%92builder-prime"))[1]["flowName"].startswith("h")
    assert (await data(client, "tenant?tenant=x"))[1]["document"]["name"] == HOSTILE
    assert "succeeds" in [each["name"] for each in (await data(client, "files"))[1]["flows"]]
    assert len((await data(client, "load"))[1]["providers"][0]["minutes"]) == 1440
    assert (await data(client, "me"))[1] == {"mode": "key", "name": None, "canOperate": True}
    assert not app.has_logged("Traceback")


async def test_odd_questions_get_a_sentence(client: ClientSession, app: App) -> None:
    """Nothing is ignored, and nothing ends the app."""
    for question, status in {
        "unknown": 404,
        "status?x=1": 400,
        "fleet?since=x": 400,
        "fleet?since=-1": 400,
        "fleet?since=1e400": 400,
        "fleet?since=99999999999999999999": 400,
        "runs?limit=0": 400,
        "runs?limit=1001": 400,
        "runs?limit=1&limit=2": 400,
        "runs?since=yesterday": 400,
        "runs?since=%00": 400,
        "runs?failed=maybe": 400,
        "run": 400,
        "run?run=nothing": 404,
        "tenant": 400,
        "tenant?tenant=": 400,
        "tenant?tenant=nobody": 404,
        "tenant?tenant=%FF%FE": 404,
        "tenant?tenant=%ED%A0%80": 404,
        "tenant?tenant=..%2F..%2F": 404,
        "tenant?tenant=a%00b": 404,
        "tenant?tenant=@fleet": 404,
        f"tenant?tenant={'x' * 4000}": 404,
        "why?tenant=a": 400,
        "..%2Fstatus": 404,
        "status%2F": 404,
    }.items():
        found = await data(client, question)
        assert (found[0], question) == (status, question), found
        assert list(found[1]) == ["error"]
    assert not app.has_logged("Traceback")
    async with client.get("/api/ops/assets/..%2Fblueprint.py") as asset:
        assert asset.status == 404
    for method, path in (("POST", "data/status"), ("GET", "actions/pause"), ("HEAD", ""), ("OPTIONS", "actions/pause")):
        async with client.request(method, f"/api/ops/{path}".rstrip("/")) as response:
            assert response.status == 404
            assert not [name for name in response.headers if name.lower().startswith("access-control")]


async def test_only_the_page_can_change_something(client: ClientSession) -> None:
    """Not a form, another site, or a body of any size."""
    assert (await act(client, "nothing"))[0] == 404
    assert (await act(client, "nothing", Content_Type="text/plain"))[0] == 415
    assert (await act(client, "nothing", X_DataSync="other"))[0] == 403
    assert (await act(client, "nothing", Sec_Fetch_Site="cross-site"))[0] == 403
    assert (await act(client, "nothing", b"x" * 100_000))[0] == 413
    assert (await data(client, "status", **{"Sec-Fetch-Site": "cross-site"}))[0] == 403


async def test_a_change_is_made_once_and_named_in_the_audit(client: ClientSession, world: World) -> None:
    """A repeat with the same id has the first result; a change of something else than the operator saw is refused."""
    await world.put(document("acme", entry("succeeds"), entry("fails")))
    ours = {"actionId": "a-1", "who": "Ada", "tenant": "acme", "flow": "succeeds"}

    def body(**fields: object) -> bytes:
        return json.dumps({**ours, **fields}).encode()

    assert (await act(client, "pause", body(reason="<b>", seen={"enabled": False})))[0] == 409
    assert (await data(client, "status"))[1]["flows"]["disabled"] == 0
    status, done = await act(client, "pause", body(actionId="a-2", reason="<b>", seen={"enabled": True}))
    assert (status, done["ok"], done["isRepeat"]) == (200, True, False)
    assert (await data(client, "status"))[1]["flows"]["disabled"] == 1, "an answer from before is not kept"
    assert (await world.document("acme"))["flows"][0]["pauseReason"] == "<b>"
    assert (await act(client, "pause", body(actionId="a-2", reason="<b>", seen={"enabled": True})))[1]["isRepeat"]
    assert (await act(client, "enqueue", body(actionId="a-3")))[0] == 409, "it is paused"
    assert (await act(client, "next-run", body(actionId="a-4", at="2030-01-01T00:00:00Z")))[0] == 200
    assert (await act(client, "next-run", body(actionId="a-5", at="soon")))[0] == 400
    assert (await act(client, "resume", body(actionId="a-6")))[0] == 200
    assert (await act(client, "enqueue", body(actionId="a-7")))[0] == 200
    assert (await act(client, "cursor-set", body(actionId="a-8", cursorJson=None, seenJson="null")))[0] in (200, 409)
    for name in ("retry", "purge"):
        dead = json.dumps({"actionId": f"a-{name}", "who": "Ada", "tenant": "acme", "count": 1}).encode()
        assert (await act(client, name, dead))[0] == 409, "no run is dead"
    gate = json.dumps({"actionId": "a-9", "who": "Ada", "provider": "homedepot", "untilUtc": None}).encode()
    assert (await act(client, "gate-open", gate))[0] == 200
    assert (await act(client, "pause", body(actionId="a-10", tenant="nobody", reason="")))[0] == 404
    assert (await act(client, "enqueue", body(actionId="a-11", flow="other")))[0] == 404
    lines = (await data(client, "audit?tenant=acme&limit=50"))[1]["actions"]
    assert {line["who"] for line in lines} == {"key: Ada"}
    assert {line["via"] for line in lines} == {"dashboard"}


async def test_odd_changes_get_a_sentence(client: ClientSession, app: App) -> None:
    """Not JSON, not an object, without an id or a name, or with more than the change has."""
    good = {"actionId": "a-1", "who": "Ada", "tenant": "acme", "flow": "succeeds"}
    odd = [
        b"", b"{", b"null", b"[]", b"[" * 60_000, b"\xff\xfe", b'{"actionId": "\xed\xa0\x80"}',
        *(json.dumps({name: value for name, value in good.items() if name != left}).encode() for left in good),
        *(
            json.dumps({**good, **changed}).encode()
            for changed in list[dict[str, Any]]((
                {"x": 1}, {"actionId": ""}, {"actionId": "a b"}, {"actionId": 1}, {"actionId": "x" * 101},
                {"who": " "}, {"who": "x" * 201}, {"who": "a\nb"}, {"who": None}, {"tenant": 7}, {"tenant": None},
                {"seen": []},
            ))
        ),
    ]  # fmt: skip
    for body in odd:
        status, found = await act(client, "enqueue", body)
        assert (status, list(found)) == (400, ["error"]), body[:100]
    assert not app.has_logged("Traceback")


async def test_nothing_is_shown_while_the_authentication_is_off(start: Start) -> None:
    """A client can send the header of a signed-in person itself."""
    async with start(DASHBOARD="entra") as running, ClientSession(running.url) as client:
        forged = {"X-MS-CLIENT-PRINCIPAL": principal("Operator")}
        assert (await data(client, "status", **forged))[0] == 403
        assert (await act(client, "nothing", X_MS_CLIENT_PRINCIPAL=principal("Operator")))[0] == 403
        for path in ("/api/ops", "/api/ops/assets/index.html"):
            async with client.get(path, headers=forged) as response:
                assert response.status == 403
                assert "turn it on" in (await response.json())["error"]


async def test_the_app_roles_decide(start: Start) -> None:
    """Nobody without a sign-in, readers read, operators change."""
    async with start(DASHBOARD="entra", WEBSITE_AUTH_ENABLED="True") as running, ClientSession(running.url) as client:
        nobody, stranger = await data(client, "status"), {"X-MS-CLIENT-PRINCIPAL": principal("Other")}
        assert (nobody[0], nobody[1]) == (401, {"error": "nobody is signed in. Load the page again to sign in"})
        assert (await data(client, "status", **stranger))[0] == 403
        reading = await data(client, "me", **{"X-MS-CLIENT-PRINCIPAL": principal("Reader")})
        assert reading[1] == {"mode": "entra", "name": "ada@acme.example", "canOperate": False}
        assert (await act(client, "nothing", X_MS_CLIENT_PRINCIPAL=principal("Reader")))[0] == 403
        asked = {"actionId": "a", "tenant": "t", "flow": "f"}
        found = [
            await act(client, "enqueue", json.dumps(body).encode(), X_MS_CLIENT_PRINCIPAL=principal("Operator"))
            for body in (asked, {**asked, "who": "Bob"})
        ]
        assert [status for status, _ in found] == [404, 400], "an operator does not choose the name"


async def test_a_service_that_is_away_is_a_sentence(start: Start, app: App) -> None:
    """The page says which, and the monitor learns no address."""
    away = "AccountEndpoint=http://127.0.0.1:1/;AccountKey=c2VjcmV0;"
    async with start(DASHBOARD="key", COSMOS_CONNECTION_STRING=away) as running, ClientSession(running.url) as client:
        status, found = await data(client, "fleet")
        assert (status, "Cosmos DB" in found["error"], "c2VjcmV0" in found["error"]) == (503, True, False)
        async with client.get("/api/ops/health") as health:
            assert health.status == 503
            assert await health.json() == {"isWell": False, "problems": ["Cosmos DB cannot be read."]}
    assert not app.has_logged("c2VjcmV0")


async def test_wrong_settings_are_a_sentence(start: Start) -> None:
    """The page names the setting."""
    async with start(DASHBOARD="key", RUN_RETENTION_DAYS="many") as running, ClientSession(running.url) as client:
        status, found = await data(client, "status")
        assert (status, "RUN_RETENTION_DAYS" in found["error"]) == (503, True)
        async with client.get("/api/ops/health") as health:
            assert (await health.json())["problems"] == ["The app settings are not valid: the log has the reasons."]


async def test_without_a_dashboard_there_is_the_health_alone(start: Start, world: World) -> None:
    """It is 503 until a tick has started, and says nothing about tenants."""
    await world.put(document("acme", entry("succeeds", nextRunUtc=None)))
    async with start() as running, ClientSession(running.url) as client:
        async with client.get("/api/ops/health") as health:
            assert health.status == 503
            text = await health.text()
            assert json.loads(text) == {"isWell": False, "problems": ["Two ticks in a row have not started."]}
        async with client.head("/api/ops/health") as health:
            assert health.status == 503
        for path in ("", "/assets/index.html", "/data/status", "/data/me"):
            async with client.get(f"/api/ops{path}") as response:
                assert response.status == 404
        await running.invoke("orchestrator")

        async def is_well() -> bool:
            async with client.get("/api/ops/health") as health:
                return health.status == 200

        await wait_until(is_well, description="a tick has started, and the kept answer is old", seconds=60)
