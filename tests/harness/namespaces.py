"""Hosts on this machine: a network of its own, a host name, a file system with its own /etc/hosts, /etc/resolv.conf and
/srv (network_namespaces(7), mount_namespaces(7), uts_namespaces(7)).

    host = Host("redis", folder)
    subprocess.Popen(..., preexec_fn=host.enter)      a program on the host
    s = host.socket(socket.AF_INET, socket.SOCK_STREAM)   a socket of this process that is in the host's network
    host.close()

The namespaces have no names and belong to one process, the holder, which ends with us, however we end: then the kernel
takes away the interfaces, mounts and addresses. Nothing is left in /run/netns or /etc, and runs beside each other share
nothing. Everything else of the file system is that of the machine: unix sockets and folders below /tmp are reached from
everywhere, which is how a test looks at a server whose cable it has cut.
"""
import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess

from harness.servers import LIBC, Failed, die_with_parent

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
# The holder sleeps until the other end of its input is closed, which our end does as well.
HOLDER = """mount --bind "$1/hosts" /etc/hosts && mount --bind "$1/resolv.conf" /etc/resolv.conf &&
mount --bind "$1/srv" /srv && hostname "$2" && ip link set lo up && echo ready && exec cat"""


def available():
    """None, or why there can be no hosts here."""
    if os.geteuid() != 0:
        return "network namespaces need root here"
    for program in ("ip", "unshare", "hostname"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    made = subprocess.run(["unshare", "--net", "--mount", "--uts", "sh", "-c",
                           "ip link add name a type veth peer name b && ip link add name c type bridge"], capture_output=True,
                          text=True, check=False)
    return None if made.returncode == 0 else f"no network of our own can be made here: {made.stderr.strip()}"


def setns(fd, kind):
    if LIBC.setns(ctypes.c_int(fd), ctypes.c_int(kind)) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Host:
    def __init__(self, name, folder):
        self.name, self.folder = name, pathlib.Path(folder) / name
        self.srv = self.folder / "srv"  # its /srv, as it is seen from outside
        self.address = self.address6 = None
        self.interfaces = 0
        self.srv.mkdir(parents=True)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {name}\n")
        (self.folder / "resolv.conf").write_text("")
        self.namespaces = {}
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "sh", "-c", HOLDER, "holder", self.folder, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=die_with_parent(signal.SIGKILL), start_new_session=True)
        try:
            if self.holder.stdout.readline() != "ready\n":
                raise Failed(f"no host {name}: {self.holder.stderr.read()}")
            for file, kind in (("net", CLONE_NEWNET), ("uts", CLONE_NEWUTS), ("mnt", CLONE_NEWNS)):
                self.namespaces[kind] = os.open(f"/proc/{self.holder.pid}/ns/{file}", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def enter(self):
        """For preexec_fn. The mounts come last, for then paths are the host's."""
        for kind, fd in self.namespaces.items():
            setns(fd, kind)

    @contextlib.contextmanager
    def network(self):
        """This thread is in the host's network; sockets stay in the one where they were made."""
        ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(self.namespaces[CLONE_NEWNET], CLONE_NEWNET)
            try:
                yield
            finally:
                setns(ours, CLONE_NEWNET)
        finally:
            os.close(ours)

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        with self.network():
            return socket.socket(family, kind)

    def connect(self, address, timeout=10):
        """A connection from here to (IP address, port)."""
        s = self.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        s.settimeout(timeout)
        try:
            s.connect(address)
        except BaseException:
            s.close()
            raise
        return s

    def run(self, *words, check=True, **kwargs):
        """A program on the host, until it ends."""
        return subprocess.run([str(w) for w in words], preexec_fn=self.enter, capture_output=True, text=True, check=check,
                              **kwargs)

    def ip(self, *commands):
        """Commands of ip(8), each a line without `ip`, all or none of them seen as done."""
        result = subprocess.run(["ip", "-batch", "-"], preexec_fn=self.enter, input="\n".join(commands) + "\n",
                                capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise Failed(f"ip on {self.name}: {result.stderr.strip()} in {commands}")

    # The files are written in place: what is mounted on /etc/hosts is the file, not its name.

    def names(self, **addresses):
        """Replaces what /etc/hosts says beside localhost; a name may have a list of addresses."""
        lines = ["127.0.0.1 localhost", "::1 localhost", f"127.0.1.1 {self.name}"]
        for name, found in addresses.items():
            lines += [f"{address} {name}" for address in ([found] if isinstance(found, str) else found)]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")

    def resolver(self, *lines):
        """Replaces /etc/resolv.conf."""
        (self.folder / "resolv.conf").write_text("\n".join(lines) + "\n")

    def close(self):
        for fd in self.namespaces.values():
            os.close(fd)
        self.namespaces = {}
        for pipe in (self.holder.stdin, self.holder.stdout, self.holder.stderr):
            pipe.close()
        self.holder.kill()
        self.holder.wait()
