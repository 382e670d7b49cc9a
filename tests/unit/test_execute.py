"""A flow runs in a task of its own: it returns, raises, is cancelled or abandoned, and never harms the other flows."""

import asyncio
import gc
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from datasync.clock import Clock
from datasync.flow.log import RunLog
from datasync.flow.redact import Redaction
from datasync.flow.secrets import Vault
from datasync.flow.watchdog import Watchdog
from datasync.run.execute import Execution, How, execute
from tests.waiting import wait_until

LONG = timedelta(seconds=30)
SHORT = timedelta(seconds=0.1)

type Flow = Callable[[], Awaitable[object]]
type Start = Callable[..., Coroutine[Any, Any, Execution]]


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """Return `execute` with a long timeout, a short grace and a watchdog that keeps blocks of 0.2 s and more."""
    loop = asyncio.get_running_loop()
    factory, hook = loop.get_task_factory(), threading.excepthook
    watchdog = Watchdog(Clock(), threshold=timedelta(seconds=0.2))

    def call(flow: Flow, **options: Any) -> Coroutine[Any, Any, Execution]:
        return execute(
            flow,
            **{
                "subject": "acme/test",
                "timeout": LONG,
                "stop": loop.create_future(),
                "watchdog": watchdog,
                "log": RunLog("acme/test", {}, Redaction()),
                "grace": LONG,
                **options,
            },
        )

    yield call
    watchdog.stop()
    loop.set_task_factory(factory)
    loop.set_exception_handler(None)
    threading.excepthook = hook


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


class Events:
    """The events in the flows of a test, in their order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def until_cancelled(self, name: str = "cancelled") -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            self.names.append(name)
            raise


@pytest.fixture
def events() -> Events:
    return Events()


# --- the flow ends by itself


async def test_a_flow_that_returns(start: Start) -> None:
    """The value is ignored."""

    async def flow() -> int:
        await asyncio.sleep(0)
        return 3

    assert await start(flow) == Execution(how=How.RETURNED)


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await forever()


async def cancels_itself_and_returns() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def raises_cancelled() -> None:
    raise asyncio.CancelledError


async def exits() -> None:
    sys.exit("enough")


async def exits_in_the_middle() -> None:
    await asyncio.sleep(0)
    sys.exit("enough")


async def interrupts() -> None:
    raise KeyboardInterrupt


async def exits_generator() -> None:
    raise GeneratorExit


async def divides() -> float:
    return 1 / 0


async def recurses() -> None:
    await recurses()


async def allocates() -> None:
    bytearray(sys.maxsize)


async def exits_in_a_thread() -> None:
    await asyncio.to_thread(sys.exit, "enough")


async def exits_in_a_task() -> None:
    await asyncio.create_task(exits())


async def exits_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(forever())
        group.create_task(exits_in_the_middle())


async def exits_in_gather() -> None:
    await asyncio.gather(forever(), exits_in_the_middle(), return_exceptions=True)


async def exits_in_a_task_that_nobody_awaits() -> None:
    task = asyncio.create_task(exits())
    await forever()
    del task


async def exits_in_a_task_of_a_task() -> None:
    await asyncio.create_task(exits_in_a_task_that_nobody_awaits())


async def exits_in_a_task_and_returns() -> None:
    task = asyncio.create_task(exits())
    await asyncio.sleep(0)
    del task


async def exits_in_a_task_and_ignores_the_cancellation() -> None:
    try:
        await asyncio.create_task(exits())
    except asyncio.CancelledError:
        return


async def exits_in_a_task_when_it_is_cancelled() -> None:
    async def child() -> None:
        try:
            await forever()
        finally:
            sys.exit("enough")

    task = asyncio.create_task(child())
    await asyncio.sleep(0)
    del task


async def exits_in_a_task_with_its_own_context() -> None:
    await asyncio.create_task(exits(), name="mine", context=Context())


MISBEHAVIOUR: list[tuple[Flow, type[BaseException]]] = [
    (divides, ZeroDivisionError),
    (cancels_itself, asyncio.CancelledError),
    (cancels_itself_and_returns, asyncio.CancelledError),
    (raises_cancelled, asyncio.CancelledError),
    (exits, SystemExit),
    (exits_in_the_middle, SystemExit),
    (interrupts, KeyboardInterrupt),
    (exits_generator, GeneratorExit),
    (recurses, RecursionError),
    (allocates, MemoryError),
    (exits_in_a_thread, SystemExit),
    (exits_in_a_task, SystemExit),
    (exits_in_a_group, SystemExit),
    (exits_in_gather, SystemExit),
    (exits_in_a_task_that_nobody_awaits, SystemExit),
    (exits_in_a_task_of_a_task, SystemExit),
    (exits_in_a_task_and_returns, SystemExit),
    (exits_in_a_task_and_ignores_the_cancellation, SystemExit),
    (exits_in_a_task_when_it_is_cancelled, SystemExit),
    (exits_in_a_task_with_its_own_context, SystemExit),
]


@pytest.mark.parametrize(("flow", "error"), MISBEHAVIOUR, ids=lambda value: value.__name__)
async def test_an_exception_is_returned_and_harms_no_other_flow(
    start: Start, flow: Flow, error: type[BaseException]
) -> None:
    """The event loop goes on, and the flows beside it return. A task's SystemExit is a failure of its run."""
    release = asyncio.Event()

    async def innocent() -> None:
        await asyncio.create_task(release.wait())

    others = [asyncio.create_task(start(innocent, subject=f"acme/{n}")) for n in range(3)]
    ended = await start(flow)
    release.set()

    assert (ended.how, type(ended.error), ended.abandoned) == (How.RAISED, error, ())
    assert await asyncio.gather(*others) == [Execution(how=How.RETURNED)] * 3


