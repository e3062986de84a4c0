"""Codecs: bytes in, values out. No sockets, no clock, no event loop."""
