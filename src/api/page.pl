#!/usr/bin/perl
# Turns the page into a C array, with a Content-Security-Policy that allows its one style and its one
# script by their hashes and nothing else: page.pl page.html > page.h
use strict;
use warnings;
use Digest::SHA qw(sha256_base64);

local $/;
my $html = <>;
my %hash;
for my $tag (qw(style script)) {
    my @found = $html =~ m{<$tag>(.*?)</$tag>}gs;
    die "page.pl: the page has " . @found . " <$tag>, not one\n" unless @found == 1;
    my $sum = sha256_base64($found[0]);
    $sum .= '=' while length($sum) % 4;
    $hash{$tag} = "'sha256-$sum'";
}
my $policy = "default-src 'none'; style-src $hash{style}; script-src $hash{script}; connect-src 'self'; "
    . "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
my $bytes = join ',', unpack 'C*', $html;
$bytes =~ s/(.{1,110},)/$1\n/g;
print "/* made from page.html by page.pl */\n#define PAGE_POLICY \"$policy\"\n",
    "static const unsigned char page_html[] = {\n$bytes};\nenum { page_html_len = sizeof page_html };\n";
