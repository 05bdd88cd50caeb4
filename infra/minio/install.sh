#!/bin/sh
# Build the MinIO server that the tests talk to, and print where it is.
#
# It goes to ${XDG_CACHE_HOME:-$HOME/.cache}/seerdb/bin/minio, outside the checkout; once it is
# there, nothing is done. Needs Go 1.24 or later, the Go module proxy, and a few minutes.
# MinIO is a separate program under the AGPL: the tests start it, nothing of ours contains it.
set -eu

# Its tags are dates, which Go modules do not know as versions; this is the commit's name there.
VERSION=v0.0.0-20260212201848-7aac2a2c5b7c
BIN="${XDG_CACHE_HOME:-$HOME/.cache}/seerdb/bin"

if [ -x "$BIN/minio" ]; then
    echo "$BIN/minio"
    exit 0
fi
if ! command -v go >/dev/null; then
    echo "MinIO cannot be built: there is no 'go' on the PATH (install Go 1.24 or later)" >&2
    exit 1
fi

mkdir -p "$BIN"
build="$(mktemp -d "$BIN/.build-XXXXXX")"
trap 'rm -rf "$build"' EXIT
echo "building MinIO $VERSION, once; this takes a few minutes" >&2
if ! GOBIN="$build" GOFLAGS=-trimpath CGO_ENABLED=0 \
    nice go install -ldflags "-s -w" "github.com/minio/minio@$VERSION" >&2; then
    echo "MinIO $VERSION cannot be built: see the messages of Go above" >&2
    exit 1
fi
mv "$build/minio" "$BIN/minio"
echo "$BIN/minio"
