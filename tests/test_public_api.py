"""What `datasync` gives a flow's author."""

import datasync


def test_the_authors_api_is_this_and_nothing_else() -> None:
    """A name added here is a promise; `__all__` is sorted, and everything public is in it."""
    assert datasync.__all__ == [
        "IDEMPOTENT",
        "FlowRegistry",
        "FlowRun",
        "GiveUp",
        "RetryLater",
        "TenantSecretClient",
        "Window",
    ]
    assert all(hasattr(datasync, name) for name in datasync.__all__)
