#!/usr/bin/perl
# Packs the scripts that Redis runs: pack.pl WHAT FOLDER HEADER...
#   calls.h     what C calls them by: enum queue_script
#   lua.h       LUA_SCRIPTS, the text of each as a C string
#   NAME.lua    the text of one as Redis gets it
#
# Each FOLDER/NAME.lua becomes the script QUEUE_NAME. In it
#   --@include PART    stands for FOLDER/part/PART.lua, once in a script, wherever it is asked for first
#   A_NAME             that a HEADER defines, as text or as whole numbers, stands for its value
# and comments, indentation and empty lines are left out: the hash by which Redis knows a script is that
# of its code alone.
use strict;
use warnings;

my ($what, $folder, @headers) = @ARGV;
my $WIDTH = 100; # of a line, as .clang-format has it

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or die "pack.pl: $path: $!\n";
    local $/;
    return scalar <$file>;
}

# What the headers give names to, as Lua would write it: "#define NAME value" and, in an enum, "NAME = value,".
# Several numbers are a list. What is to be reckoned first stands for nothing: Redis refuses a name that it does not know.
my %value;
for my $text (map { slurp($_) } @headers) {
    while ($text =~ /^(?:#define[ ]+([A-Z]\w*)[ ]+|[ ]+([A-Z]\w*)[ ]=[ ])("(?:[^"'\\]|\\.)*"|\d+(?:,[ ]\d+)*)(?=,?[ ]*(?:\/\*.*)?$)/mg) {
        my ($name, $value) = ($1 // $2, $3);
        $value =~ s/^"(.*)"$/'$1'/;
        $value{$name} = $value;
    }
}

my $token = qr{
    (?<long>    --\[=*\[ )                                                               |
    (?<comment> --[^\n]* )                                                               |
    (?<text>    '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" | \[(?<e>=*)\[.*?\]\k{e}\] )   |
    (?<name>    [A-Za-z_][A-Za-z0-9_]* )                                                 |
    (?<line>    [ ]*\n )                                                                 |
    (?<blanks>  [ ]+ )                                                                   |
    (?<other>   [^'"] )
}xs;

# The code of a file; `seen` holds the parts that the script has already.
sub code {
    my ($path, $seen) = @_;
    my ($in, $out) = (slurp($path), '');
    die "pack.pl: $path: a line of more than $WIDTH characters: $1\n" if $in =~ /^(.{$WIDTH}.+)$/m;
    while ($in =~ /\G$token/gc) {
        my %is = %+;
        my $at_start = $out eq '' || $out =~ /\n\z/;
        if (defined $is{long}) {
            die "pack.pl: $path: a long comment, which is not understood here\n";
        } elsif (($is{comment} // '') =~ /^--\@include (\w+)$/) {
            $out .= $seen->{$1}++ ? '' : code("$folder/part/$1.lua", $seen);
        } elsif (($is{comment} // '') =~ /^--\@/) {
            die "pack.pl: $path: '$is{comment}' is none of --\@include PART\n";
        } elsif (defined $is{comment}) {
            $out =~ s/[ ]+\z//;
        } elsif (defined $is{line} || defined $is{blanks}) {
            $out .= $is{blanks} // "\n" unless $at_start;
        } else {
            $out .= defined $is{name} ? $value{$is{name}} // $is{name} : $is{text} // $is{other};
        }
    }
    die "pack.pl: $path: a text without an end\n" if (pos($in) // 0) < length $in;
    die "pack.pl: $path: the last line has no end\n" if $in !~ /\n\z/;
    return $out;
}

sub text {
    my ($name) = @_;
    return code("$folder/$name.lua", {});
}

sub c_lines {
    my ($code) = @_;
    $code =~ s/(["\\])/\\$1/g;
    return map { "        \"$_\\n\" \\\n" } split /\n/, $code;
}

sub calls_h {
    return "/* made from $folder by pack.pl */\n#ifndef TIERD_QUEUE_CALLS_H\n#define TIERD_QUEUE_CALLS_H\n\n",
        "enum queue_script {\n", (map { "    QUEUE_\U$_,\n" } @_), "    QUEUE_SCRIPTS\n};\n\n#endif\n";
}

sub lua_h {
    return "/* made from $folder by pack.pl */\n#define LUA_SCRIPTS { \\\n",
        (map { ("    [QUEUE_\U$_\E] = \\\n", c_lines(text($_)), "        \"\", \\\n") } @_), "}\n";
}

my @names = map { m{([^/]+)\.lua$} } sort glob "$folder/*.lua";
die "pack.pl: no script in $folder\n" unless @names;
my %make = ('calls.h' => \&calls_h, 'lua.h' => \&lua_h, map { my $name = $_; ("$name.lua" => sub { text($name) }) } @names);
die "pack.pl: '$what' is not one of: " . join(' ', sort keys %make) . "\n" unless $make{$what};
print $make{$what}->(@names);
