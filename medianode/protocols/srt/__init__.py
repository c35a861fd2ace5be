"""SRT, sans-IO (draft-sharabayko-srt-01): packets, the handshake of version 5 from both sides, and the receiving half of a connection.

Sending media is not here: the house receives by SRT only. Ciphers are handed in (`keys.Ciphers`), for this floor knows no library.
"""
