"""A town: hosts for the API, Redis, MariaDB and storage on one bridge, as in production, on one machine.

    with Town(storage=3) as town:
        town.redis.start()                       redis://redis:6379/1 for who is in the town
        town.db.start()                          mysql://tierd@db:3306/tierd, with the rights that the manual names
        api = town.api.start()                   `tierd --role=api` on the host "api", port 5000: a harness.servers.Tierd
        worker = town.storage[0].start("--root=/srv")   `tierd --role=worker` on the host "storage1"
        town.api.post(7, 1964), town.api.get("/health", at="storage2")
        with town.cut("storage1", "redis"): ...  nothing passes between the two, silently; whole again afterwards
        with town.unplugged("api"): ...          the host has no carrier
        town.crash(town.db)                      the power goes: no FIN, no RST; plug() and start() bring it back
        town.move(town.db, "db2")                from its next start on it is elsewhere, and so is its name
        cable = town.proxy("storage1", town.redis)   a harness.proxy.Proxy between this host and that server
        town.dns.silent = True                   the town's name server, harness.names.NameServer
        town.hosts["api"].resolver(...)          one host's /etc/resolv.conf; names(...): its /etc/hosts

Addresses are 10.9.0.0/24 and fd09::/64 in every town, for no town sees another (harness.namespaces): runs beside each
other do not meet. The host "dns" has the name server, "desk" is there to ask from (and where the proxies are), `more`
names further ones. Short names end in ".town" (`search town`). Each host has a /srv of its own, `town.hosts[...].srv` as
the test sees it; other folders are everybody's, like a disk array. The test itself reaches Redis and MariaDB through
their unix sockets (`town.redis.cli`, `town.db.sql`), whatever is cut. All of it ends with the `with`.
"""
import contextlib
import http.client
import json
import pathlib
import shutil
import signal
import socket
import time

from harness.namespaces import Host
from harness.names import NameServer
from harness.proxy import Proxy
from harness.servers import Failed, MariaDB, Redis, Tierd, short_dir

API_PORT, REDIS_PORT, DB_PORT = 5000, 6379, 3306
NOBODY = "02:00:00:00:de:ad"  # a link address that no host has: what is sent to it is lost without a word
DOMAIN = "town"
PLUG_TIMEOUT_S = 20
FIXED = {"redis": 3, "db": 4, "api": 5, "desk": 9, "dns": 53}
FIRST_STORAGE, FIRST_MORE, FIRST_PROXY = 11, 101, 151


class Server:
    """What Redis and MariaDB have in common here: they run on a host of the town, and are looked at through a socket."""

    def settle(self, town, host, name):
        self.town, self.name = town, name
        self.place(host)

    def place(self, host):
        self.host, self.enter = host, host.enter

    @property
    def address(self):
        return str(self.socket)

    @property
    def far_address(self):
        """(IP address, port) for other hosts."""
        return (self.host.address, self.port)


class TownRedis(Server, Redis):
    port = REDIS_PORT

    def __init__(self, town, host, *args):
        super().__init__(town.folder / f"{host.name}-data", "--protected-mode", "no", "--repl-diskless-sync-delay", "0", *args,
                         net="unix")
        self.bind = ["--bind", "0.0.0.0", "::", "--port", str(REDIS_PORT)]
        self.settle(town, host, "redis")

    def url_of(self, db):
        return f"redis://{self.name}:{REDIS_PORT}/{db}"


class TownDB(Server, MariaDB):
    """The first start makes the data folder, an empty catalogue, and the user `tierd`."""
    port = DB_PORT

    def __init__(self, town, host, *args):
        # without skip-name-resolve a server asks the name server about everybody who connects, and waits for it
        super().__init__(town.folder / f"{host.name}-data", "--skip-name-resolve", *args, net="unix")
        self.bind = ["--bind-address=*", f"--port={DB_PORT}"]
        self.installed = False
        self.settle(town, host, "db")

    @property
    def url(self):
        return f"mysql://tierd@{self.name}:{DB_PORT}/tierd"

    def start(self):
        if self.installed:
            return super().start()
        self.install()
        super().start()
        self.load("schema.sql")
        self.sql("CREATE USER tierd@'%'; GRANT SELECT ON tierd.* TO tierd@'%'; GRANT UPDATE ON tierd.contents TO tierd@'%'")
        self.installed = True
        return self


