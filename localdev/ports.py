"""The ports of the parts on this machine, and the programs that use them."""

import errno
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from localdev.errors import PortTaken

_LISTENING = "0A"  # the state of a socket in /proc/net/tcp: https://docs.kernel.org/networking/proc_net_tcp.html
_SHOWN = 200  # characters of a command


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The port of each part. 0 means a free port."""

    host: int = 0
    queue: int = 0
    blob: int = 0
    table: int = 0
    cosmos: int = 0
    vault: int = 0
    identity: int = 0
    demo: int = 0

    @classmethod
    def following(cls, first: int) -> "Ports":
        """Return consecutive ports, from `first` for the host."""
        names = list(asdict(cls()))
        return cls(**{name: first + number for number, name in enumerate(names)})


FIRST, LAST = 1024, 65_535
"""The ports that programs may use without special rights."""

COUNT = len(asdict(Ports()))
USUAL = Ports(host=7071, queue=10001, blob=10000, table=10002, cosmos=8081, vault=8443, identity=8444, demo=8080)
"""The ports of `make start`: those of Core Tools, Azurite and the emulator of Cosmos DB, and some of our own."""

_PARTS = {
    "host": "the Functions host",
    "queue": "the queues of Azurite",
    "blob": "the blobs of Azurite",
    "table": "the tables of Azurite",
    "cosmos": "Cosmos DB",
    "vault": "Key Vault",
    "identity": "the token endpoint",
    "demo": "the demo APIs",
}


def check_free(ports: Ports) -> None:
    """Raise PortTaken if a program listens on one of these ports, with a line for each."""
    taken = {name: port for name, port in asdict(ports).items() if port and not _is_free(port)}
    if taken:
        raise PortTaken([(_PARTS[name], port, owner(port)) for name, port in taken.items()])


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        if sys.platform != "win32":  # there it would allow two programs on one port
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError as why:
            if why.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def owner(port: int) -> str | None:
    """Return the program that listens on a port of this machine, such as `pid 4711, node server.js`.

    None if the system does not tell.
    """
    pid = next(_pids(port), None)
    if pid is None:
        return None
    return f"pid {pid}, {command}" if (command := command_of(pid)) else f"pid {pid}"


def command_of(pid: int) -> str | None:
    """Return the command of a process. None if the process has ended, or the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    except OSError:
        words = _output("ps", "-o", "command=", "-p", str(pid)).encode()
    text = " ".join(words.decode(errors="replace").split())
    return (text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…") or None


def _pids(port: int) -> Iterator[int]:
    """Yield the processes that listen on a port, as far as this user may see them."""
    if not Path("/proc/net/tcp").exists():
        yield from map(int, _output("lsof", "-nP", "-t", f"-iTCP:{port}", "-sTCP:LISTEN").split())
        return
    links = {f"socket:[{inode}]" for inode in _inodes(port)}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended, or belongs to another user
            if any(str(descriptor.readlink()) in links for descriptor in (process / "fd").iterdir()):
                yield int(process.name)


def _inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.exists():
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                _, address, _, state, *_, inode = line.split()[:10]
                if state == _LISTENING and int(address.rpartition(":")[2], 16) == port:
                    yield inode


def _output(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        return ""
    return subprocess.run([path, *arguments], capture_output=True, check=False, text=True, timeout=10).stdout  # noqa: S603 - lsof or ps