async def test_the_exception_has_its_traceback(start: Start) -> None:
    """The record of a failure shows the line of the flow."""
    ended = await start(exits_in_a_task)

    assert ended.error is not None
    traceback = ended.error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    assert traceback is not None
    assert traceback.tb_frame.f_code.co_name == "exits"


async def test_a_call_that_raises_before_it_returns_a_coroutine(start: Start) -> None:
    """Such a function is a flow that failed."""

    def flow() -> Coroutine[Any, Any, None]:
        raise TypeError("missing argument")

    ended = await start(flow)

    assert (ended.how, type(ended.error)) == (How.RAISED, TypeError)


async def test_an_exception_that_nobody_reads_is_logged_without_secrets(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A task may fail while the flow goes on, or after its end. asyncio itself would print the exception as it is."""
    redact = Redaction()
    redact.add("crm--token", "s3cret-token")
    go_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def failing() -> None:
        raise ValueError("refused s3cret-token")

    async def failing_late() -> None:
        with suppress(asyncio.CancelledError):
            await forever()
        await go_on
        raise ValueError("late s3cret-token")

    async def flow() -> None:
        tasks.append(asyncio.create_task(failing_late()))
        failed = asyncio.create_task(failing())
        await asyncio.wait([failed])

    tasks = list[asyncio.Task[None]]()
    await start(flow, log=RunLog("acme/test", {}, redact), grace=SHORT)
    go_on.set_result(None)
    await asyncio.wait(tasks)
    tasks.clear()
    gc.collect()

    assert "acme/test: Task exception was never retrieved" in caplog.text
    assert "ValueError: refused <crm--token>" in caplog.text
    assert "ValueError: late <crm--token>" in caplog.text
    assert "s3cret" not in caplog.text


def broken(*_: object) -> None:
    raise ValueError("refused s3cret-token")


async def gathered() -> None:
    broken()


@pytest.mark.parametrize(
    "leave",
    [
        lambda: [asyncio.gather(gathered(), gathered())],
        lambda: [asyncio.shield(gathered())],
        lambda: [asyncio.get_running_loop().run_in_executor(None, broken)],
        lambda: [asyncio.get_running_loop().call_soon(partial(broken, "s3cret-token"), context=Context())],
    ],
    ids=["gather", "shield", "executor", "callback"],
)
async def test_an_exception_of_no_known_run_is_reported_without_its_text(
    start: Start, caplog: pytest.LogCaptureFixture, leave: Callable[[], list[object]]
) -> None:
    """A future has no context, so the secrets that may be in its exception are not known."""

    async def flow() -> None:
        left.extend(leave())
        await wait_until(lambda: not isinstance(left[0], asyncio.Future) or left[0].done(), description="it is done")

    left = list[object]()
    await start(flow)
    left.clear()
    gc.collect()
    await wait_until(lambda: "Its text is left out" in caplog.text, description="the exception is reported")

    assert "ValueError. Its text is left out" in caplog.text
    assert "in broken" in caplog.text
    assert "s3cret-token" not in caplog.text.replace('ValueError("refused s3cret-token")', "")  # a line of this file


async def test_an_exception_in_a_thread_is_reported_without_its_text(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that a flow has started does not know the run."""
    ended = list[threading.ExceptHookArgs]()
    monkeypatch.setattr(threading, "excepthook", ended.append)

    async def flow() -> None:
        thread = threading.Thread(target=broken)
        thread.start()
        await asyncio.to_thread(thread.join)

    await start(flow)

    (error,) = [each.exc_value for each in ended]
    assert "ValueError. Its text is left out" in str(error)
    assert "s3cret-token" not in str(error)
    assert error is not None
    assert (error.__cause__, error.__context__) == (None, None)


async def test_tasks_outside_of_runs_are_reported_as_before(start: Start) -> None:
    """The handler of the loop that was there first gets them."""
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))

    async def flow() -> None:
        pass

    await start(flow)
    loop.call_exception_handler({"message": "of the app"})

    assert reported == [{"message": "of the app"}]


