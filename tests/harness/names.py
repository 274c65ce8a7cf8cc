"""A name server for tests: small, and as unreliable as it is told to be (RFC 1035).

    server = NameServer(host.socket, "10.9.0.53")
    server.set("redis.town", "10.9.0.4")           at any time; several addresses, IPv4 and IPv6, in that order
    server.silent = True                           says nothing, over UDP and TCP
    server.lag_s = 2                               each answer comes so late; others do not wait behind it
    server.refuse("corp.example", SERVFAIL)        for every name that is or ends so
    server.truncate = True                         UDP answers say only that they are cut off: ask over TCP
    server.asked                                   every question so far: (transport, name, type)

A name that is not known has NXDOMAIN, a known one without an address of the type asked for an empty answer. TTL is 0:
whoever keeps an answer does so by a decision of its own.
"""
import ipaddress
import socket
import struct
import threading
import time

A, AAAA = 1, 28
KINDS = {A: "A", AAAA: "AAAA"}
NXDOMAIN, SERVFAIL, REFUSED = 3, 2, 5
QUERY_MAX_BYTES = 4096


def question_of(query):
    """The name, the type and the bytes of the one question."""
    at, labels = 12, []
    while length := query[at]:
        labels.append(query[at + 1:at + 1 + length].decode("ascii", "replace").lower())
        at += 1 + length
    kind, _ = struct.unpack_from("!HH", query, at + 1)
    return ".".join(labels), kind, query[12:at + 5]


class NameServer:
    def __init__(self, make_socket, address, port=53):
        self.silent, self.truncate, self.lag_s = False, False, 0.0
        self.records, self.refused, self.asked = {}, {}, []
        self.closing = False
        self.udp, self.tcp = make_socket(socket.AF_INET, socket.SOCK_DGRAM), make_socket(socket.AF_INET, socket.SOCK_STREAM)
        for s in (self.udp, self.tcp):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((address, port))
        self.tcp.listen(64)
        self.threads = [threading.Thread(target=body, daemon=True) for body in (self._serve_udp, self._serve_tcp)]
        for thread in self.threads:
            thread.start()

    def set(self, name, *addresses):
        """Without an address the name is forgotten."""
        if addresses:
            self.records[name.lower()] = [ipaddress.ip_address(a) for a in addresses]
        else:
            self.records.pop(name.lower(), None)

    def refuse(self, suffix, code=SERVFAIL):
        self.refused[suffix.lower()] = code

    def count(self, name):
        return sum(1 for _, asked, _ in self.asked if asked == name)

    def close(self):
        self.closing = True
        for s in (self.udp, self.tcp):
            try:
                s.shutdown(socket.SHUT_RDWR)  # wakes who waits in it
            except OSError:
                pass
        for thread in self.threads:
            thread.join(5)
        self.udp.close()
        self.tcp.close()

    # ---- answers ----

    def answer(self, query, transport):
        """The bytes to send, or None."""
        number, flags = struct.unpack_from("!HH", query)
        name, kind, question = question_of(query)
        self.asked.append((transport, name, KINDS.get(kind, str(kind))))
        if self.silent:
            return None
        code, found = self._look_up(name, kind)
        cut = transport == "udp" and self.truncate
        records = [] if cut else found
        head = struct.pack("!HHHHHH", number, 0x8480 | (flags & 0x0100) | (0x0200 if cut else 0) | code, 1, len(records), 0, 0)
        return head + question + b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(r)) + r for r in records)

    def _look_up(self, name, kind):
        for suffix, code in self.refused.items():
            if name == suffix or name.endswith("." + suffix):
                return code, []
        if name not in self.records:
            return NXDOMAIN, []
        version = {A: 4, AAAA: 6}.get(kind)
        return 0, [address.packed for address in self.records[name] if address.version == version]

    def _later(self, send, answer):
        def late():
            time.sleep(self.lag_s)
            try:
                send(answer)
            except OSError:
                pass  # the asker, or we, have gone
        if answer:
            threading.Thread(target=late, daemon=True).start()

    def _serve_udp(self):
        while True:
            try:
                query, sender = self.udp.recvfrom(QUERY_MAX_BYTES)
            except OSError:
                return
            if self.closing:
                return
            try:
                answer = self.answer(query, "udp")
            except (IndexError, struct.error):
                continue
            self._later(lambda data, to=sender: self.udp.sendto(data, to), answer)

    def _serve_tcp(self):
        while True:
            try:
                connection = self.tcp.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve_connection, args=(connection,), daemon=True).start()

    def _serve_connection(self, connection):
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(30)
            try:
                while len(size := stream.read(2)) == 2:
                    answer = self.answer(stream.read(struct.unpack("!H", size)[0]), "tcp")
                    if answer:
                        time.sleep(self.lag_s)
                        connection.sendall(struct.pack("!H", len(answer)) + answer)
            except (OSError, IndexError, struct.error):
                pass
