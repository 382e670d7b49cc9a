"""Each error has a kind, from which the exit code of a command and the status of the page's answer follow."""

from http import HTTPStatus

import pytest

from dashboard.server import STATUSES
from datasync.cli.common import EXITS
from datasync.errors import (
    ActionInvalid,
    ActionRefused,
    ChangedMeanwhile,
    DataSyncError,
    EntryUnknown,
    Kind,
    MessageTooLarge,
    RequestRefused,
    RunUnknown,
    ServiceUnavailable,
    SettingsInvalid,
    StateInvalid,
    TenantInvalid,
    TenantUnknown,
)


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (TenantUnknown("no tenant"), 3, HTTPStatus.NOT_FOUND),
        (RunUnknown("no run"), 3, HTTPStatus.NOT_FOUND),
        (EntryUnknown("no entry"), 3, HTTPStatus.NOT_FOUND),
        (ActionInvalid("no id"), 2, HTTPStatus.BAD_REQUEST),
        (ActionRefused("disabled"), 1, HTTPStatus.CONFLICT),
        (ChangedMeanwhile("changed"), 5, HTTPStatus.CONFLICT),
        (ServiceUnavailable("refused", status=401), 4, HTTPStatus.SERVICE_UNAVAILABLE),
        (ServiceUnavailable("refused", "the queue", 403), 4, HTTPStatus.SERVICE_UNAVAILABLE),
        (ServiceUnavailable("away", status=503), 1, HTTPStatus.SERVICE_UNAVAILABLE),
        (ServiceUnavailable("away"), 1, HTTPStatus.SERVICE_UNAVAILABLE),
        (RequestRefused("too large", status=413), 1, HTTPStatus.SERVICE_UNAVAILABLE),
        (MessageTooLarge("too large", ["weather"]), 1, HTTPStatus.SERVICE_UNAVAILABLE),
        (SettingsInvalid("missing"), 1, HTTPStatus.SERVICE_UNAVAILABLE),
        (TenantInvalid("t", "flows", "not a list"), 1, HTTPStatus.UNPROCESSABLE_ENTITY),
        (StateInvalid("edited"), 1, HTTPStatus.UNPROCESSABLE_ENTITY),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, DataSyncError) else None,
)
def test_an_error_has_an_exit_code_and_a_status(error: DataSyncError, code: int, status: HTTPStatus) -> None:
    """A monitor can tell a refused key from an outage, and a script a change by somebody else."""
    assert (EXITS[error.kind], STATUSES[error.kind]) == (code, status)


def test_every_kind_has_an_exit_code_and_a_status() -> None:
    """A new kind cannot be left out."""
    assert EXITS.keys() == STATUSES.keys() == set(Kind)