# --- the flow must end


async def test_a_flow_is_cancelled_after_its_timeout(start: Start, events: Events) -> None:
    """Its `finally` and `except` blocks run."""
    ended = await start(events.until_cancelled, timeout=SHORT)

    assert ended == Execution(how=How.TIMED_OUT)
    assert events.names == ["cancelled"]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_flow_that_catches_the_cancellation_has_timed_out(start: Start, fails: bool) -> None:  # noqa: FBT001
    """It makes no difference whether it then returns or raises. asyncio does not report the exception as unread."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    async def flow() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            if fails:
                raise RuntimeError("no") from None

    assert await start(flow, timeout=SHORT) == Execution(how=How.TIMED_OUT)
    gc.collect()
    assert reported == []


async def test_a_flow_is_cancelled_when_it_must_stop(start: Start, events: Events) -> None:
    """The reason, for example a lost lease, is the error."""
    stop: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    lost = RuntimeError("the lease was lost")
    running = asyncio.create_task(start(events.until_cancelled, stop=stop))
    await asyncio.sleep(0)

    stop.set_result(lost)

    assert await running == Execution(how=How.STOPPED, error=lost)
    assert events.names == ["cancelled"]


async def test_a_cancellation_of_the_invocation_is_a_value(start: Start, events: Events) -> None:
    """The caller can await, record the end, and raise."""
    ready = asyncio.Event()
    recorded: list[object] = []

    async def flow() -> None:
        ready.set()
        await events.until_cancelled()

    async def invocation() -> None:
        ended = await start(flow)
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
        task = asyncio.current_task()
        recorded.append((ended.how, task and task.cancelling()))
        raise asyncio.CancelledError

    running = asyncio.create_task(invocation())
    await ready.wait()
    running.cancel()
    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()
    assert recorded == [(How.CANCELLED, 0)]
    assert events.names == ["cancelled"]


async def test_a_cancellation_before_the_flow_starts(start: Start) -> None:
    """The flow is not called."""
    called: list[str] = []

    async def flow() -> None:
        called.append("flow")

    running = asyncio.create_task(start(flow))
    running.cancel()
    await asyncio.wait([running])

    assert running.cancelled()
    assert called == []


async def test_a_flow_that_has_returned_when_the_cancellation_comes_has_returned(start: Start) -> None:
    """Its effects are complete, so it is not repeated."""

    async def flow() -> None:
        asyncio.get_running_loop().call_soon(running.cancel)

    running = asyncio.create_task(start(flow))

    assert await running == Execution(how=How.RETURNED)


async def test_a_flow_that_cancels_every_task(start: Start) -> None:
    """Each run on the loop ends as cancelled, and the loop goes on."""
    loop = asyncio.get_running_loop()
    spared = asyncio.all_tasks()
    ready = asyncio.Event()

    async def culprit() -> None:
        await ready.wait()
        for task in asyncio.all_tasks(loop) - spared:
            task.cancel()
        await forever()

    async def innocent() -> None:
        ready.set()
        await forever()

    runs = [asyncio.create_task(start(culprit)), *(asyncio.create_task(start(innocent)) for _ in range(3))]
    await asyncio.wait(runs)

    assert [run.result().how for run in runs] == [How.CANCELLED] * 4


# --- the flow ignores the cancellation


def stubborn(end: asyncio.Event) -> Callable[[], Coroutine[Any, Any, None]]:
    """Return a flow that ignores cancellations until the event."""

    async def flow() -> None:
        while not end.is_set():
            try:
                await end.wait()
            except asyncio.CancelledError:
                continue

    return flow


async def test_a_flow_that_ignores_the_cancellation_is_abandoned(start: Start) -> None:
    """After the grace, the task is returned, so that the caller can keep the lease while it runs."""
    end = asyncio.Event()

    ended = await start(stubborn(end), timeout=SHORT, grace=SHORT)

    (task,) = ended.abandoned
    assert ended.how is How.TIMED_OUT
    assert not task.done()
    end.set()
    await asyncio.wait([task])


async def test_a_flow_that_ends_within_the_grace_is_not_abandoned(start: Start, events: Events) -> None:
    """Its cleanup can await."""

    async def flow() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            events.names.append("cleaned up")

    ended = await start(flow, timeout=SHORT)

    assert ended == Execution(how=How.TIMED_OUT)
    assert events.names == ["cleaned up"]


async def test_a_cancellation_of_the_invocation_does_not_shorten_the_grace(start: Start, events: Events) -> None:
    """The flow finishes its cleanup, and the reason for its end stays."""
    cleaning, go = asyncio.Event(), asyncio.Event()

    async def flow() -> None:
        try:
            await forever()
        finally:
            cleaning.set()
            await go.wait()
            events.names.append("cleaned up")

    running = asyncio.create_task(start(flow, timeout=SHORT))
    await cleaning.wait()
    running.cancel()
    await asyncio.sleep(0)
    go.set()

    assert await running == Execution(how=How.TIMED_OUT)
    assert events.names == ["cleaned up"]


# --- the tasks that the flow leaves behind


async def test_tasks_that_a_flow_leaves_behind_are_cancelled(start: Start, events: Events) -> None:
    """They would use the HTTP client of the run after its end. Tasks of other runs continue."""
    release = asyncio.Event()

    async def flow() -> None:
        child = asyncio.create_task(events.until_cancelled("child"))
        await asyncio.sleep(0)
        del child

    async def innocent() -> None:
        await asyncio.create_task(release.wait())

    other = asyncio.create_task(start(innocent))
    ended = await start(flow)

    assert ended == Execution(how=How.RETURNED)
    assert events.names == ["child"]
    release.set()
    assert await other == Execution(how=How.RETURNED)


async def test_a_task_that_ignores_its_cancellation_is_abandoned(start: Start) -> None:
    """The flow itself has returned."""
    end = asyncio.Event()

    async def flow() -> None:
        child = asyncio.create_task(stubborn(end)())
        await asyncio.sleep(0)
        del child

    ended = await start(flow, grace=SHORT)

    (task,) = ended.abandoned
    assert ended.how is How.RETURNED
    end.set()
    await asyncio.wait([task])


async def test_a_read_of_a_secret_that_another_run_waits_for_goes_on(start: Start) -> None:
    """Runs share one request to the vault. The end of the run that started it does not cancel it."""
    requested, answer = asyncio.Event(), asyncio.Event()

    class Client:
        vault_url = "https://vault.example"

        async def get_secret(self, *_: object) -> str:
            requested.set()
            await answer.wait()
            return "value"

    vault: Any = Vault(Client, Clock().now, timedelta(minutes=5))  # type: ignore[arg-type]
    values: list[str] = []

    async def read() -> None:
        values.append((await vault.get("shared--key")).secret)

    stop: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    first = asyncio.create_task(start(read, stop=stop))
    await requested.wait()
    second = asyncio.create_task(start(read))
    await asyncio.sleep(0)
    stop.set_result(RuntimeError("the lease was lost"))
    await first
    answer.set()

    assert await second == Execution(how=How.RETURNED)
    assert values == ["value"]


# --- the threads that the flow leaves behind


class Thread:
    """A function for a thread, which ends when a test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.end = threading.Event()

    def __call__(self, *_: object) -> None:
        self.begun += 1
        self.end.wait()
        self.ended += 1


