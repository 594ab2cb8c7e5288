"""HTTP to the masters: the protocol and the retry policy without I/O, and one transport each for threads and for asyncio."""
