"""Servers for test and small networks, on a stack: DHCP, router advertisements, DNS."""
