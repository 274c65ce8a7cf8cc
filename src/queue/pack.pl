#!/usr/bin/perl
# Packs the scripts that Redis runs into C headers:
#   pack.pl calls.h FOLDER HEADER...   what C calls them by: enum queue_script
#   pack.pl lua.h FOLDER HEADER...     LUA_SCRIPTS, the text of each
#
# Each FOLDER/NAME.lua becomes the script QUEUE_NAME. In it
#   --@include PART    stands for FOLDER/part/PART.lua, once in a script, wherever it is asked for first
#   A_NAME             that a HEADER defines, as text or as a whole number, stands for its value
# and comments are left out: the hash by which Redis knows a script is that of its code.
use strict;
use warnings;

my ($what, $folder, @headers) = @ARGV;

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or die "pack.pl: $path: $!\n";
    local $/;
    return scalar <$file>;
}

# What the headers give names to, as Lua would write it: "#define NAME value" and, in an enum, "NAME = value,".
my %value;
for my $text (map { slurp($_) } @headers) {
    while ($text =~ /^(?:#define[ ]+|[ ]+)([A-Z][A-Z0-9_]*)(?:[ ]+|[ ]=[ ])("(?:[^"\\]|\\.)*"|\d+)/mg) {
        my ($name, $value) = ($1, $2);
        $value =~ s/^"(.*)"$/'$1'/;
        $value{$name} = $value;
    }
}

my $token = qr{
    (?<long>    [ ]*--\[=*\[ )                          |
    (?<comment> [ ]*--[^\n]* )                          |
    (?<text>    '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" | \[(?<e>=*)\[.*?\]\k{e}\] ) |
    (?<name>    [A-Za-z_][A-Za-z0-9_]* )                |
    (?<other>   [ ]+ | [^'"] )
}xs;

# The code of a file; `seen` holds the parts that the script has already.
sub code {
    my ($path, $seen) = @_;
    my ($in, $out) = (slurp($path), '');
    while ($in =~ /\G$token/gc) {
        my %is = %+;
        die "pack.pl: $path: a long comment, which is not understood here\n" if defined $is{long};
        if (!defined $is{comment}) {
            $out .= defined $is{name} ? $value{$is{name}} // $is{name} : $is{text} // $is{other};
        } elsif ($is{comment} =~ /^--\@include (\w+)$/) {
            $out .= $seen->{$1}++ ? '' : code("$folder/part/$1.lua", $seen);
            $in =~ /\G\n/gc;
        } elsif ($out eq '' || $out =~ /\n\z/) {
            $in =~ /\G\n/gc; # the line held nothing else
        }
    }
    die "pack.pl: $path: a text without an end\n" if (pos($in) // 0) < length $in;
    return $out;
}

sub c_lines {
    my ($code) = @_;
    $code =~ s/(["\\])/\\$1/g;
    return join "", map { "        \"$_\\n\" \\\n" } split /\n/, $code;
}

sub calls_h {
    return "#ifndef TIERD_QUEUE_CALLS_H\n#define TIERD_QUEUE_CALLS_H\n\nenum queue_script {\n",
        (map { "    QUEUE_\U$_,\n" } @_), "    QUEUE_SCRIPTS\n};\n\n#endif\n";
}

sub lua_h {
    return "#define LUA_SCRIPTS { \\\n",
        (map { "    [QUEUE_\U$_\E] = \\\n" . c_lines(code("$folder/$_.lua", {})) . "        \"\", \\\n" } @_), "}\n";
}

my @names = map { m{([^/]+)\.lua$} } sort glob "$folder/*.lua";
die "pack.pl: no script in $folder\n" unless @names;
my %make = ('calls.h' => \&calls_h, 'lua.h' => \&lua_h);
print "/* made from $folder by pack.pl */\n", $make{$what}->(@names);