@pytest.fixture
def thread() -> Iterator[Thread]:
    made = Thread()
    yield made
    made.end.set()


@pytest.fixture
def other() -> Iterator[Thread]:
    made = Thread()
    yield made
    made.end.set()


async def stopped(start: Start, flow: Flow, thread: Thread, **options: Any) -> Execution:
    """Return the end of a flow that is stopped when its thread has begun."""
    stop: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(start(flow, stop=stop, **options))
    await wait_until(lambda: thread.begun, description="the thread has begun")
    stop.set_result(RuntimeError("the lease was lost"))
    return await running


async def test_a_thread_that_still_runs_after_the_grace_is_abandoned(
    start: Start, thread: Thread, other: Thread
) -> None:
    """Python cannot end it. Its future is returned, and is done when the thread has ended. Other runs have no part."""

    async def innocent() -> None:
        await asyncio.to_thread(other)

    beside = asyncio.create_task(start(innocent))
    ended = await stopped(start, partial(asyncio.to_thread, thread), thread, grace=SHORT)

    (future,) = ended.abandoned
    assert not future.done()
    thread.end.set()
    await asyncio.wait([future])
    assert thread.ended == 1
    other.end.set()
    assert (await beside).abandoned == ()


async def test_a_thread_that_ends_within_the_grace_is_not_abandoned(start: Start, thread: Thread) -> None:
    """The end of the run waits for it."""

    async def flow() -> None:
        try:
            await asyncio.to_thread(thread)
        finally:
            thread.end.set()

    ended = await stopped(start, flow, thread)

    assert (ended.how, ended.abandoned, thread.ended) == (How.STOPPED, (), 1)


