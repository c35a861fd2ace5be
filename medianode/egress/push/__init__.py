"""Simulcast: a room's programme sent on to targets by RTMP(S) and WHIP, each under a supervisor; a target is slow only to itself."""
