"""The public API of `datasync` for authors of flows."""

import datasync
import datasync.http


def test_the_public_api_has_exactly_these_names() -> None:
    """`__all__` is sorted and complete. A name added to it must be supported from then on."""
    assert datasync.__all__ == [
        "IDEMPOTENT",
        "READ",
        "Continue",
        "FlowRegistry",
        "FlowRun",
        "GiveUp",
        "ResponseTooLarge",
        "RetryLater",
        "TenantSecretClient",
        "Window",
        "response_limits",
    ]
    assert all(hasattr(datasync, name) for name in datasync.__all__)


def test_the_api_kit_has_exactly_these_names() -> None:
    """The same holds for `datasync.http`."""
    assert datasync.http.__all__ == [
        "ClientCredentials",
        "NextPage",
        "Page",
        "PagingFailed",
        "RefreshToken",
        "TokenRefused",
        "by_cursor",
        "by_link",
        "by_offset",
        "by_page",
        "by_url",
        "paginate",
    ]
    assert all(hasattr(datasync.http, name) for name in datasync.http.__all__)
