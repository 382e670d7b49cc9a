"""The public API of `datasync` for authors of flows."""

import datasync


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
