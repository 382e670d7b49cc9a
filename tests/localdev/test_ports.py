"""The ports of `make start`."""

import os
import re
import socket
from collections.abc import Generator
from dataclasses import astuple

import pytest

from localdev.errors import PortTaken
from localdev.ports import Ports, check_free, owner


@pytest.fixture
def taken() -> Generator[int]:
    """Return a port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_all_taken_ports_are_reported_with_the_programs(taken: int) -> None:
    """Each line names the part, the port, the process and its command. The last one has the remedy."""
    with pytest.raises(PortTaken) as found:
        check_free(Ports(cosmos=taken, demo=taken))

    cosmos, demo, remedy = str(found.value).splitlines()
    used = rf"cannot listen on port {taken}: it is used by pid {os.getpid()}, .*python"
    assert re.match(f"Cosmos DB {used}", cosmos)
    assert re.match(f"the demo APIs {used}", demo)
    assert remedy == 'Stop that program first, or use other ports: make start ARGS="--ports free"'


def test_free_ports_are_accepted(unused_tcp_port: int) -> None:
    """Zero stands for a free port."""
    check_free(Ports())
    check_free(Ports(cosmos=unused_tcp_port))
    assert owner(unused_tcp_port) is None


def test_consecutive_ports_begin_with_that_of_the_host() -> None:
    """Two checkouts with ranges that do not overlap can run at once."""
    ports = Ports.following(9000)

    assert ports.host == 9000
    assert sorted(astuple(ports)) == list(range(9000, 9008))
