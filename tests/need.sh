#!/bin/sh
# What the tests need beyond Python packages: Debian's chromium, ffmpeg, PostgreSQL and nginx with its RTMP module,
# GStreamer's RTSP server (the camera).
# Installed by apt-get where we may; else says what to install and fails, for interop tests are never skipped.
set -eu
need=""
have() { command -v "$1" >/dev/null 2>&1; }
have chromium || need="$need chromium"
have ffmpeg || need="$need ffmpeg"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || need="$need postgresql"
[ -e /usr/lib/nginx/modules/ngx_rtmp_module.so ] || need="$need nginx libnginx-mod-rtmp"
ls /usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib >/dev/null 2>&1 || need="$need gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
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