async def test_a_thread_that_a_flow_does_not_await_is_abandoned(start: Start, thread: Thread) -> None:
    """The flow itself has returned."""

    async def flow() -> None:
        asyncio.get_running_loop().run_in_executor(None, thread)
        await wait_until(lambda: thread.begun, description="the thread has begun")

    ended = await start(flow, grace=SHORT)

    (future,) = ended.abandoned
    assert ended.how is How.RETURNED
    thread.end.set()
    await asyncio.wait([future])


async def test_calls_that_wait_for_a_free_thread_do_not_begin_after_the_end(start: Start, thread: Thread) -> None:
    """The loop has a limited number of threads."""

    async def flow() -> None:
        for _ in range(100):
            asyncio.get_running_loop().run_in_executor(None, thread)
        await wait_until(lambda: thread.begun, description="a thread has begun")

    ended = await start(flow, grace=SHORT)
    thread.end.set()
    await asyncio.wait(ended.abandoned)

    begun = len(ended.abandoned)
    assert begun < 100
    assert (thread.begun, thread.ended) == (begun, begun)


async def test_a_name_lookup_does_not_count(start: Start, thread: Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs share the lookups of connections."""
    monkeypatch.setattr(socket, "getaddrinfo", thread)

    async def flow() -> None:
        await asyncio.get_running_loop().getaddrinfo("api.example", 443)

    ended = await stopped(start, flow, thread, grace=SHORT)

    assert (ended.how, ended.abandoned, thread.ended) == (How.STOPPED, (), 0)


async def test_an_exception_of_an_abandoned_thread_is_not_reported(start: Start, thread: Thread) -> None:
    """As without the app: the call was cancelled."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail() -> None:
        thread()
        raise ValueError("late")

    ended = await stopped(start, partial(asyncio.to_thread, fail), thread, grace=SHORT)
    thread.end.set()
    await asyncio.wait(ended.abandoned)
    del ended
    gc.collect()

    assert thread.ended == 1
    assert reported == []


# --- the tasks of a loop with another task factory


@pytest.mark.parametrize("wait", [False, True])
async def test_the_task_factory_of_the_worker_is_used(start: Start, wait: bool) -> None:  # noqa: FBT001
    """The worker finds the invocation of a log line by an attribute, which its own tasks inherit."""

    class WorkerTask(asyncio.Task[Any]):
        def __init__(self, coroutine: Coroutine[Any, Any, Any], **options: Any) -> None:
            super().__init__(coroutine, **options)
            self.invocation = getattr(asyncio.current_task(options["loop"]), "invocation", None)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, context=None: WorkerTask(coro, loop=loop, context=context))
    found: list[object] = []

    async def child() -> None:
        if wait:
            await asyncio.sleep(0)
        task = asyncio.current_task()
        found.append((type(task), getattr(task, "invocation", None), task and task.get_name()))

    async def flow() -> None:
        await asyncio.create_task(child(), name="mine")

    async def invocation() -> Execution:
        asyncio.current_task().invocation = "i-1"  # type: ignore[union-attr]
        return await start(flow)

    assert await asyncio.create_task(invocation()) == Execution(how=How.RETURNED)
    assert found == [(WorkerTask, "i-1", "mine")]


