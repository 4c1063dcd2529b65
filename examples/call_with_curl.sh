#!/bin/sh
# Calls the server that holds a key:
#
#   sh examples/call_with_curl.sh PUBLIC_KEY https://203.0.113.7:8443/
#
# PUBLIC_KEY is the registered key of the hotkey, 64 hexadecimal digits, as Pylon gives it.
# The pair of `nexus-auth generate` is in ./certs.
#
# curl checks the key after the handshake. So a server that holds another key gets no byte of the
# request, but it has seen the caller's certificate by then, and knows which hotkey called.
set -eu

# The fingerprint of an Ed25519 key: SHA-256 over its SubjectPublicKeyInfo (RFC 7469, RFC 8410).
fingerprint=$(printf '302a300506032b6570032100%s' "$1" | xxd -r -p | openssl dgst -sha256 -binary |
    openssl base64 -A)

# --disable    ignore ~/.curlrc, which could follow redirects or switch the check off
# --insecure   ask no authority: the key alone counts, and it is checked all the same
# --tlsv1.3    in older versions the caller's certificate is not encrypted
# --noproxy    take no proxy from the environment
exec curl --disable --silent --show-error \
    --pinnedpubkey "sha256//$fingerprint" --insecure --tlsv1.3 --noproxy '*' \
    --cert ./certs/client.crt --key ./certs/client.key "$2"
