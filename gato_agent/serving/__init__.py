"""The policy server: an agent that acts for programs elsewhere, over websocket with msgpack frames.

Nothing is imported here: the client needs `wire` alone.
"""
