"""HLS out: LL-HLS by default (CMAF parts, blocking reload, preload hints, delta playlists), MPEG-TS on demand, a DVR window on disk.

Room -> Packager (packets into parts and segments) -> Window (what can be fetched) -> Playlist (rendered once, waited for)
     -> HlsService (rooms, variants, viewers, HTTP)
"""

from medianode.egress.hls.service import HlsService

__all__ = ["HlsService"]
