"""The manual pages, the sample configuration and the troubleshooting page say what the program does."""
import re
import subprocess

import pytest
from harness.servers import ROOT, TIERD

PAGES = [ROOT / "init" / "man" / "tierd.8", ROOT / "init" / "man" / "tierd.conf.5"]
SAMPLE = ROOT / "init" / "tierd.conf"


def tierd(*args):
    return subprocess.run([TIERD, *args], capture_output=True, text=True, timeout=10, check=False)


def options():
    """Name -> help of every option that the program has."""
    found = dict(re.findall(r"^  --([a-z-]+) +(.*)", tierd("--help").stdout, re.M))
    assert len(found) > 20
    return found


def commands():
    return re.findall(r"^  ([a-z][a-z-]*)\b", tierd("--help").stdout.split("\ncommands:")[1], re.M)


def rendered(page):
    """A page as plain text, without the typesetter's tricks."""
    out = subprocess.run(["mandoc", "-T", "utf8", page], capture_output=True, text=True, check=True).stdout
    return re.sub(r"\s+", " ", re.sub(r".\x08", "", out))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_are_clean(page):
    result = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert all(len(line) <= 125 for line in page.read_text().splitlines())


def test_every_option_is_in_the_manual():
    manual = [page.read_text() for page in PAGES]
    for name in options():
        item = re.compile(rf"^\.It (Cm {name} No = |Fl -{name}( |$))", re.M)
        assert any(item.search(text) for text in manual), f"--{name} stands in neither page"


def test_the_manual_has_no_option_of_its_own():
    for page in PAGES:
        for name in re.findall(r"^\.It (?:Cm ([a-z-]+) No = |Fl -([a-z-]+))", page.read_text(), re.M):
            assert "".join(name) in options(), page


def test_every_command_is_in_the_manual():
    text = PAGES[0].read_text()
    section = text.split(".Sh COMMANDS")[1].split(".Sh ")[0]
    assert set(re.findall(r"^\.It Cm ([a-z-]+)", section, re.M)) >= set(commands())


def test_defaults_in_the_manual():
    text = PAGES[1].read_text()
    for name, about in options().items():
        default = re.search(r"\[([^\]]*)\]$", about)
        if not default:
            continue
        item = text.split(f".It Cm {name} No = ")[1].split("\n.It ")[0]
        assert f"\n.Cm {default.group(1)} ." in item, f"{name}: the default is {default.group(1)}"


def test_options_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    for name in set(options()) - flags_only():
        assert f"`{name}`" in readme or f"--{name}" in readme, name


def sample_lines():
    return re.findall(r"^#([a-z][a-z-]*) = (.*)$", SAMPLE.read_text(), re.M)


@pytest.mark.parametrize("name,value", sample_lines(), ids=lambda x: x if re.fullmatch("[a-z-]+", x) else "")
def test_each_line_of_the_sample_is_taken(name, value, tmp_path):
    """Uncommented alone: the program reads it, finds nothing wrong, and goes on to what is missing."""
    path = tmp_path / "tierd.conf"
    path.write_text(SAMPLE.read_text().replace(f"#{name} = {value}\n", f"{name} = {value}\n"))
    assert path.read_text() != SAMPLE.read_text()
    result = tierd("--role=worker", f"--config={path}", "--api=nonsense", *([] if name == "root" else ["--root=/"]))
    assert result.returncode == 64 and result.stderr.startswith("tierd: --api: 'nonsense'"), result.stderr


def flags_only():
    """Options that a file may not hold, by trying."""
    def refused(name):
        result = subprocess.run([TIERD, "--role=api", "--listen=nowhere", "--config=/dev/stdin"], input=f"{name} = x\n",
                                capture_output=True, text=True, timeout=10, check=False)
        return "not an option of the file" in result.stderr
    return {name for name in options() if refused(name)}


def test_the_sample_is_complete_and_shows_the_defaults():
    shown = dict(sample_lines())
    assert set(shown) == set(options()) - flags_only()
    for name, about in options().items():
        default = re.search(r"\[([^\]]*)\]$", about)
        if default:
            assert shown[name] == default.group(1), name
    assert tierd("--role=api", f"--config={SAMPLE}", "--listen=nowhere").stderr.startswith("tierd: --listen")


def test_every_field_of_the_log_is_in_the_manual():
    """Keys in the sources against the list of fields, both ways."""
    used = {"time", "level", "msg"}
    for path in (ROOT / "src").rglob("*.c"):
        used |= set(re.findall(r'LOG_(?:STR|U64)\("([a-z_]+)"', path.read_text()))
        used |= {"error"} if "LOG_ERRNO(" in path.read_text() else set()
    section = PAGES[0].read_text().split("The fields, which are the same everywhere:")[1].split(".El")[0]
    listed = set()
    for line in re.findall(r"^\.It Li (.*)", section, re.M):
        listed |= set(line.split(" , "))
    assert listed == used


