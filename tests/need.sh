#!/bin/sh
# What the tests need beyond Python packages: Debian's chromium, ffmpeg, PostgreSQL and nginx with its RTMP module.
# Installed by apt-get where we may; else says what to install and fails, for interop tests are never skipped.
set -eu
need=""
have() { command -v "$1" >/dev/null 2>&1; }
have chromium || need="$need chromium"
have ffmpeg || need="$need ffmpeg"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need="$need postgresql"
[ -e /usr/lib/nginx/modules/ngx_rtmp_module.so ] || need="$need nginx libnginx-mod-rtmp"
have npm || need="$need npm"
[ -n "$need" ] || exit 0
if [ "$(id -u)" = 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $need fonts-dejavu-core >/dev/null
else
  echo "the tests need Debian packages:$need" >&2
  echo "  sudo apt-get install$need" >&2
  exit 1
fi
