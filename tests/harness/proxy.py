"""A cable between a client and a server that a test can spoil while it is in use.

    with Proxy(server.address) as cable:            it listens on a free port of 127.0.0.1
        ... --redis=redis://{cable.host}:{cable.port}/1
        cable.hold()                                nothing passes, both sides stay connected and are told nothing
        cable.go()
        cable.delay_s = 0.2                         every byte takes so long, each way
        cable.rate = 1                              bytes a second, each way; None: as fast as it goes
        cable.flip["answers"] = 100                 the hundredth byte from here on has one bit that is wrong
        cable.cut()                                 all connections end with RST; cut("fin"): in order
        cable.refuse(), cable.welcome()             nobody listens any more; somebody does again
        cable.tear_at = b"..."                      see Proxy

One thread serves all of a proxy; what is set counts from its next turn, for connections that stand and for new ones.
In a town, Town.proxy() puts one on a host. Addresses are (host, port) or paths of unix sockets.
"""
import collections
import contextlib
import queue
import selectors
import socket
import struct
import threading
import time

CHUNK_BYTES = 65536
HELD_BYTES = 4 * CHUNK_BYTES  # of one direction; past it the sender has to wait, as with a full router
CONNECT_TIMEOUT_S = 20
WAYS = ("questions", "answers")  # from the client, from the server


def plain_socket(family, kind):
    return socket.socket(family, kind)


class Way:
    """One direction of a connection."""

    def __init__(self, name, source, sink):
        self.name, self.source, self.sink = name, source, sink
        self.chunks = collections.deque()  # (when it may go on, bytes)
        self.bytes = 0
        self.ended = self.told = False     # the source has; the sink knows
        self.next_s = 0.0                  # when the rate lets the next byte go


