"""FastPix's live streams (contracts 3) as its SDKs call them: `/v1/live/streams…`, also without `/v1`, `/v1/iam/signing-keys`, and of
`/v1/on-demand` what is left of live streams."""

from __future__ import annotations

from medianode.api.fastpix.media import Media
from medianode.api.fastpix.playback import PlaybackIds
from medianode.api.fastpix.shapes import Desk
from medianode.api.fastpix.signing_keys import SigningKeys
from medianode.api.fastpix.simulcast import Simulcast
from medianode.api.fastpix.streams import Streams
from medianode.api.live import Live
from medianode.api.router import AnyRoute
from medianode.api.urls import Ports
from medianode.control.assets import Assets
from medianode.control.live_streams import LiveStreams
from medianode.control.projects import Projects
from medianode.control.recordings import Recordings
from medianode.control.signing_keys import SigningKeys as UseCases
from medianode.control.targets import Targets
from medianode.origin import Origin


class FastPix:
    def __init__(
        self,
        projects: Projects,
        streams: LiveStreams,
        keys: UseCases,
        live: Live,
        origin: Origin,
        ports: Ports,
        targets: Targets,
        assets: Assets,
        recordings: Recordings,
    ) -> None:
        desk = Desk(projects, live, origin, ports)
        self.routes: list[AnyRoute] = [
            *Streams(desk, streams, assets).routes,
            *Media(desk, assets, recordings).routes,
            *PlaybackIds(desk, streams).routes,
            *SigningKeys(desk, keys).routes,
            *Simulcast(desk, streams, targets).routes,
        ]
