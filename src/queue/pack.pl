#!/usr/bin/perl
# Packs the scripts that Redis runs: pack.pl WHAT FOLDER HEADER...
#   calls.h     what C calls them by: enum queue_script, and where their arguments and answers are
#   lua.h       LUA_SCRIPTS, the text of each as a C string
#   NAME.lua    the text of one as Redis gets it
#
# Each FOLDER/NAME.lua becomes the script QUEUE_NAME. In it
#   --@include PART    stands for FOLDER/part/PART.lua, once in a script, wherever it is asked for first
#   --@arg name        is the next of ARGV, and a local of that name; in C the number ARG_SCRIPT_NAME of
#                      ARGS_SCRIPT. Those of a part come before the script's own, in each script alike
#   --@rest name       is what ARGV has behind these
#   --@place LIST name gives the next place of a list, in Lua and C, that name: LIST_NAME of LIST_PLACES
#   A_NAME             that a HEADER defines, as text or as whole numbers, stands for its value, and
#   A_NAME_TEXT        for a number as text, as which a command takes it faster
# (what follows a name on its line says what it means). Comments, indentation and empty lines are
# left out: the hash by which Redis knows a script is that of its code alone.
use strict;
use warnings FATAL => 'all';

my ($what, $folder, @headers) = @ARGV;
my $WIDTH = 100; # of a line, as .clang-format has it

sub slurp {
    my ($path) = @_;
    open my $file, '<', $path or die "pack.pl: $path: $!\n";
    local $/;
    return scalar <$file>;
}

# What the headers give names to, as Lua would write it: "#define NAME value" and, in an enum, "NAME = value,".
# Several numbers are a list. What is to be reckoned first is none: a script that names it is refused.
my %value;
for my $text (map { slurp($_) } @headers) {
    while ($text =~ /^(?:#define[ ]+([A-Z]\w*)[ ]+|[ ]+([A-Z]\w*)[ ]=[ ])("(?:[^"'\\]|\\.)*"|\d+(?:,[ ]\d+)*)(?=,?[ ]*(?:\/\*.*)?$)/mg) {
        my ($name, $value) = ($1 // $2, $3);
        $value =~ s/^"(.*)"$/'$1'/;
        $value{$name} = $value;
    }
}

# The lists: those places that have a name, in order.
my (%list, %listed_in);
for my $path (sort(glob "$folder/*.lua"), sort(glob "$folder/part/*.lua")) {
    for my $line (slurp($path) =~ /^--\@place (.*)$/mg) {
        my ($list, $name) = $line =~ /^([A-Z]\w*) ([a-z]\w*)/ or die "pack.pl: $path: a place is LIST name: '$line'\n";
        die "pack.pl: $path: $list has its places in $listed_in{$list}\n" if ($listed_in{$list} //= $path) ne $path;
        push @{$list{$list}}, $name;
        $value{"${list}_\U$name"} = $value{"${list}_PLACES"} = @{$list{$list}};
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

# What a word of a script stands for: names in capitals are those of the headers and lists, and Redis' own.
sub named {
    my ($path, $name) = @_;
    return $name if $name !~ /^[A-Z][A-Z0-9_]+$/ || $name eq 'KEYS' || $name eq 'ARGV';
    return $value{$name} if defined $value{$name};
    my ($number) = $name =~ /^(.*)_TEXT$/;
    return "'$value{$number}'" if defined $number && ($value{$number} // '') =~ /^\d+$/;
    die "pack.pl: $path: no header and no list has the name $name\n";
}

# A line that is for us: what it stands for. `own` counts the arguments that the file itself names.
sub directive {
    my ($path, $script, $own, $line) = @_;
    my ($verb, $name) = $line =~ /^--\@(\w+) (\w+)/ or die "pack.pl: $path: '$line'?\n";
    if ($verb eq 'include') {
        return $script->{parts}{$name}++ ? '' : code("$folder/part/$name.lua", $script);
    } elsif ($verb eq 'place') {
        return '';
    } elsif ($verb eq 'arg') {
        push @{$script->{args}}, $name;
        my $n = @{$script->{args}};
        die "pack.pl: $path: the argument $name of a part comes too late\n" if ++$$own != $n && $path =~ m{/part/};
        return "local $name = ARGV[$n]\n";
    } elsif ($verb eq 'rest') {
        $script->{rest} = $name;
        return "local $name = {unpack(ARGV, " . (@{$script->{args}} + 1) . ")}\n";
    }
    die "pack.pl: $path: '--\@$verb' is none of include, arg, rest, place\n";
}

# The code of a file that belongs to a script: {parts it has already, args, rest}.
sub code {
    my ($path, $script) = @_;
    my $own = 0;
    my ($in, $out) = (slurp($path), '');
    die "pack.pl: $path: a line of more than $WIDTH characters: $1\n" if $in =~ /^(.{$WIDTH}.+)$/m;
    while ($in =~ /\G$token/gc) {
        my %is = %+;
        my $at_start = $out eq '' || $out =~ /\n\z/;
        if (defined $is{long}) {
            die "pack.pl: $path: a long comment, which is not understood here\n";
        } elsif (($is{comment} // '') =~ /^--\@/) {
            $out .= directive($path, $script, \$own, $is{comment});
        } elsif (defined $is{comment}) {
            $out =~ s/[ ]+\z//;
        } elsif (defined $is{line} || defined $is{blanks}) {
            $out .= $is{blanks} // "\n" unless $at_start;
        } else {
            $out .= defined $is{name} ? named($path, $is{name}) : $is{text} // $is{other};
        }
    }
    die "pack.pl: $path: a text without an end\n" if (pos($in) // 0) < length $in;
    die "pack.pl: $path: the last line has no end\n" if $in !~ /\n\z/;
    return $out;
}

sub text {
    my ($name) = @_;
    return code("$folder/$name.lua", {args => []});
}

sub enum {
    return ("enum {\n", (map { "    \U$_,\n" } @_), "};\n");
}

# The numbers of a script's arguments, or of those that a part names.
sub args {
    my ($name, $path) = @_;
    my $script = {args => []};
    code($path, $script);
    my @args = map { "ARG_${name}_$_" } @{$script->{args}};
    return @args || $script->{rest} ? enum(@args, "ARGS_$name", $script->{rest} ? "ARG_${name}_$script->{rest} = ARGS_$name" : ())
        : ();
}

sub c_lines {
    my ($code) = @_;
    $code =~ s/(["\\])/\\$1/g;
    return map { "        \"$_\\n\" \\\n" } split /\n/, $code;
}

sub calls_h {
    return "/* made from $folder by pack.pl */\n#ifndef TIERD_QUEUE_CALLS_H\n#define TIERD_QUEUE_CALLS_H\n\n",
        "enum queue_script {\n", (map { "    QUEUE_\U$_,\n" } @_), "    QUEUE_SCRIPTS\n};\n",
        (map { args($_, "$folder/$_.lua") } @_),
        (map { args(m{([^/]+)\.lua$}, $_) } grep { slurp($_) =~ /^--\@arg /m } sort glob "$folder/part/*.lua"),
        (map { my $list = $_; enum((map { "${list}_$_" } @{$list{$list}}), "${list}_PLACES") } sort keys %list),
        "\n#endif\n";
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