class Proxy:
    """A connection is torn at the first question that holds the bytes `tear_at`: with lost = "question" the server never
    sees it, with "answer" it does, and the client has no answer. Then tear_at is None again. With `refuses` new
    connections are accepted and ended at once, as by a load balancer without a server behind it."""

    def __init__(self, target, listen=("127.0.0.1", 0), make_socket=plain_socket):
        self.target, self.make_socket = target, make_socket
        self.delay_s, self.rate, self.flip = 0.0, None, dict.fromkeys(WAYS)
        self.tear_at, self.lost, self.refuses = None, "question", False
        self.passed = dict.fromkeys(WAYS, 0)  # bytes so far
        self.accepted = 0                     # connections so far
        self.held = False
        self.ways = []
        self.orders, self.running = queue.SimpleQueue(), True
        self.wake_far, self.wake_near = socket.socketpair()
        self.wake_near.setblocking(False)
        self.server = self._listen(listen)
        self.listen = str(listen) if not isinstance(listen, tuple) else self.server.getsockname()[:2]
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def host(self):
        return self.listen[0]

    @property
    def port(self):
        return self.listen[1]

    @property
    def open(self):
        """How many connections stand."""
        return len(self.ways) // 2

    # ---- orders of the test; each has happened when it returns ----

    def hold(self):
        self._order(lambda: setattr(self, "held", True))

    def go(self):
        self._order(lambda: setattr(self, "held", False))

    def cut(self, how="rst"):
        self._order(lambda: self._end_all(how))

    def refuse(self):
        self._order(self._stop_listening)

    def welcome(self):
        def again():
            if not self.server:
                self.server = self._listen(self.listen)
        self._order(again)

    def close(self):
        if self.thread.is_alive():
            self._order(lambda: setattr(self, "running", False))
            self.thread.join()
        self._stop_listening()
        for s in (self.wake_far, self.wake_near):
            s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _order(self, action):
        done = threading.Event()
        self.orders.put((action, done))
        self.wake_far.send(b"x")
        if not done.wait(CONNECT_TIMEOUT_S + 10):
            raise RuntimeError("the proxy has ended")

    # ---- the thread ----

    def _socket(self, address):
        return self.make_socket(family_of(address), socket.SOCK_STREAM)

    def _listen(self, address):
        server = self._socket(address)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(512)
        server.setblocking(False)
        return server

    def _stop_listening(self):
        if self.server:
            self.server.close()
        self.server = None

    def _run(self):
        while self.running:
            self._wait()
            with contextlib.suppress(BlockingIOError):
                self.wake_near.recv(4096)
            while not self.orders.empty():
                action, done = self.orders.get()
                action()
                done.set()
            self._accept()
            for way in list(self.ways):
                if way in self.ways:
                    self._serve(way)
        self._end_all("rst")

    def _wait(self):
        """Until something can be done: bytes, room for bytes, an order, or a time that was waited for."""
        now, wake_at = time.monotonic(), None
        events = collections.Counter()
        for way in () if self.held else self.ways:
            if not way.ended and way.bytes < HELD_BYTES:
                events[way.source] |= selectors.EVENT_READ
            if way.chunks:
                at = max(way.chunks[0][0], way.next_s if self.rate else 0)
                if at <= now:
                    events[way.sink] |= selectors.EVENT_WRITE
                else:
                    wake_at = at if wake_at is None else min(wake_at, at)
        with selectors.DefaultSelector() as selector:
            selector.register(self.wake_near, selectors.EVENT_READ)
            if self.server:
                selector.register(self.server, selectors.EVENT_READ)
            for s, mask in events.items():
                selector.register(s, mask)
            selector.select(None if wake_at is None else max(0, wake_at - now))

    def _accept(self):
        while self.server:
            try:
                near = self.server.accept()[0]
            except BlockingIOError:
                return
            self.accepted += 1
            far = None if self.refuses else self._connect()
            if not far:
                reset(near)
                continue
            for s in (near, far):
                s.setblocking(False)
                if s.family != socket.AF_UNIX:
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.ways += [Way("questions", near, far), Way("answers", far, near)]

    def _connect(self):
        far = self._socket(self.target)
        far.settimeout(CONNECT_TIMEOUT_S)
        try:
            far.connect(self.target)
            return far
        except OSError:
            far.close()
            return None

    def _serve(self, way):
        if self.held:
            return
        try:
            if not way.ended and way.bytes < HELD_BYTES:
                self._read(way)
            if way in self.ways:
                self._write(way)
        except BlockingIOError:
            pass
        except OSError:
            self._end(way, "rst")

    def _read(self, way):
        try:
            data = way.source.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            way.ended = True
            return
        torn = self.tear_at and way.name == "questions" and self.tear_at in data
        if not torn or self.lost == "answer":
            way.chunks.append((time.monotonic() + self.delay_s, self._spoil(way.name, data)))
            way.bytes += len(data)
        if torn:
            self.tear_at = None
            self._write(way)
            self._end(way, "fin")

    def _spoil(self, name, data):
        at = self.flip[name]
        if at is None:
            return data
        if at > len(data):
            self.flip[name] = at - len(data)
            return data
        self.flip[name] = None
        return data[:at - 1] + bytes([data[at - 1] ^ 1]) + data[at:]

    def _write(self, way):
        while way.chunks and way.chunks[0][0] <= (now := time.monotonic()):
            _, data = way.chunks[0]
            if rate := self.rate:
                if now < way.next_s:
                    return
                data = data[:max(1, int(rate / 100))]
                way.next_s = now + len(data) / rate
            sent = way.sink.send(data)
            when, whole = way.chunks.popleft()
            if sent < len(whole):
                way.chunks.appendleft((when, whole[sent:]))
            way.bytes -= sent
            self.passed[way.name] += sent
        if way.ended and not way.chunks and not way.told:
            way.told = True
            way.sink.shutdown(socket.SHUT_WR)
            if all(w.told for w in self.ways if w.source in (way.source, way.sink)):
                self._end(way, "fin")

    def _end(self, way, how):
        self.ways = [w for w in self.ways if w.source not in (way.source, way.sink)]
        for s in (way.source, way.sink):
            reset(s) if how == "rst" else s.close()

    def _end_all(self, how):
        while self.ways:
            self._end(self.ways[0], how)


def family_of(address):
    if not isinstance(address, tuple):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def reset(s):
    """Ends a connection with RST (SO_LINGER with a time of 0, socket(7)); on a unix socket it is a plain end."""
    if s.family != socket.AF_UNIX:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