def test_every_metric_is_in_the_manual():
    """What /metrics may say against the list, both ways."""
    used = set()
    for path in (ROOT / "src" / "api").glob("*.c"):
        used |= set(re.findall(r'(?:"|# HELP )(tierd_[a-z_]+)[" ]', path.read_text()))
    section = PAGES[0].read_text().split(".Sh METRICS")[1].split(".El")[0]
    listed = {name for line in re.findall(r"^\.It Li (.*)", section, re.M) for name in line.split(" , ")}
    assert listed == used


def test_exit_statuses_and_signals_are_in_the_manual():
    text = rendered(PAGES[0])
    names = {"EX_USAGE": "64", "EX_CONFIG": "78", "EX_OSERR": "71", "EX_UNAVAILABLE": "69", "EX_IOERR": "74"}
    used = set()
    for path in (ROOT / "src").rglob("*.c"):
        used |= set(re.findall(r"\bEX_[A-Z]+\b", path.read_text()))
    for name in used - {"EX_SOFTWARE"}:
        assert re.search(rf"\b{names[name]} [^.]*\({name}\)", text), name
    for signal in ("SIGTERM", "SIGINT", "SIGHUP"):
        assert signal in text


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "init" / "doc").glob("*.md"))], ids=lambda p: p.name)
def test_rows_of_a_table_have_as_many_cells_as_its_head(page):
    cells = None
    for line in page.read_text().splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert bars is None or cells in (None, bars), line
        cells = bars


# ---- troubleshooting ----

# What has three words and is no sentence for a person who looks for help: SQL, Lua, JSON, what metrics say of
# themselves (with a full stop), lists of words, help texts (which the manual has), status lines of HTTP.
NO_SENTENCE = re.compile(
    r"\b(FROM contents|cid IN|CHARSET|SET SESSION|SET NAMES|content_level|update_time|TIMESTAMPDIFF|character_set|information_schema|ORDER BY|SELECT|UPDATE|INSERT|INTERVAL|COALESCE|redis\.call|math\.floor|string\.(?:format|sub)|local \w+|then return|READY=1)\b| \.\. |"
    r"^ AND |\(cid = |^\s*(return|if|for|end|else|event|watch|due)\b|^'\)|^[A-Z][A-Za-z-]+: |GMT$|<[a-z!/]|^text/|^ .* $|\.$|"
    r'^", |^, "|^{"(status|cid)|^ *\'\w+\', \'')
ALSO_NOT = {"Method Not Allowed", "Content Too Large", "URI Too Long", "Unsupported Media Type", "Misdirected Request",
            "Request Header Fields Too Large", "Internal Server Error", "HTTP Version Not Supported"}


def literals(path):
    """The string literals of a C file, adjacent ones joined, without those of #include and comments."""
    text = re.sub(r"/\*.*?\*/", " ", path.read_text(), flags=re.S)
    text = re.sub(r"^#\s*include.*$", "", text, flags=re.M)
    one = r'"(?:[^"\\\n]|\\.)*"'
    for match in re.finditer(rf"{one}(?:\s*(?:PRI\w+\s*)?{one})*", text):
        yield re.sub(r"PRI\w+", "", "".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', match.group())).replace('\\"', '"'))


def sentences():
    known = set(options().values()) | {tierd("--help").stdout}
    for path in sorted((ROOT / "src").rglob("*.c")):
        for text in literals(path):
            lines = len(re.findall(r"\\n", text))
            if len(text.split()) < 3 or lines > 1 or NO_SENTENCE.search(text) or text in ALSO_NOT:
                continue
            if any(text in about for about in known):
                continue
            yield path.name, re.sub(r'^{"error": "|"}$', "", text.replace("\\n", "")).strip()


def test_every_sentence_is_in_troubleshooting():
    """The fixed parts of each sentence stand in the page; what printf(3) fills in does not matter."""
    page = re.sub(r"\s+", " ", (ROOT / "init" / "doc" / "troubleshooting.md").read_text())
    missing = []
    for name, text in sentences():
        parts = [p.strip(" :;,()'\"") for p in re.split(r"%(?:\.\*|\.\d+|\d+)?(?:ll?|z|j|hh?)?[a-z]?%*", text)]
        if not all(p in page for p in parts if len(p.split()) > 1):
            missing.append(f"{name}: {text}")
    assert not missing, "\n" + "\n".join(missing)