class Place:
    """Where tierd runs."""

    def __init__(self, town, host):
        self.town, self.host = town, host
        self.tierd = None

    def start(self, *args, role="worker", **kwargs):
        self.tierd = Tierd(f"--role={role}", *args, *self.town.common(), enter=self.host.enter, **kwargs)
        self.town.running.append(self.tierd)
        return self.tierd

    def run(self, *words, **kwargs):
        """A command of tierd, until it ends."""
        from harness.servers import TIERD  # a test may have put another in its place
        return self.host.run(TIERD, *words, *self.town.common(), **kwargs)


class Storage(Place):
    def start(self, *args, **kwargs):
        return super().start(f"--api=http://api:{API_PORT}", *args, **kwargs)


class Reply:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read().decode()


class Api(Place):
    def start(self, *args, **kwargs):
        return super().start(f"--listen=0.0.0.0:{API_PORT}", *args, role="api", **kwargs)

    def request(self, method, path, body=None, at=None, timeout=10):
        """From the host `at`, or from its own: then no cable is between."""
        host = self.town.hosts[at] if at else self.host
        connection = http.client.HTTPConnection("api", API_PORT, timeout=timeout)
        connection.sock = host.connect((self.host.address if at else "127.0.0.1", API_PORT), timeout)
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
            connection.request(method, path, body=body, headers=headers)
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, **kwargs):
        return self.request("GET", path, **kwargs)

    def post(self, cid, count, **kwargs):
        return self.request("POST", "/post_sentence", f"cid={cid}&count={count}", **kwargs)


