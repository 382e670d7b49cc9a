"""Faults between the app and its services: a kill at the n-th request, a refused connection, or a lost answer."""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, override

from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import AioHttpTransport


class Killed(BaseException):
    """Raised where the worker is killed. No code of the app after this point runs."""


type Request = tuple[str, str, str]
"""Method, URL and body."""


class Wire:
    """Passes on every request of the app's clients, and causes the faults that a test asks for."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.transports: list[FaultyTransport] = []
        """Every transport of the app's clients."""
        self.refuse = False
        """Whether every connection is refused."""
        self.killed = False
        """Whether the worker was killed. It sends nothing more until `heal`."""
        self._diverted: list[tuple[Callable[[Request], bool], str]] = []
        self._kill_at: tuple[int, bool] | None = None
        self._kill_before: Callable[[Request], bool] | None = None
        self._refuse: Callable[[Request], bool] | None = None
        self._lose: list[Callable[[Request], bool]] = []
        self._before: list[tuple[Callable[[Request], bool], Callable[[], Awaitable[object]]]] = []
        self._after: list[tuple[Callable[[Request], bool], Callable[[], Awaitable[object]]]] = []

    def kill_at(self, number: int, *, answered: bool) -> None:
        """Kill the worker at the n-th request from now: before it is sent, or when its answer arrives."""
        self._kill_at = (len(self.requests) + number, answered)

    def kill_before(self, wanted: Callable[[Request], bool]) -> None:
        """Kill the worker before the next such request is sent."""
        self._kill_before = wanted

    def refuse_all(self, wanted: Callable[[Request], bool]) -> None:
        """Refuse every such request."""
        self._refuse = wanted

    def divert(self, wanted: Callable[[Request], bool], url: str) -> None:
        """Send every such request to another server."""
        self._diverted.append((wanted, url))

    def url_for(self, request: Request) -> str:
        """Return where a request is sent."""
        return next((url for wanted, url in self._diverted if wanted(request)), request[1])

    def heal(self) -> None:
        """Stop killing, refusing and diverting."""
        self.killed = False
        self._diverted.clear()
        self._kill_at = self._kill_before = self._refuse = None

    def lose_answer(self, wanted: Callable[[Request], bool]) -> None:
        """Let the next such request reach the service, and lose its answer."""
        self._lose.append(wanted)

    def stop_losing(self) -> int:
        """Return how many answers are still to be lost, and lose none of them."""
        left = len(self._lose)
        self._lose.clear()
        return left

    def after(self, wanted: Callable[[Request], bool], act: Callable[[], Awaitable[object]]) -> None:
        """Act once, right after the next such request was answered."""
        self._after.append((wanted, act))

    def before_each(self, wanted: Callable[[Request], bool], act: Callable[[], Awaitable[object]]) -> None:
        """Act before each such request is sent."""
        self._before.append((wanted, act))

    async def pass_on(self, request: Request, send: Callable[[], Awaitable[Any]]) -> Any:
        self._check_alive()
        self.requests.append(request)
        if self._kill_before and self._kill_before(request):
            self._kill()
        if self.refuse or (self._refuse and self._refuse(request)):
            raise ServiceRequestError("connection refused")
        killed, answered = self._kill_at or (0, False)
        if killed == len(self.requests) and not answered:
            self._kill()
        for _, act in [each for each in self._before if each[0](request)]:
            await act()
        answer = await send()
        self._check_alive()  # another request may have killed it meanwhile
        if killed and killed <= len(self.requests) and answered:
            self._kill()
        for lost in [each for each in self._lose if each(request)][:1]:
            self._lose.remove(lost)
            raise ServiceResponseError("the connection broke before the answer came")
        for wanted, act in [each for each in self._after if each[0](request)][:1]:
            self._after.remove((wanted, act))
            await act()
        return answer

    def _check_alive(self) -> None:
        if self.killed:
            raise Killed

    def _kill(self) -> NoReturn:
        self.killed = True
        raise Killed


def to(method: str, part: str, body: str = "") -> Callable[[Request], bool]:
    """Return a predicate for requests by method, part of the URL, and part of the body."""
    return lambda request: method in request[0] and part in request[1] and body in request[2]


class FaultyTransport(AioHttpTransport):  # type: ignore[misc]
    """The transport of one client, with the faults of a wire."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(use_env_settings=False)
        self._wire = wire
        wire.transports.append(self)

    @override
    async def send(self, request: Any, **options: Any) -> Any:
        about = (request.method, request.url, str(getattr(request, "body", "") or ""))
        request.url = self._wire.url_for(about)
        return await self._wire.pass_on(about, lambda: super(FaultyTransport, self).send(request, **options))

    @override
    async def sleep(self, duration: float) -> None:
        """Do not wait between the tries of a client."""
