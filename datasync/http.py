"""The API kit for authors of flows: the pages of an API, and OAuth 2.0. For use with `run.http`."""

from datasync.errors import PagingFailed, TokenRefused
from datasync.flow.oauth2 import ClientCredentials, RefreshToken
from datasync.flow.paging import NextPage, Page, by_cursor, by_link, by_offset, by_page, by_url, paginate

__all__ = [
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
