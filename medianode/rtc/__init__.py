"""WebRTC: one UDP socket and one TCP port for all peers, ICE-lite, DTLS-SRTP, fan-out. The only home of aiortc and libsrtp."""
