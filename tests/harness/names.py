"""A name server of the test's own, and what a process needs to ask it and nobody else.

    with NameServer() as names:
        names.zone["redis.test"] = ["127.0.0.9", "127.0.0.1"]
        Tierd(..., enter=names.enter)
        names.silent = True         no answer at all
        names.fails.add("x.test")   SERVFAIL
        names.cut = True            over UDP every answer is cut, over TCP it is whole

It listens on port 53 of an address 127.53.x.y that nobody else has, so it takes root.
"""
import ctypes
import os
import pathlib
import random
import socket
import struct
import tempfile
import threading

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
A, NOERROR, SERVFAIL, NXDOMAIN = 1, 0, 2, 3
CUT = 0x0200


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class NameServer:
    def __init__(self, *search, options=""):
        self.zone, self.fails, self.asked = {}, set(), []
        self.silent = self.cut = False
        self.udp, self.tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        self._bind()
        self.file = tempfile.NamedTemporaryFile("w", prefix="resolv.")
        self.file.write(f"nameserver {self.address}\n" + (f"search {' '.join(search)}\n" if search else "")
                        + (f"options {options}\n" if options else ""))
        self.file.flush()
        os.chmod(self.file.name, 0o644)
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def _bind(self):
        while True:
            self.address = f"127.53.{random.randrange(256)}.{random.randrange(1, 255)}"
            try:
                self.udp.bind((self.address, 53))
                self.tcp.bind((self.address, 53))
                self.tcp.listen()
                return
            except OSError:
                self.udp.close()
                self.tcp.close()
                self.udp, self.tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()

    def enter(self):
        """In the new process, before it begins: /etc/resolv.conf is ours, for it alone."""
        check(LIBC.unshare(CLONE_NEWNS))
        check(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        target = pathlib.Path("/etc/resolv.conf").resolve()
        check(LIBC.mount(os.fsencode(self.file.name), os.fsencode(target), None, MS_BIND, None))

    def _serve_udp(self):
        while True:
            try:
                question, who = self.udp.recvfrom(4096)
            except OSError:
                return
            answer = self._answer(question, self.cut)
            if answer:
                self.udp.sendto(answer, who)

    def _serve_tcp(self):
        while True:
            try:
                s, _ = self.tcp.accept()
            except OSError:
                return
            with s:
                s.settimeout(2)
                try:
                    (length,) = struct.unpack("!H", s.recv(2, socket.MSG_WAITALL))
                    answer = self._answer(s.recv(length, socket.MSG_WAITALL), False)
                    if answer:
                        s.sendall(struct.pack("!H", len(answer)) + answer)
                        s.recv(1)
                except (OSError, struct.error):
                    pass

    def _answer(self, question, cut):
        at, labels = 12, []
        while question[at]:
            labels.append(question[at + 1:at + 1 + question[at]].decode())
            at += 1 + question[at]
        name, (kind,) = ".".join(labels).lower(), struct.unpack_from("!H", question, at + 1)
        self.asked.append(name)
        if self.silent:
            return None
        addresses = self.zone.get(name)
        code = SERVFAIL if name in self.fails else NXDOMAIN if addresses is None else NOERROR
        shown = addresses if addresses and kind == A and code == NOERROR and not cut else []
        head = question[:2] + struct.pack("!HHHHH", 0x8180 | code | (CUT if cut and code == NOERROR else 0), 1, len(shown), 0, 0)
        rows = b"".join(struct.pack("!HHHIH", 0xC00C, A, 1, 0, 4) + socket.inet_aton(a) for a in shown)
        return head + question[12:at + 5] + rows

    def close(self):
        self.udp.close()
        self.tcp.close()
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()
