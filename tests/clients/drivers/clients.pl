# Clients of Perl: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
use strict;
use warnings;
use JSON::PP;
use HTTP::Request::Common ();
use LWP::UserAgent;

my ($client, $operation, $url, $file) = @ARGV;
my $agent = LWP::UserAgent->new;
# 'lwp' as it is; 'lwp-follow' as its documentation says for who wants PUT to follow.
push @{ $agent->requests_redirectable }, 'PUT' if $client ne 'lwp';

sub opened {
    open my $source, '<:raw', $file or die "$file: $!";
    return $source;
}

my $answer;
if ($operation eq 'get') {
    $answer = $agent->get($url, ':content_file' => $file);
} elsif ($operation eq 'head') {
    $answer = $agent->head($url);
} elsif ($operation eq 'form') {
    my $request = HTTP::Request::Common::POST($url, Content_Type => 'form-data', Content => [file => [$file]]);
    $request->method('PUT');
    $answer = $agent->request($request);
} else {
    my $source = opened();
    my $content;
    my @headers = ('Content-Type' => 'application/octet-stream');
    if ($operation eq 'put' && $client ne 'lwp-callback') {
        local $/;
        $content = <$source>;
    } else {
        push @headers, 'Content-Length' => -s $file if $operation eq 'put';
        $content = sub { read $source, my $block, 65536; return $block };
    }
    $answer = $agent->request(HTTP::Request->new(PUT => $url, \@headers, $content));
}

my $own = ($answer->header('Client-Warning') // '') eq 'Internal response'; # then there was none
my $said = $operation eq 'get' && !$own ? '' : $answer->decoded_content;
$said = $answer->header('Content-Length') . '' if $operation eq 'head' && !$own;
print JSON::PP->new->ascii->encode({ status => $own ? undef : $answer->code + 0, said => $said }), "\n";
