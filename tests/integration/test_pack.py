"""src/queue/pack.pl: what Redis gets of a script is its code alone, and nothing in a text is taken for a comment."""
import subprocess

import pytest
from harness.servers import ROOT

HEADER = r"""
#define KEY_DUE "tierd:due"
#define GATE    "@a\n" /* with a reason */
#define MANY 1, 20
#define DAY_S (24 * 3600)
#define TWICE 2 * 1024
#define HEX 0x10
enum {
    MOST = 32, /* likewise: NOT = 1 */
    PRODUCT = 4 * 1024,
};
"""


@pytest.fixture
def pack(tmp_path):
    """pack(script, name=part...) -> the text that Redis gets, or what is said of the script."""
    def run(script, what="it.lua", **parts):
        (tmp_path / "part").mkdir(exist_ok=True)
        (tmp_path / "it.lua").write_text(script)
        (tmp_path / "keys.h").write_text(HEADER)
        for name, text in parts.items():
            (tmp_path / "part" / f"{name}.lua").write_text(text)
        done = subprocess.run(["perl", ROOT / "src/queue/pack.pl", what, tmp_path, tmp_path / "keys.h"],
                              capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else done.stderr
    return run


def test_comments_and_indentation_are_no_code(pack):
    assert pack("""-- a head
--
local a = 1 -- why

if a then
  -- of the next line
    return a   -- -- 'twice'
end
""") == "local a = 1\nif a then\nreturn a\nend\n"


@pytest.mark.parametrize("text", ["'-- no comment'", '"--[[ nor this"', r"'it\'s -- so'", "'\"' .. '-- x'", "[[ --@include x\n   -- in\n  here ]]",
                                  "[==[ ]] -- it goes on\n ]==]", "'KEY_DUE'", "a - -b", "'  two  '"])
def test_what_stands_in_a_text_stays(pack, text):
    assert pack(f"  return {text} -- and a comment\n") == f"return {text}\n"


def test_names_of_the_headers_stand_for_their_values(pack):
    assert pack("return KEY_DUE .. GATE, MOST, {MANY}, KEYS[1], Most, 'MOST'\n") == \
        "return 'tierd:due' .. '@a\\n', 32, {1, 20}, KEYS[1], Most, 'MOST'\n"
    assert pack("return MOST_TEXT\n") == "return '32'\n"
    assert "no header and no list has the name NOT" in pack("return NOT\n")


@pytest.mark.parametrize("name", ["DAY_S", "TWICE", "HEX", "PRODUCT"])
def test_of_a_value_that_is_reckoned_no_part_is_taken(pack, name):
    assert f"no header and no list has the name {name}" in pack(f"return {name}\n")


def test_a_part_comes_once_and_before_its_first_use(pack):
    parts = {"a": "--@include b\nlocal a = b\n", "b": "-- of b\nlocal b = MOST\n"}
    assert pack("--@include a\n--@include b\nreturn a + b\n", **parts) == "local b = 32\nlocal a = b\nreturn a + b\n"


@pytest.mark.parametrize("script,said", [
    ("--@include gone\n", "part/gone.lua: No such file"), ("--@inclde watch\n", "'--@inclde' is none of"), ("--@arg\n", "'--@arg'?"),
    ("--@place it a\n", "a place is LIST name"),
    ("--[[ long ]]\n", "a long comment"), ("return 'x\n", "a text without an end"), ("return 1", "the last line has no end"),
    ("local " + "a" * 95 + "\n", "a line of more than 100")])
def test_what_it_does_not_understand_is_refused(pack, script, said):
    assert said in pack(script)


def test_the_texts_are_c_strings(pack):
    got = pack('return "\\n", [[\n"]]\n', what="lua.h")
    assert '    [QUEUE_IT] = \\\n        "return \\"\\\\n\\", [[\\n" \\\n        "\\"]]\\n" \\\n' in got


def test_arguments_have_the_same_name_in_lua_and_c(pack):
    script, part = "--@include who\n--@arg lease_ms   how long\n--@rest more\nreturn worker\n", "--@arg worker\n"
    assert pack(script, who=part) == "local worker = ARGV[1]\nlocal lease_ms = ARGV[2]\nlocal more = {unpack(ARGV, 3)}\nreturn worker\n"
    got = pack(script, what="calls.h", who=part).replace("\n    ", " ")
    assert "enum { ARG_IT_WORKER, ARG_IT_LEASE_MS, ARGS_IT, ARG_IT_MORE = ARGS_IT,\n};" in got
    assert "enum { ARG_WHO_WORKER, ARGS_WHO,\n};" in got
    assert "the argument worker of a part comes too late" in pack("--@arg first\n--@include who\n", who=part)


def test_places_have_the_same_name_in_lua_and_c(pack):
    script = "--@place PAIR left   of the two\n--@place PAIR right\nreturn {[PAIR_RIGHT] = 1, [PAIR_LEFT] = PAIR_PLACES}\n"
    assert pack(script) == "return {[2] = 1, [1] = 2}\n"
    assert "enum { PAIR_LEFT, PAIR_RIGHT, PAIR_PLACES,\n};" in pack(script, what="calls.h").replace("\n    ", " ")
    assert "PAIR has its places in" in pack(script, other="--@place PAIR middle\n")
