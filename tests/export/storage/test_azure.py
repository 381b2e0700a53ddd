"""Versions in Azure's storage: a real server of its protocol."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from object_storage.versions import exported, same
from tfship.export.storage.cache import VersionCache
from tfship.export.storage.remote_versions import RemoteServable, servables
from tfship.train.common.errors import ArtifactError
from third_party_clients import environments

URL = "az://container/models/m"
# The documented account of Azurite.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture
def container(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[None]:
    main = environments.azurite(tmp_path_factory)
    import adlfs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        environments.program("node"),
        str(main),
        "--blobPort",
        str(port),
        "--location",
        str(tmp_path / "data"),
    ]
    address = f"http://127.0.0.1:{port}/{_ACCOUNT}"
    with (
        subprocess.Popen(
            [*command, "--silent", "--skipApiVersionCheck", "--disableTelemetry"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as started,
        pytest.MonkeyPatch.context() as patch,
    ):
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert started.poll() is None
                time.sleep(0.05)
            text = f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};BlobEndpoint={address};"
            patch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
            adlfs.AzureBlobFileSystem.clear_instance_cache()
            adlfs.AzureBlobFileSystem(connection_string=text).mkdir("container")
            yield
        finally:
            adlfs.AzureBlobFileSystem.clear_instance_cache()
            started.kill()


@pytest.mark.usefixtures("container")
def test_versions_come_back_and_get_numbers_of_their_own(tmp_path: Path) -> None:
    servable = RemoteServable(URL)
    with pytest.raises(ArtifactError, match="no such object"):
        servable.numbers()
    version = exported(tmp_path / "models", 1)
    assert servable.upload(version, lambda count: None) == (f"{URL}/1", True)
    assert servable.upload(version, lambda count: None) == (f"{URL}/1", False)
    other = exported(tmp_path / "other", 1, more=b"more")
    assert servable.upload(other, lambda count: None) == (f"{URL}/2", True)
    assert (list(servable.numbers()), servables("az://container/models")) == ([1, 2], ["m"])
    with VersionCache(URL, tmp_path / "cache") as cache:
        path, downloaded = cache.fetch(2, "2", lambda count: None)
    assert downloaded
    assert same(path, other)