class Town:
    def __init__(self, storage=1, more=()):
        self.stack = contextlib.ExitStack()
        self.folder = short_dir("tierd-town.")
        self.folder.chmod(0o755)
        self.stack.callback(shutil.rmtree, self.folder, True)
        self.hosts, self.running, self.proxies, self.lost, self.down = {}, [], [], set(), set()
        try:
            self._build(storage, more)
        except BaseException:
            self.stack.close()
            raise

    def _build(self, storage, more):
        self.street = self._host("street")
        self.street.ip("link add br0 type bridge", "link set br0 up")
        for name, number in FIXED.items():
            self.add_host(name, number)
        for n in range(storage):
            self.add_host(f"storage{n + 1}", FIRST_STORAGE + n)
        for n, name in enumerate(more):
            self.add_host(name, FIRST_MORE + n)
        self.dns = NameServer(self.hosts["dns"].socket, self.hosts["dns"].address)
        self.stack.callback(self.dns.close)
        self.redis = TownRedis(self, self.hosts["redis"])
        self.stack.callback(self.redis.close)
        self.db = TownDB(self, self.hosts["db"])
        self.stack.callback(self.db.close)
        self.api = Api(self, self.hosts["api"])
        self.storage = [Storage(self, self.hosts[f"storage{n + 1}"]) for n in range(storage)]
        self.stack.callback(self.stop)
        self.stack.callback(self.close_proxies)
        self.reset()

    def _host(self, name):
        host = Host(name, self.folder)
        self.stack.callback(host.close)
        return host

    def add_host(self, name, number):
        """A host with a cable to the bridge."""
        host = self.hosts[name] = self._host(name)
        host.address, host.address6 = f"10.9.0.{number}", f"fd09::{number}"
        self.street.ip(f"link add p-{name} type veth peer name eth0 netns {host.holder.pid}",
                       f"link set p-{name} master br0 up")
        self.add_address(host, host.address, host.address6)
        host.ip("link set eth0 up")
        host.every_address = [host.address, host.address6]
        return host

    @staticmethod
    def add_address(host, *addresses):
        for address in addresses:
            host.ip(f"addr add {address}/64 dev eth0 nodad" if ":" in address else f"addr add {address}/24 dev eth0")

    def common(self):
        return [f"--redis={self.redis.url}", f"--db={self.db.url}"]

    # ---- cables ----

    def pairs(self, one, *others):
        return {(a, b) for other in (others or self.hosts) if other != one for a, b in ((one, other), (other, one))}

    @contextlib.contextmanager
    def _until_left(self, undo, *words):
        try:
            yield
        finally:
            undo(*words)

    def cut(self, one, *others):
        """Nothing passes any more between a host and others (all, when none is named), and nobody is told. At once; as a
        context it is whole again afterwards."""
        for a, b in self.pairs(one, *others) - self.lost:
            self.hosts[a].ip(*(f"neigh replace {to} lladdr {NOBODY} nud permanent dev eth0" for to in self.hosts[b].every_address))
            self.lost.add((a, b))
        return self._until_left(self.mend, one, *others)

    def cut_one_way(self, sender, receiver):
        """What the sender sends is lost; the other direction is whole."""
        for to in self.hosts[receiver].every_address:
            self.hosts[sender].ip(f"neigh replace {to} lladdr {NOBODY} nud permanent dev eth0")
        self.lost.add((sender, receiver))
        return self._until_left(self.mend, sender, receiver)

    def mend(self, one, *others):
        for a, b in self.pairs(one, *others) & self.lost:
            self.hosts[a].ip(*(f"neigh del {to} dev eth0" for to in self.hosts[b].every_address))
            self.lost.discard((a, b))

    def unplug(self, name):
        self.street.ip(f"link set p-{name} down")
        self.down.add(name)

    def plug(self, name):
        """What is sent arrives when it returns: a bridge forwards on a port only when it heard of its carrier, of which the
        kernel tells once a second at the most."""
        self.street.ip(f"link set p-{name} up")
        deadline = time.monotonic() + PLUG_TIMEOUT_S
        while not self._forwards(name):
            if time.monotonic() > deadline:
                raise Failed(f"the bridge does not forward on the port of {name}")
            time.sleep(0.01)
        self.down.discard(name)

    def _forwards(self, name):
        link, = json.loads(self.street.run("ip", "-json", "-details", "link", "show", f"p-{name}").stdout)
        return link["operstate"] == "UP" and link["linkinfo"]["info_slave_data"]["state"] == "forwarding"

    def unplugged(self, name):
        self.unplug(name)
        return self._until_left(self.plug, name)

    def crash(self, what):
        """The host of a server, or of a Place, loses its power: its cable is dead, and so are its programs."""
        self.unplug(what.host.name)
        process = what.tierd if isinstance(what, Place) else what
        process.stop(signal.SIGKILL)

    # ---- names and detours ----

    def name(self, name, *addresses):
        self.dns.set(f"{name}.{DOMAIN}", *addresses)

    def move(self, server, host):
        """From its next start on the server is on another host, with the data that it has; its name says so now."""
        server.place(self.hosts[host])
        self.name(server.name, server.host.address)

    @contextlib.contextmanager
    def another(self, kind, host):
        """One more server, TownRedis or TownDB, with nothing in it, to which a name may lead; gone afterwards."""
        made = kind(self, self.hosts[host])
        try:
            yield made.start()
        finally:
            made.close()
            shutil.rmtree(made.data)

    def proxy(self, client, server):
        """Between a host and a server, or the API: an address of the desk that the client's /etc/hosts has for it."""
        name, port = (server.name, server.port) if isinstance(server, Server) else ("api", API_PORT)
        desk, address = self.hosts["desk"], f"10.9.0.{FIRST_PROXY + len(self.proxies)}"
        if address not in desk.every_address:
            self.add_address(desk, address)
            desk.every_address.append(address)
        made = Proxy((server.host.address, port), (address, port), desk.socket)
        self.proxies.append(made)
        self.detours.setdefault(client, {})[name] = address
        self.hosts[client].names(**self.detours[client])
        return made

    # ---- the end of a test, and of the town ----

    def close_proxies(self):
        for made in self.proxies:
            made.close()
        self.proxies.clear()

    def stop(self):
        """Ends tierd everywhere."""
        for process in reversed(self.running):
            process.stop()
        self.running.clear()

    def reset(self):
        """Between two tests: tierd has ended, everything is plugged in and has the name that it had; what was written on
        disks stays. Redis and MariaDB are at home, and run if they did before or were ended by the test."""
        for name in list(self.down):
            self.plug(name)
        for name in self.hosts:
            self.mend(name)
        self.close_proxies()
        self.detours = {}
        self.dns.silent, self.dns.truncate, self.dns.lag_s = False, False, 0.0
        self.dns.records.clear()
        self.dns.refused.clear()
        self.dns.asked.clear()
        for host in self.hosts.values():
            self.name(host.name, host.address)
            host.names()
            host.resolver(f"nameserver {self.hosts['dns'].address}", f"search {DOMAIN}")
        self.stop()  # after all of that, for who waits for a name ends when it has one
        for server in (self.redis, self.db):
            self._bring_home(server)

    def _bring_home(self, server):
        home = self.hosts[server.name]
        was_started = server.process is not None
        if server.host is not home:
            server.stop()
            server.place(home)
        if was_started:
            server.process.send_signal(signal.SIGCONT)  # does nothing to one that has ended
            if server.process.poll() is not None:
                server.start()

    def close(self):
        self.stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
