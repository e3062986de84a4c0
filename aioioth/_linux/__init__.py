"""The kernel's interface: ioctls and constants. Knows no asyncio."""