async def test_eager_tasks_are_contained(start: Start) -> None:
    """A factory that starts tasks at once is used, and a SystemExit stays in the run."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    order: list[str] = []

    async def child() -> None:
        order.append("child")
        sys.exit("enough")

    async def flow() -> None:
        task = asyncio.create_task(child())
        order.append("flow")
        await task

    ended = await start(flow)

    assert order == ["child", "flow"]
    assert (ended.how, type(ended.error)) == (How.RAISED, SystemExit)


async def test_tasks_outside_runs_are_left_alone(start: Start) -> None:
    """The factory changes nothing for them."""
    await start(divides)

    async def work() -> int:
        return 3

    coroutine = work()
    task = asyncio.create_task(coroutine)

    assert task.get_coro() is coroutine
    assert await task == 3


async def test_a_task_of_a_run_shows_its_function(start: Start) -> None:
    """`repr` and the stack name the function of the flow, as without the app."""
    shown: list[str] = []

    async def child() -> None:
        await forever()

    async def flow() -> None:
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        shown.extend([repr(task), *(frame.f_code.co_name for frame in task.get_stack())])

    await start(flow)

    assert "child() running at" in shown[0]
    assert shown[1:] == ["child"]


# --- a flow blocks the loop


async def test_the_time_of_another_runs_block_is_added_to_the_timeout(start: Start) -> None:
    """A flow with a timeout of 0.5 s survives a block of 1 s by another, and its execution names the block."""
    release = asyncio.Event()
    started = asyncio.Event()

    async def innocent() -> None:
        started.set()
        await release.wait()

    async def culprit() -> None:
        await started.wait()
        time.sleep(1)  # noqa: ASYNC251 - the misbehaviour
        asyncio.get_running_loop().call_later(0.1, release.set)

    other = asyncio.create_task(start(innocent, timeout=timedelta(seconds=0.5), subject="acme/innocent"))
    ended = await start(culprit, subject="acme/slow")
    beside = await other

    assert (ended.how, beside.how) == (How.RETURNED, How.RETURNED)
    for execution in (ended, beside):
        (block,) = execution.blocks
        assert block.subject == "acme/slow"
        assert block.place.startswith("tests/unit/test_execute.py:")
        assert block.place.endswith(" (time.sleep)")


async def test_the_time_of_its_own_block_is_not_added(start: Start) -> None:
    """The flow that blocks is cancelled as soon as the loop runs again, although it could end in time otherwise."""

    async def flow() -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - the misbehaviour
        await asyncio.sleep(0.2)

    ended = await start(flow, timeout=timedelta(seconds=0.3), subject="acme/slow")

    assert ended.how is How.TIMED_OUT
    assert [block.subject for block in ended.blocks] == ["acme/slow"]


async def test_a_task_of_a_run_that_blocks_is_named_by_its_run(start: Start) -> None:
    """A child task has the subject of its run."""

    async def child() -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - the misbehaviour

    async def flow() -> None:
        await asyncio.create_task(child())

    ended = await start(flow, subject="acme/slow")

    assert [block.subject for block in ended.blocks] == ["acme/slow"]


async def test_many_runs_leave_nothing_behind(start: Start) -> None:
    """No task of a run is left on the loop."""
    before = asyncio.all_tasks()

    await asyncio.gather(*(start(flow) for flow, _ in MISBEHAVIOUR))

    await wait_until(lambda: asyncio.all_tasks() <= before, description="the tasks have ended")
