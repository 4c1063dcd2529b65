#!/bin/sh
# Makes a self-signed server certificate for local development, if there is none.
set -eu

directory=${SSL_DIR:-/etc/nginx/ssl}
certificate=$directory/nginx.crt
key=$directory/nginx.key

if [ -f "$certificate" ] && [ -f "$key" ]; then
    echo "Certificates already exist. Skipping generation."
    exit 0
fi

if ! command -v openssl >/dev/null 2>&1; then
    echo "OpenSSL not found. Installing it..."
    if command -v apk >/dev/null 2>&1; then
        apk --no-cache add openssl
    else
        apt-get update -qq && apt-get install -qq --yes --no-install-recommends openssl
    fi
fi

echo "Generating a self-signed certificate..."
mkdir -p "$directory"
# No other user may read the key, not even for a moment.
umask 077
# Both files are written under other names and then renamed, so that half a pair never remains.
trap 'rm -f "$key.new" "$certificate.new"' EXIT
openssl req -x509 -noenc -days 365 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
    -keyout "$key.new" -out "$certificate.new" \
    -subj "/CN=localhost" -addext "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
mv "$key.new" "$key"
mv "$certificate.new" "$certificate"
echo "Self-signed certificate generated successfully."
