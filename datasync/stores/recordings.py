"""The recordings of failed attempts, in a container of blobs."""

from collections.abc import Iterator
from contextlib import contextmanager

from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import ContainerClient

from datasync.errors import RecordingUnknown, ServiceUnavailable

KEPT = 10
"""The number of recordings of a flow of a tenant: the newest."""

_CONTENT = ContentSettings(content_type="application/yaml")


class RecordingStore:
    """The container. It is created when the first recording is stored."""

    def __init__(self, container: ContainerClient) -> None:
        self._container = container

    async def put(self, folder: str, name: str, content: bytes) -> str:
        """Store a recording, and delete the oldest ones of its folder, of which KEPT stay.

        Args:
            folder: The tenant and the flow.
            name: Of two names in a folder, the newer one is greater.
            content: The cassette.

        Returns:
            Its full name, for `get`.

        Raises:
            ServiceUnavailable: the account refused or could not be reached. The recording may have been stored.

        """
        prefix, path = f"{folder}/", f"{folder}/{name}.yaml"
        with self._explained():
            try:
                await self._container.upload_blob(path, content, overwrite=True, content_settings=_CONTENT)
            except ResourceNotFoundError:
                await self._create()
                await self._container.upload_blob(path, content, overwrite=True, content_settings=_CONTENT)
            names = [each async for each in self._container.list_blob_names(name_starts_with=prefix)]
            for old in sorted(names)[:-KEPT]:
                await self._container.delete_blob(old)
        return path

    async def get(self, path: str) -> bytes:
        """Return a recording.

        Raises:
            RecordingUnknown: it is not there.
            ServiceUnavailable: the account refused or could not be reached.

        """
        with self._explained():
            try:
                blob = await self._container.download_blob(path)
                return await blob.readall()
            except ResourceNotFoundError:
                raise RecordingUnknown(
                    f"the recording {path!r} is no longer in the container {self._container.container_name}, which "
                    f"keeps the newest {KEPT} of each flow of a tenant"
                ) from None

    async def ping(self) -> None:
        """Try the account once. Raises ServiceUnavailable. A missing container is created with the first recording."""
        with self._explained():
            await self._container.exists()

    async def _create(self) -> None:
        try:
            await self._container.create_container()
        except ResourceExistsError:
            return

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except AzureError as error:
            status = error.status_code if isinstance(error, HttpResponseError) else None
            remedy = (
                "Give the identity the role Storage Blob Data Contributor"
                if status in (401, 403)
                else "Check AzureWebJobsStorage and the network"
            )
            line = str(error).partition("\n")[0].rstrip(".")
            raise ServiceUnavailable(
                f"the blob container {self._container.container_name} refused or could not be reached: {line}. "
                f"{remedy}",
                "the blob container",
                status,
            ) from None
