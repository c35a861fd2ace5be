"""multipart/x-mixed-replace, as cameras and browsers speak it for motion JPEG: each part replaces the one before (RFC 2046 5.1)."""

from __future__ import annotations

BOUNDARY = "frame"
CONTENT_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"


def jpeg_part(data: bytes) -> bytes:
    """One whole part: delimiter, headers, blank line, `data` as it is, CRLF. What follows on the wire is the next part."""
    return b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (BOUNDARY.encode(), len(data), data)
